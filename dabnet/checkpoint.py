"""Checkpoints: ours, and those of other trainers (``dabnet.public_checkpoint``).

Ours is a dictionary that ``torch.load(weights_only=True)`` reads, since it holds only tensors,
strings and numbers. The keys ``epoch`` and ``model`` are those of the public files, so that a
checkpoint of ours loads in the original code too.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dabnet import __version__
from dabnet.data.labels import Category, LabelSet
from dabnet.data.registry import DATASETS, label_set
from dabnet.errors import ArtifactError, InputError
from dabnet.files import replacing
from dabnet.given import Given
from dabnet.models import build_model, network_named
from dabnet.preprocessing import Preprocessing, Triple
from dabnet.public_checkpoint import (
    Fit,
    add_counters,
    misfits,
    network_in,
    read_public,
)
from dabnet.torch_file import read_torch_file

__all__ = ["Checkpoint", "Given", "carries_its_own", "load_checkpoint", "save_checkpoint"]

FORMAT = 1


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


def _is_ours(content: dict[str, Any]) -> bool:
    return isinstance(content.get("format"), int)


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
                _categories(content["dataset"], tuple(content["classes"])),
            ),
            Preprocessing(_triple(content["mean_rgb"]), _triple(content["scale"])),
            content["epoch"],
            content["metrics"],
            content["recipe"],
            content["training"],
            dict(content.get("activation_ranges", {})),
            tuple(map(int, content.get("dilations", ()))),
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
    checkpoint = Checkpoint(
        found.model,
        found.state,
        given.labels_from,
        found.labels,
        preprocessing,
        epoch if isinstance(epoch, int) else 0,
        dilations=network.checked_dilations(given.dilations) if given.dilations else (),
    )
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
    """Raise if the weights or the dilations are not those of the named network."""
    model, classes = checkpoint.model, len(checkpoint.labels.classes)
    add_counters(model, checkpoint.state)
    wrong = misfits(model, classes, checkpoint.state)
    try:
        network_named(model).checked_dilations(checkpoint.dilations)
    except InputError as error:
        wrong = str(error).removeprefix("--")
    if wrong:
        raise ArtifactError(
            f"{str(file)!r} is no {model} checkpoint of {classes} classes: {wrong}",
            f"the tensors of {model}",
        )


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
    ranges = checkpoint.activation_ranges
    network = build_model(checkpoint.model, len(checkpoint.labels.classes), checkpoint.dilations)
    # One that takes no gradient is not used (an encoder's own outputs), and needs no range.
    used = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)} if ranges else {}
    convolutions = {n for n, m in used.items() if m.weight.requires_grad}
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
