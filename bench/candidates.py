"""What a run measures: checkpoints, networks with random weights, and files as they are.

All of them have the same classes, so that one score compares them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.record import Subject
from bench.record.private import Names
from dabnet import __version__
from dabnet.artifact import CHECKPOINT, DEFAULT_SIZE, ENGINE, ONNX, Artifact
from dabnet.checkpoint import Checkpoint, carries_its_own, load_checkpoint, save_checkpoint
from dabnet.data.labels import NO_LABELS, LabelSet
from dabnet.data.registry import DATASETS, DRAWN, label_set
from dabnet.errors import DabnetError, InputError
from dabnet.files import sha256_of_file
from dabnet.given import Given
from dabnet.models import build_model, network_named
from dabnet.runtime.description import Description
from dabnet.runtime.manifest import DYNAMIC, Manifest, NoManifest

if TYPE_CHECKING:
    from torch import nn

Size = tuple[int, int]

UNKNOWN = "unknown"


class Asked(NamedTuple):
    """What the user names.

    Attributes:
        files: checkpoints, ONNX files and engines.
        onnx: files that are ONNX files.
        networks: of the registry, with random weights.
        given: of checkpoints and ONNX files that do not say it.
        sizes: (height, width) of the images, in pixels.
        trust: whether an engine is loaded also without a manifest that has its hash.
    """

    files: Sequence[Path]
    onnx: Sequence[Path]
    networks: Sequence[str]
    given: Given
    sizes: Sequence[Size]
    trust: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subject of the record, and what it takes to prepare its rows.

    Attributes:
        path: its file; of a network with random weights the one that ``drawn`` writes.
        labels: its classes.
        given: what its file does not say.
        manifest: of an ONNX file or an engine, which is measured as it is; None of a network.
        trust: whether an engine is loaded also without a manifest that has its hash.
        trained_on: each ``DATASET SPLIT`` that it is known to have trained on.
    """

    subject: Subject
    path: Path
    labels: LabelSet
    given: Given = field(default_factory=Given)
    manifest: Manifest | None = None
    trust: bool = False
    trained_on: tuple[str, ...] = ()

    def rows(self, names: Sequence[str]) -> Sequence[str]:
        """Backend and variant of each row: ``names`` of a network, the one of a file."""
        if self.manifest is None:
            return names
        return (("tensorrt" if _kind(self.path) == ENGINE else "onnxruntime") + "-file",)

    def drawn(self, cache: Path, dataset: str) -> Candidate:
        """Draw the weights of a network, and keep them: a stopped run continues with them.

        Args:
            dataset: whose images calibrate it.
        """
        subject = self.subject
        text = f"{subject.model} {self.labels} {dataset} {__version__}"
        path = cache / f"untrained-{subject.model}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        path = path.with_name(f"{path.name}.pth")
        try:
            load_checkpoint(path)
        except DabnetError:  # none yet, or damaged
            save_checkpoint(_random_checkpoint(subject.model, self.labels, dataset), path)
        subject = replace(subject, file=path.name, sha256=sha256_of_file(path))
        return replace(self, subject=subject, path=path)


def candidates(asked: Asked) -> tuple[Candidate, ...]:
    """Read all that is named; nothing is written.

    Raises:
        InputError: a file or a network is named twice, a network is unknown or cannot take a size,
            two classes differ, a file that is no ONNX file is named as one, or something is said
            that no file lacks.
        ArtifactError: a file is damaged, or its tensors are no image and mask; ``NoManifest`` asks
            for what an ONNX file does not say.
    """
    files = (*asked.files, *asked.onnx)
    artifacts = [Artifact.open(path, trust=asked.trust) for path in files]
    for artifact in artifacts[len(asked.files) :]:
        if artifact.kind != ONNX:
            no_onnx = f"--onnx {str(artifact.path)!r}, which is no ONNX file"
            raise InputError(no_onnx, "a file of the suffix .onnx", "name it without --onnx")
    _refuse_twice(asked, artifacts)
    for name in asked.networks:
        network_named(name)
    measured = [artifact for artifact in artifacts if artifact.kind != CHECKPOINT]
    manifests = {artifact.path: _carried(artifact) for artifact in measured}
    given = _given(asked, [a.path for a in artifacts if a.kind == CHECKPOINT], manifests)
    checkpoints = {path: load_checkpoint(path, said) for path, said in given.items()}
    labels = _labels(asked, [*checkpoints.values()], [m for m in manifests.values() if m])
    found = []
    for artifact in artifacts:
        path, checkpoint = artifact.path, checkpoints.get(artifact.path)
        if checkpoint is not None:
            found.append(_of_checkpoint(path, checkpoint, given[path], asked.sizes))
        else:
            manifest = manifests[path] or _described(artifact, asked, labels, len(measured) == 1)
            found.append(_of_file(artifact, manifest, asked.sizes))
    found += [_of_network(name, labels, asked.sizes) for name in asked.networks]
    _refuse_other_classes(found)
    return _labelled(found)


