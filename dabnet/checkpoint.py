"""Checkpoints: ours, and those of other trainers (``dabnet.public_checkpoint``).

Ours is a dictionary that ``torch.load(weights_only=True)`` reads, since it holds only tensors,
strings and numbers. The keys ``epoch`` and ``model`` are those of the public files, so that a
checkpoint of ours loads in the original code too.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from dabnet import __version__
from dabnet.data.labels import Category, LabelSet, is_class_name
from dabnet.data.registry import DATASETS, label_set
from dabnet.errors import ArtifactError, InputError
from dabnet.files import replacing
from dabnet.given import Given
from dabnet.models import build_model, network_named
from dabnet.preprocessing import Preprocessing
from dabnet.public_checkpoint import Fit, network_in, read_public
from dabnet.records import Amount, Byte, Codec, Count, Name
from dabnet.torch_file import read_torch_file
from dabnet.weights import add_counters, check_tensors, misfits, shapes

__all__ = ["Checkpoint", "Given", "carries_its_own", "load_checkpoint", "save_checkpoint"]

FORMAT = 1

Factor = Annotated[float, Ge(-1000), Le(1000)]
"""A mean, near 100, or a scale, near 1."""
MOST_DILATION = 999  # as --dilations takes


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
        trained_on: each ``DATASET SPLIT`` that it has trained on, from the first on; none: unknown.
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
    trained_on: tuple[str, ...] = ()

    def network(self) -> nn.Module:
        """Return the network with these weights, in evaluation mode, on the CPU.

        Raises:
            InputError: its encoder alone has been trained.
        """
        if self.recipe.get("stage") == "encoder":
            raise InputError(
                f"a checkpoint of {self.model} whose encoder alone is trained",
                "a trained network",
                "train the rest with: dabnet-train --stage decoder --encoder CHECKPOINT",
            )
        network = build_model(self.model, len(self.labels.classes), self.dilations)
        network.load_state_dict(self.state)
        return network.eval()


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
        "dilations": list(checkpoint.dilations),
        "trained_on": list(checkpoint.trained_on),
    }
    if checkpoint.activation_ranges:
        content["activation_ranges"] = checkpoint.activation_ranges
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError; bytes as an OSError
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: str | Path, given: Given | None = None) -> Checkpoint:
    """Read a checkpoint of ours or of another trainer.

    Args:
        path: the file.
        given: what a file of another trainer does not say. One of ours carries its own.

    Raises:
        ArtifactError: the file is damaged, or no checkpoint of a network of ours.
        InputError: there is none, or what was given does not fit.
    """
    given = given or Given()
    file = Path(path)
    content = read_torch_file(path)
    if "pretraining" in content:
        raise InputError(
            f"{str(file)!r} is a classifier of --stage classifier",
            "a network for segmentation",
            "continue it with --stage classifier --resume, or start from its encoder with"
            " --stage decoder --encoder",
        )
    if not _is_ours(content):
        return _public(content, file, given)
    checkpoint = _ours(content, file)
    _refuse_given(checkpoint, file, given)
    return checkpoint


def load_weights(path: str | Path, model: str | None = None) -> Checkpoint | Fit:
    """Read a checkpoint of which the weights alone are wanted, so that nothing need be given.

    Args:
        model: the network that it must be of; None: any of ours.

    Raises:
        ArtifactError: the file is damaged, or no checkpoint of a network of ours.
        InputError: there is none, or it is of another network.
    """
    file = Path(path)
    content = read_torch_file(path)
    if not _is_ours(content):
        return network_in(content, file, model)
    checkpoint = load_checkpoint(file)
    if model not in (None, checkpoint.model):
        raise InputError(
            f"--model {model}, but {str(file)!r} is a {checkpoint.model} checkpoint",
            "the network that it is of",
            f"give --model {checkpoint.model}",
        )
    return checkpoint


def carries_its_own(path: str | Path) -> bool:
    """Tell whether a checkpoint is of ours, which needs nothing to be ``Given``."""
    return _is_ours(read_torch_file(path))


def _is_ours(content: dict[Any, Any]) -> bool:
    return "format" in content and ("model_name" in content or type(content["format"]) is int)


def _refuse_given(checkpoint: Checkpoint, file: Path, given: Given) -> None:
    if given.dataset not in (None, checkpoint.dataset):
        raise InputError(
            f"--dataset {given.dataset}, but {str(file)!r} was trained on {checkpoint.dataset}",
            "the dataset of the checkpoint",
            f"leave --dataset out or give {checkpoint.dataset}",
        )
    same = {"--dataset"} | ({"--model"} if given.model == checkpoint.model else set())
    if foreign := [name for name in given.named() if name not in same]:
        raise InputError(
            f"{', '.join(foreign)} for {str(file)!r}",
            "a checkpoint of another trainer",
            "this one carries its own; leave them out",
        )


@dataclass(frozen=True, slots=True)
class _Described:
    """What a file of ours says beside its tensors and the state of training."""

    format: int
    tool_version: Name
    model_name: Name
    dataset: Name
    classes: tuple[Name, ...]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    ignore: Byte
    mean_rgb: tuple[Factor, Factor, Factor]
    scale: tuple[Factor, Factor, Factor]
    epoch: Count
    metrics: dict[Name, float]
    recipe: dict[Name, bool | int | float | Name | tuple[int | float, ...]]
    activation_ranges: dict[Name, Amount] = field(default_factory=dict)
    dilations: tuple[Annotated[int, Ge(1), Le(MOST_DILATION)], ...] = ()
    trained_on: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        names = self.classes
        faults = {
            "classes": (
                len(set(names)) < len(names) or not all(map(is_class_name, names)),
                "names of printable characters, each once",
            ),
            "palette": (len(self.palette) != len(names), f"{len(names)} colours, one per class"),
            "ignore": (self.ignore < len(names), "a value that is no class"),
            "scale": (0 in self.scale, "factors other than 0"),
            "metrics": (not "".join(self.metrics).isprintable(), "printable names"),
            "recipe": (
                not "".join(f"{k}{v}" for k, v in self.recipe.items()).isprintable(),
                "printable texts",
            ),
            "dataset": (not self.dataset.isprintable(), "a printable name"),
            "trained_on": (not "".join(self.trained_on).isprintable(), "printable names"),
            "tool_version": (not self.tool_version.isprintable(), "a printable name"),
        }
        for key, (wrong, expected) in faults.items():
            if wrong:
                raise ValueError(f"{key}: expected {expected}")


_DESCRIBED = Codec(
    _Described,
    "checkpoint",
    "dabnet-train",
    "train it again, or take another checkpoint",
    version=("format", FORMAT),
    error=ArtifactError,
)


def _ours(content: dict[str, Any], file: Path) -> Checkpoint:
    parts = {"model", "training"}
    plain = {name: value for name, value in content.items() if name not in parts}
    said = _DESCRIBED.take(plain, repr(str(file)))
    for name in parts:
        if not isinstance(content.get(name), dict):
            _DESCRIBED.refuse(repr(str(file)), f"{name}: expected a dictionary")
    checkpoint = Checkpoint(
        said.model_name,
        content["model"],
        said.dataset,
        LabelSet(said.classes, said.palette, said.ignore, _categories(said.dataset, said.classes)),
        Preprocessing(said.mean_rgb, said.scale),
        said.epoch,
        said.metrics,
        {k: [*x] if isinstance(x, tuple) else x for k, x in said.recipe.items()},
        content["training"],
        said.activation_ranges,
        said.dilations,
        said.trained_on,
    )
    _check_fit(checkpoint, file)
    _check_ranges(checkpoint, file)
    return checkpoint


def _categories(dataset: str, classes: tuple[str, ...]) -> tuple[Category, ...]:
    """Groups of classes that the data set scores too; () of a data set with other classes."""
    if dataset not in DATASETS or not DATASETS[dataset].has_classes:
        return ()
    labels = label_set(dataset)
    return labels.categories if labels.classes == classes else ()


def _public(content: dict[str, Any], file: Path, given: Given) -> Checkpoint:
    found = read_public(content, file, given)
    network = network_named(found.model)
    published = network.published_preprocessing(given.labels_from)
    preprocessing = given.preprocessing() or published
    if preprocessing is None:
        raise InputError(
            f"{str(file)!r} does not say its preprocessing, and none was published with"
            f" {found.model} for {given.labels_from}",
            "the mean that it subtracts",
            "add --mean R,G,B (0…255), and --scale R,G,B if it multiplies too",
        )
    epoch = content.get("epoch")
    return Checkpoint(
        found.model,
        found.state,
        given.labels_from,
        found.labels,
        preprocessing,
        epoch if type(epoch) is int and 0 <= epoch < 2**53 else 0,
        dilations=network.checked_dilations(given.dilations) if given.dilations else (),
    )


def _check_fit(checkpoint: Checkpoint, file: Path) -> None:
    """Raise if the weights or the dilations are not those of the named network."""
    model, classes = checkpoint.model, len(checkpoint.labels.classes)
    try:
        network_named(model).checked_dilations(checkpoint.dilations)
        expected = shapes(model, classes)
    except InputError as error:
        raise ArtifactError(f"{str(file)!r} is no checkpoint of ours: {error}") from error
    check_tensors(checkpoint.state, expected, file)
    add_counters(model, checkpoint.state)
    wrong = misfits(model, classes, checkpoint.state)
    if wrong:
        raise ArtifactError(
            f"{str(file)!r} is no {model} checkpoint of {classes} classes: {wrong}",
            f"the tensors of {model}",
        )


def _check_ranges(checkpoint: Checkpoint, file: Path) -> None:
    """Raise if only some convolutions have a range."""
    if not (ranges := checkpoint.activation_ranges):
        return
    network = build_model(checkpoint.model, len(checkpoint.labels.classes), checkpoint.dilations)
    # One that takes no gradient is not used (an encoder's own outputs), and needs no range.
    convolutions = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad
    }
    if wrong := sorted(convolutions ^ set(ranges)):
        raise ArtifactError(
            f"{str(file)!r} has activation ranges that do not fit its {len(convolutions)}"
            f" convolutions ({len(wrong)} differ, such as {wrong[0]!r})",
            "one range for each",
            "train it again with --qat",
        )
