"""Checkpoints: ours, and those published with DABNet.

Ours is a dictionary that ``torch.load(weights_only=True)`` reads, since it holds only tensors,
strings and numbers. The keys ``epoch`` and ``model`` are those of the public files, so that a
checkpoint of ours loads in the original code too.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dabnet import __version__
from dabnet.data.labels import LabelSet
from dabnet.data.registry import label_set
from dabnet.errors import ArtifactError, InputError
from dabnet.file_kind import CHECKPOINT, refuse_other
from dabnet.files import existing_file, replacing
from dabnet.models import NETWORKS, build_model, network_named
from dabnet.preprocessing import Preprocessing, Triple

FORMAT = 1
COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network and everything that is needed to use it.

    Attributes:
        model: name in the registry of networks.
        state: the network's state dict, float32.
        dataset: command-line name of the dataset it was trained on.
        labels: classes, palette and ignore value.
        preprocessing: of an image before the network.
        epoch: epochs trained.
        metrics: such as ``{"val_miou": 0.61}``; shares in 0…1.
        recipe: the resolved training recipe, plain values by name.
        training: optimiser, scheduler and progress, for ``--resume``; empty in ``best.pth``.
        activation_ranges: of a network that was trained with fake quantisation, the threshold
            t >= 0 of the input of each convolution (int8 scale t / 127), by the name of its
            module; empty for any other.
        dilations: of the network (``dabnet.models.Network.dilations``); none: the published ones.
    """

    model: str
    state: dict[str, Tensor]
    dataset: str
    labels: LabelSet
    preprocessing: Preprocessing
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    activation_ranges: dict[str, float] = field(default_factory=dict)
    dilations: tuple[int, ...] = ()

    def network(self) -> nn.Module:
        """Return the network with these weights, in evaluation mode, on the CPU."""
        network = build_model(self.model, len(self.labels.classes), self.dilations)
        network.load_state_dict(self.state)
        return network.eval()