def default_size(files: Sequence[Path], trust: bool = False) -> Size:
    """Return the size of the first ONNX file or engine of ours, else the usual one."""
    for path in files:
        if manifest := _carried(Artifact.open(path, trust=trust)):
            return manifest.size
    return DEFAULT_SIZE


def dataset_of(found: Sequence[Candidate], given: Given) -> str:
    """Name of the data set to score: the given one, or the first that a candidate was trained on.

    Raises:
        InputError: nothing tells it.
    """
    trained = (c.subject.dataset for c in found if c.subject.dataset in DATASETS)
    if name := given.labels_from or next(trained, ""):
        return name
    if all(candidate.subject.untrained for candidate in found):
        return DRAWN
    given_name = repr(str(found[0].path))
    raise InputError(f"{given_name} does not say its data set", "its name", "add --dataset NAME")


def _refuse_twice(asked: Asked, artifacts: Sequence[Artifact]) -> None:
    seen: dict[str, Path] = {}
    for artifact in artifacts:
        other = seen.setdefault(sha256_of_file(artifact.path), artifact.path)
        if other is not artifact.path:
            same = f"{str(other)!r} and {str(artifact.path)!r} are the same file"
            raise InputError(same, "each once", "leave one of them out")
    for name in asked.networks:
        if asked.networks.count(name) > 1:
            raise InputError(f"--model {name} twice", "each network once")


def _given(
    asked: Asked, checkpoints: Sequence[Path], manifests: Mapping[Path, Manifest | None]
) -> dict[Path, Given]:
    """What is said of each checkpoint: of ours nothing, where it is said of other files.

    A preprocessing is that of ONNX files, where there are any that do not say it.
    """
    of_files = None in manifests.values()
    own = [path for path in checkpoints if carries_its_own(path)]
    if len(own) == len(checkpoints):
        _refuse_unread(asked, ("mean", "scale") if of_files else ())
    said = replace(asked.given, mean=None, scale=None) if of_files else asked.given
    of_ours = Given() if of_files or len(own) < len(checkpoints) else said
    return {path: of_ours if path in own else said for path in checkpoints}


def _refuse_unread(asked: Asked, read: Sequence[str]) -> None:
    """Raise for what is said of no file: all but the images to score and ``read``."""
    known = {f"--{name}" for name in ("dataset", "classes", *read)}
    if unread := [name for name in asked.given.named() if name not in known]:
        first = next((repr(str(path)) for path in (*asked.files, *asked.onnx)), "a network")
        raise InputError(
            f"{', '.join(unread)} for {first}", "a file that does not say it", "leave it out"
        )


def _carried(artifact: Artifact) -> Manifest | None:
    """The manifest that a file carries; None of a file of another tool, and of a checkpoint."""
    try:
        return artifact.manifest
    except NoManifest:
        return None


def _labels(
    asked: Asked, checkpoints: Sequence[Checkpoint], manifests: Sequence[Manifest]
) -> LabelSet | None:
    """The classes of the run, from the first that says its own; None if nothing says them."""
    if checkpoints:
        return checkpoints[0].labels
    for manifest in manifests:
        return _labels_of(manifest)
    only_networks = not asked.files and not asked.onnx
    return asked.given.labels() or (label_set(DRAWN) if only_networks else None)


def _labels_of(manifest: Manifest) -> LabelSet:
    """The classes of a file; groups of classes are those of its data set."""
    own = LabelSet(manifest.classes, manifest.palette, manifest.ignore)
    with suppress(InputError):
        known = label_set(manifest.dataset)
        if known.classes == own.classes:
            return replace(own, categories=known.categories)
    return own


def _described(
    artifact: Artifact, asked: Asked, labels: LabelSet | None, is_only_file: bool
) -> Manifest:
    """The manifest of a file of another tool, from what is said of it and the run's classes."""
    preprocessing = asked.given.preprocessing()
    known = labels or NO_LABELS
    said = Description(
        known.classes,
        known.palette,
        preprocessing=preprocessing,
        ignore=known.ignore,
        takes_floats=is_only_file and preprocessing is not None,
    )
    for size in (None, asked.sizes[0]):  # the second for a file whose calls choose the size
        described = replace(artifact, description=replace(said, size=size))
        with suppress(NoManifest):
            if manifest := described.manifest:
                return manifest
    manifest = described.manifest
    assert manifest is not None
    return manifest


def _of_checkpoint(
    path: Path, checkpoint: Checkpoint, given: Given, sizes: Sequence[Size]
) -> Candidate:
    checkpoint.network()  # a fault of it is told once, and not by each of its rows
    parameters, multiply_adds = _work_of_network(
        checkpoint.model, len(checkpoint.labels.classes), checkpoint.dilations, sizes
    )
    subject = Subject(
        *("", checkpoint.model, path.name, sha256_of_file(path), checkpoint.dataset),
        *(parameters, multiply_adds),
    )
    seen = checkpoint.trained_on
    return Candidate(subject, path, checkpoint.labels, given, trained_on=seen)