@dataclass(frozen=True, slots=True)
class Given:
    """What a user says of a checkpoint that carries neither its network nor its classes.

    Attributes:
        dataset: whose classes and published preprocessing it has.
        model: name of its network; None: the one whose tensors it has.
        classes: a file of its classes (``dabnet.data.labels.read_labels``).
        void: ``first`` or ``last``: it has one output more, which stands for no class and is
            dropped.
        dilations: of its network; none: the published ones.
        mean, scale: its preprocessing, ``(image - mean) * scale``, image 0…255.
    """

    dataset: str | None = None
    model: str | None = None
    classes: Path | None = None
    void: str | None = None
    dilations: tuple[int, ...] = ()
    mean: Triple | None = None
    scale: Triple | None = None


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint`` atomically: a reader finds the old file or the new one."""
    content = {
        "format": FORMAT,
        "tool_version": __version__,
        "model_name": checkpoint.model,
        "model": checkpoint.state,
        "dataset": checkpoint.dataset,
        "classes": list(checkpoint.labels.classes),
        "palette": [list(colour) for colour in checkpoint.labels.palette],
        "ignore": checkpoint.labels.ignore,
        "mean_rgb": list(checkpoint.preprocessing.mean_rgb),
        "scale": list(checkpoint.preprocessing.scale),
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
        "recipe": checkpoint.recipe,
        "training": checkpoint.training,
    }
    if checkpoint.activation_ranges:
        content["activation_ranges"] = checkpoint.activation_ranges
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError; bytes as an OSError
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: str | Path, given: Given | None = None) -> Checkpoint:
    """Read a checkpoint of ours or a public one.

    Args:
        path: the file.
        given: what a file lacks. A file of ours keeps its own; naming another dataset than its own
            is an error.
    """
    dataset = given.dataset if given else None
    file = existing_file(path, "a checkpoint (a .pth file)")
    content = _read(file)
    if content.get("format") is None:
        return _public(content, file, dataset)
    _require_sums(file)
    checkpoint = _ours(content, file)
    if dataset not in (None, checkpoint.dataset):
        raise InputError(
            f"--dataset {dataset}, but {str(file)!r} was trained on {checkpoint.dataset}",
            "the dataset of the checkpoint",
            f"leave --dataset out or give {checkpoint.dataset}",
        )
    return checkpoint


def _read(file: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            # Torch warns of pickle protocols and foreign archives: the error below says it all.
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        refuse_other(file, CHECKPOINT, expected="a checkpoint (a .pth file)")
        # Torch's message runs over many lines; the name of the refused object is what helps.
        if refused := re.search(r"unsupported (?:global: )?GLOBAL (\S+)", str(error), re.I):
            raise ArtifactError(
                f"{str(file)!r} is not a checkpoint that loads safely (it holds {refused[1]})",
                "tensors, strings and numbers only",
                "if you trust the file, save its state dict alone with torch.save",
            ) from error
        raise ArtifactError(
            f"{str(file)!r} cannot be read as a checkpoint (truncated or another format)",
            "a file written by torch.save",
            "download or train it again",
        ) from error
    if not isinstance(content, dict):
        raise ArtifactError(
            f"{str(file)!r} holds a {type(content).__name__}",
            "a state dict or a dictionary with the key 'model'",
        )
    return content


def _require_sums(file: Path) -> None:
    """Raise if a part of our file is damaged: torch does not verify its check sums."""
    try:
        with zipfile.ZipFile(file) as archive:
            name = archive.testzip()
        damage = f"the check sum of {name}" if name else ""
    except Exception as error:  # damage of its index makes zipfile raise nearly anything
        damage = type(error).__name__
    if damage:
        raise ArtifactError(
            f"{str(file)!r} is damaged ({damage})",
            "the file as it was written",
            "copy or train it again",
        )


def _ours(content: dict[str, Any], file: Path) -> Checkpoint:
    if content["format"] != FORMAT:
        raise ArtifactError(
            f"{str(file)!r} is a checkpoint of format {content['format']}",
            f"format {FORMAT}",
            "use the version of dabnet-train that wrote it",
        )
    try:
        checkpoint = Checkpoint(
            content["model_name"],
            _state_dict(content["model"], content, file),
            content["dataset"],
            LabelSet(
                tuple(content["classes"]),
                tuple(map(tuple, content["palette"])),
                content["ignore"],
                label_set(content["dataset"]).categories,
            ),
            Preprocessing(_triple(content["mean_rgb"]), _triple(content["scale"])),
            content["epoch"],
            content["metrics"],
            content["recipe"],
            content["training"],
            dict(content.get("activation_ranges", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{str(file)!r} lacks or garbles {error}", "a checkpoint of dabnet-train"
        ) from error
    _check_fit(checkpoint, file)
    _check_finite(checkpoint, file)
    _check_ranges(checkpoint, file)
    return checkpoint


def _triple(values: Any) -> Triple:
    red, green, blue = map(float, values)
    return red, green, blue


def _public(content: dict[str, Any], file: Path, dataset: str | None) -> Checkpoint:
    found = content.get("model", content.get("state_dict", content))
    state = _state_dict(found, content, file)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if dataset is None:
        raise InputError(
            f"{str(file)!r} does not say which classes and preprocessing it was trained with",
            "a checkpoint of dabnet-train, or the dataset's name",
            "add --dataset camvid or --dataset cityscapes",
        )
    labels = label_set(dataset)
    # It does not say its network either: the one of which it has the most tensors.
    model = max(NETWORKS, key=lambda name: len(state.keys() & _shapes(name, 2).keys()))
    preprocessing = network_named(model).published_preprocessing(dataset)
    if preprocessing is None:
        raise InputError(
            f"{str(file)!r} does not say its preprocessing, and none was published with {model}"
            f" for {dataset}",
            "a checkpoint of dabnet-train",
        )
    epoch = content.get("epoch")
    checkpoint = Checkpoint(
        model, state, dataset, labels, preprocessing, epoch if isinstance(epoch, int) else 0
    )
    _check_fit(checkpoint, file)
    _check_finite(checkpoint, file)
    return checkpoint


def _state_dict(value: Any, content: dict[str, Any], file: Path) -> dict[str, Tensor]:
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    ):
        raise ArtifactError(
            f"{str(file)!r} holds no state dict (its keys: {', '.join(map(str, content))[:80]})",
            "a state dict, bare or under the key 'model'",
        )
    return value


def _check_fit(checkpoint: Checkpoint, file: Path) -> None:
    """Raise if the weights are not those of the named network.

    Counters of batches, which checkpoints of PyTorch 0.4 lack and evaluation does not need, are
    added.
    """
    model, state, classes = checkpoint.model, checkpoint.state, len(checkpoint.labels.classes)
    wrong = _misfits(model, classes, state)
    for name in [name for name in wrong if name.endswith(COUNTER) and name not in state]:
        state[name] = torch.tensor(0)
        del wrong[name]
    # Where nothing but sides of K differ, and in one way, it predicts other classes.
    sides = {
        pair
        for name, expected in wrong.items()
        for pair in itertools.zip_longest(expected, state.get(name, torch.empty(0)).shape)
        if pair[0] != pair[1]
    }
    if len(sides) == 1 and (pair := sides.pop())[0] == classes:
        raise InputError(
            f"{str(file)!r} predicts {pair[1]} classes",
            f"{classes}, the classes of {checkpoint.dataset}",
            "name the dataset that it was trained on",
        )
    if wrong:
        raise ArtifactError(
            f"{str(file)!r} is not a {model} checkpoint"
            f" ({len(wrong)} tensors differ, such as {min(wrong)!r})",
            f"the state dict of {model}",
        )


def _misfits(model: str, classes: int, state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Tensors in which ``state`` differs: name → shape in the network, () if it has none."""
    expected = _shapes(model, classes)
    return {
        name: expected.get(name, ())
        for name in expected.keys() | state.keys()
        if name not in expected or name not in state or expected[name] != tuple(state[name].shape)
    }


def _shapes(model: str, classes: int) -> dict[str, tuple[int, ...]]:
    state = build_model(model, classes).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _check_finite(checkpoint: Checkpoint, file: Path) -> None:
    """Raise if a weight is NaN or infinite in float32: every mask would be one class, silently."""
    constants = {
        "mean_rgb": torch.tensor(checkpoint.preprocessing.mean_rgb),
        "scale": torch.tensor(checkpoint.preprocessing.scale),
    }
    for name, tensor in {**checkpoint.state, **constants}.items():
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            raise ArtifactError(
                f"{str(file)!r} has values that are not finite in {name!r}",
                "finite weights",
                "train it again, or take an earlier checkpoint",
            )


def _check_ranges(checkpoint: Checkpoint, file: Path) -> None:
    """Raise if only some convolutions have a range, or a range is no finite number >= 0."""
    ranges, state = checkpoint.activation_ranges, checkpoint.state
    convolutions = {n.removesuffix(".weight") for n in state if state[n].ndim == 4}
    given = expected = ""
    if ranges and (wrong := sorted(convolutions ^ set(ranges), key=str)):
        given = (
            f"ranges that do not fit its {len(convolutions)} convolutions"
            f" ({len(wrong)} differ, such as {wrong[0]!r})"
        )
        expected = "one range for each"
    for name, threshold in ranges.items():
        if not (isinstance(threshold, float) and math.isfinite(threshold) and threshold >= 0):
            given, expected = f"range {threshold} for {name!r}", "a finite number >= 0"
    if given:
        given = f"{str(file)!r} has the activation {given}"
        raise ArtifactError(given, expected, "train it again with --qat")