def _of_network(name: str, labels: LabelSet | None, sizes: Sequence[Size]) -> Candidate:
    assert labels is not None  # some file says its classes, or there are networks alone
    work = _work_of_network(name, len(labels.classes), (), sizes)
    subject = Subject("", name, "", "", "", *work, untrained=True)
    return Candidate(subject, Path(), labels)


def _of_file(artifact: Artifact, manifest: Manifest, sizes: Sequence[Size]) -> Candidate:
    path, described = artifact.path, manifest.is_described
    work = _work_of_file(path, manifest, sizes) if artifact.kind == ONNX else (None, {})
    subject = Subject(
        *("", UNKNOWN if described else manifest.model, path.name, sha256_of_file(path)),
        *("" if described else manifest.dataset, *work),
    )
    return Candidate(
        *(subject, path, _labels_of(manifest)),
        manifest=manifest,
        trust=artifact.trust,
        trained_on=manifest.trained_on,
    )


def _work_of_network(
    model: str, classes: int, dilations: Sequence[int], sizes: Sequence[Size]
) -> tuple[int, dict[str, int]]:
    """Parameters, and multiply-adds per image by size; nothing is computed (device ``meta``).

    Counted are convolutions and matrix products, as in the graph of an export.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    multiply_adds = {}
    with torch.device("meta"), torch.no_grad():
        network = build_model(model, classes, dilations).eval()
        for height, width in sizes:
            network_named(model).check_size(height, width)
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(1, 3, height, width))
            multiply_adds[f"{height}x{width}"] = counter.get_total_flops() // 2
    return sum(p.numel() for p in network.parameters()), multiply_adds


def _work_of_file(
    path: Path, manifest: Manifest, sizes: Sequence[Size]
) -> tuple[int, dict[str, int]]:
    """Parameters of its layers, and multiply-adds per image at the sizes that it takes."""
    from dabnet.graph.facts import inferred, layers_of
    from export.onnx_file import load_onnx

    model, multiply_adds = load_onnx(path), {}
    batch, *own = manifest.input.sides
    for size in sizes:
        if all(side in (DYNAMIC, asked) for side, asked in zip(own, size, strict=True)):
            layers = layers_of(inferred(model, (1, *size)).graph).values()
            counts = [layer.multiply_adds for layer in layers]
            if None not in counts:
                frames = max(1, batch)
                multiply_adds["{}x{}".format(*size)] = sum(filter(None, counts)) // frames
    parameters = sum(layer.parameters for layer in layers_of(inferred(model).graph).values())
    return parameters, multiply_adds


def _refuse_other_classes(found: Sequence[Candidate]) -> None:
    first = found[0]
    for other in found[1:]:
        ours, theirs = first.labels.classes, other.labels.classes
        if ours != theirs:
            differing = next((b for a, b in zip(ours, theirs, strict=False) if a != b), "")
            such = f", such as {differing!r}" if differing else ""
            raise InputError(
                f"{_named(other)} has {len(theirs)} classes{such}, and {_named(first)} other"
                f" {len(ours)}",
                "the same classes in the same order",
                "bench them in runs of their own",
            )


def _named(candidate: Candidate) -> str:
    subject = candidate.subject
    return f"--model {subject.model}" if subject.untrained else repr(str(candidate.path))


def _labelled(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Label each with the shortest of its names that no other has, too."""
    names = [[re.sub(r"[^\w.-]", "_", name) for name in _names(c)] for c in found]
    made = []
    for number, candidate in enumerate(found):
        others = {name for n, of in enumerate(names) if n != number for name in of}
        own = [name for name in names[number] if name not in others]
        label = own[0] if own else f"{names[number][-1]}-{number + 1}"
        made.append(replace(candidate, subject=replace(candidate.subject, label=label)))
    return tuple(made)


def _names(candidate: Candidate) -> Iterator[str]:
    """Names of a candidate, the shortest first."""
    subject, path = candidate.subject, candidate.path
    if candidate.manifest is None:
        yield subject.model
    if subject.untrained:
        yield f"{subject.model}-untrained"
    else:
        yield path.stem
        folder = path.resolve().parent.name
        private = folder in Names.of_this_machine().known
        yield path.stem if private else f"{folder}-{path.stem}"


def _kind(path: Path) -> str:
    return Artifact.open(path).kind


def _random_checkpoint(model: str, labels: LabelSet, dataset: str) -> Checkpoint:
    """A network with random weights.

    Its BatchNorms have the statistics of noise, so that activations are as large as those of a
    trained network: numbers close to zero would cost time.
    """
    import torch

    network: nn.Module
    preprocessing = network_named(model).training_preprocessing((127.5, 127.5, 127.5))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build_model(model, len(labels.classes))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the statistics of all images seen
        images = 255 * torch.rand(4, 3, 64, 128)
        mean, scale = (
            torch.tensor(values).view(3, 1, 1)
            for values in (preprocessing.mean_rgb, preprocessing.scale)
        )
        network.train()((images - mean) * scale)
    return Checkpoint(model, network.state_dict(), dataset, labels, preprocessing)
