"""Checkpoints of other trainers: where their tensors are, and of which network.

Such a file says nothing of itself: the names of its tensors tell the network and the prefix that
the trainer added, the sides that vary with the number of outputs K tell K.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dabnet.data.labels import LabelSet
from dabnet.data.registry import DATASETS, label_set
from dabnet.errors import ArtifactError, InputError
from dabnet.given import Given
from dabnet.models import MOST_CLASSES, NETWORKS, network_named
from dabnet.weights import (
    COUNTER,
    State,
    add_counters,
    check_tensors,
    misfits,
    shapes,
    varying_sides,
)

_PROFILED = ("total_ops", "total_params")  # buffers that the profiler ``thop`` leaves behind

# Parts of names that all occur in the tensors of a network. From the public code: CGNet
# (wutianyiRosun/CGNet), BiSeNet (CoinCheung/BiSeNet), torchvision.models.segmentation,
# transformers (SegFormer), open-mmlab/mmsegmentation, ultralytics (yaml models), PIDNet
# (XuJiacong/PIDNet), DDRNet (ydhongHIT/DDRNet), segmentation_models_pytorch.
_SIGNATURES = (
    ("CGNet", ("level1_0.conv.", ".F_glo.")),
    ("BiSeNetV2", ("detail.S1", "segment.S")),
    ("BiSeNet", ("cp.resnet.", "ffm.")),
    ("DeepLabV3 of torchvision", ("backbone.", "classifier.0.convs.")),
    ("LR-ASPP of torchvision", ("backbone.", "classifier.cbr.")),
    ("FCN of torchvision", ("backbone.layer1.0.", "classifier.4.")),
    ("SegFormer of transformers", ("segformer.encoder.", "decode_head.")),
    ("a network of mmsegmentation", ("backbone.", "decode_head.conv_seg.")),
    ("a network of ultralytics", ("model.0.conv.", "model.2.cv1.conv.")),
    ("PIDNet", ("pag3.", "layer3_d.")),
    ("DDRNet", ("compression3.", "spp.scale0.")),
    ("a network of segmentation_models_pytorch", ("encoder.", "segmentation_head.0.")),
    ("ResNet, a classifier", ("layer1.0.conv1.", "fc.")),
)

AS_ONNX = "export it to ONNX with its own code: verify and trt take ONNX files of other tools"
_TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # of torch.save before its zip format
_PICKLE_BYTES, _PICKLE_STEPS = 16 << 20, 300_000  # of a pickle, which tell what it is
_PADDLE = "StructuredToParameterName@@"  # a key of what paddle.save writes

# (model, data set) → where the public code keeps the void output, if not last.
_VOID_FIRST = {("enet", "cityscapes"): "davidtvs/PyTorch-ENet; others have it last"}


@dataclass(frozen=True, slots=True)
class Public:
    """A checkpoint of another trainer, ready for ``build_model(model, len(labels.classes))``.

    Attributes:
        state: without prefix and void output, float tensors as float32.
    """

    model: str
    state: State
    labels: LabelSet


@dataclass(frozen=True, slots=True)
class Fit:
    """How the tensors of a file fit a network.

    Attributes:
        model: name of the network.
        prefix: that the trainer put before each name, such as ``module.``.
        state: the tensors that have it, without it.
        found: how many names of the network are among them.
        total: how many names the network has, counters of batches not counted.
        outputs: K, None where it cannot be told.
    """

    model: str
    prefix: str
    state: State
    found: int
    total: int
    outputs: int | None

    @property
    def share(self) -> float:
        return self.found / self.total

    def __str__(self) -> str:
        outputs = f" of {self.outputs} classes" if self.outputs else ""
        dropped = f" (prefix {self.prefix!r} dropped)" if self.prefix else ""
        article = "an" if self.model[0] in "aeiou" else "a"
        return f"{article} {self.model} checkpoint{outputs}{dropped}"


def read_public(content: dict[Any, Any], file: Path, given: Given) -> Public:
    """Find the network in what ``torch.load`` returned, and say of it what was given.

    Raises:
        ArtifactError: it holds no network of ours.
        InputError: something of it must be given, or what was given does not fit.
    """
    fit = network_in(content, file, given.model)
    labels = given.labels()
    if labels is None:
        raise _undescribed(fit, file)
    state = _real_outputs(fit, file, given, labels)
    classes = len(labels.classes)
    add_counters(fit.model, state)
    if wrong := misfits(fit.model, classes, state):
        raise ArtifactError(f"{str(file)!r} is {fit}, but {wrong}", f"the tensors of {fit.model}")
    return Public(fit.model, state, labels)


def network_in(content: dict[Any, Any], file: Path, model: str | None) -> Fit:
    """Return the fit of the network that ``content`` holds; ``model`` is the one it should be."""
    where = repr(str(file))
    states = _states(content)
    if not states:
        if any("param_groups" in part for _, part in _dicts(content)):
            raise ArtifactError(
                f"{where} holds the state of an optimiser and no weights",
                "the state dict of a network",
                "take the file of the weights, which is often beside it",
            )
        keys = ", ".join(map(str, content))[:80]
        raise ArtifactError(f"{where} holds no state dict (its keys: {keys})", "a state dict")
    fit = max(map(best_fit, states), key=lambda one: one.found)
    tensors = (x for state in states for x in state.values())
    packed = next((x.dtype for x in tensors if _is_quantised(x)), None)
    if packed is not None:
        raise ArtifactError(
            f"{where} holds quantised weights ({packed})",
            "float weights",
            "take the checkpoint that they were made from",
        )
    if fit.share < 0.5:
        raise _not_ours(fit, max(states, key=len), file)
    check_tensors(fit.state, shapes(fit.model, 2), file)
    if model not in (None, fit.model):
        own = f"{fit.found} of {fit.total} names"
        raise InputError(
            f"--model {model}, but {where} is {fit} ({own})",
            "the network that it is of",
            f"leave --model out or give {fit.model}",
        )
    return fit


def _dicts(content: Mapping[Any, Any], path: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Yield ``content`` and the dictionaries in it, each with the keys that lead to it."""
    yield path, content
    for key, value in content.items():
        if depth and isinstance(key, str) and isinstance(value, Mapping):
            yield from _dicts(value, f"{path}.{key}", depth - 1)


def _states(content: Mapping[Any, Any]) -> list[State]:
    """Every dictionary of named tensors; averaged weights (ema) last."""
    found = []
    for path, part in _dicts(content):
        tensors = {k: x for k, x in part.items() if isinstance(k, str) and isinstance(x, Tensor)}
        found += [(path, tensors)] if tensors else []
    found.sort(key=lambda pair: "ema" in pair[0].lower())
    return [state for _, state in found]


def _is_quantised(tensor: Tensor) -> bool:
    small = (torch.int8, torch.uint8)
    return tensor.is_quantized or (tensor.dtype in small and tensor.ndim > 1)


def best_fit(state: State) -> Fit:
    """Return the network, and the prefix, with which most names of ``state`` are the network's."""
    names = [name for name in state if not name.endswith(_PROFILED)]
    best: tuple[float, str, str, int] | None = None
    for model in NETWORKS:
        expected = _counted(model)
        parts = 1 + max(name.count(".") for name in expected)
        ends = ((name, rest) for name in names for rest in _ends(name, parts) if rest in expected)
        prefixes = Counter(name[: len(name) - len(rest)] for name, rest in ends)
        # Of equals the shortest prefix.
        prefix, found = max(prefixes.items(), key=lambda p: (p[1], -len(p[0])), default=("", 0))
        share = found / len(expected)
        if best is None or share > best[0]:
            best = share, model, prefix, found
    assert best is not None
    _, model, prefix, found = best
    own = {n.removeprefix(prefix): state[n] for n in names if n.startswith(prefix)}
    return Fit(model, prefix, own, found, len(_counted(model)), _outputs(model, own))


def _ends(name: str, most: int) -> Iterator[str]:
    """``a.b.c`` → ``c``, ``b.c``, ``a.b.c``; those of at most ``most`` parts."""
    at = len(name)
    for _ in range(most):
        at = name.rfind(".", 0, at)
        yield name[at + 1 :]
        if at < 0:
            return


@lru_cache(maxsize=8)
def _counted(model: str) -> frozenset[str]:
    return frozenset(name for name in shapes(model, 2) if not name.endswith(COUNTER))


def _outputs(model: str, state: State) -> int | None:
    """K of a network's tensors: the sides that are K also where K is small.

    LEDNet's pyramid has at least 20. An encoder may have an output of its own, so those of
    ``Network.logits`` tell, if there are any.
    """
    sides = [
        (name, state[name].shape[axis])
        for name, axis in varying_sides(model, 2, 3)
        if name in state and axis < state[name].ndim
    ]
    logits = network_named(model).logits
    last = [side for name, side in sides if name.startswith(logits)]
    return next(iter(last or [side for _, side in sides]), None)


def _real_outputs(fit: Fit, file: Path, given: Given, labels: LabelSet) -> State:
    """Return the tensors with as many outputs as there are classes, float32."""
    state = {name: x.float() if x.is_floating_point() else x for name, x in fit.state.items()}
    classes, outputs, where = len(labels.classes), fit.outputs, repr(str(file))
    of = f"the classes of {given.dataset or repr(str(given.classes))}"
    if outputs is None or (outputs == classes and given.void is None):
        return state
    if outputs == classes:
        raise InputError(
            f"--void {given.void}, but {where} predicts {outputs} classes",
            f"one output more than {of}",
            "leave --void out",
        )
    if outputs != classes + 1:
        fix = "name the dataset that it was trained on"
        if given.classes:
            fix = f"list {outputs} classes in {str(given.classes)!r}"
        raise InputError(f"{where} predicts {outputs} classes", f"{classes}, {of}", fix)
    if given.void is None:
        raise InputError(
            f"{where} predicts {outputs} classes",
            f"{classes}, {of}, or where the void output is",
            f"add {_void_option(fit.model, given.dataset)}",
        )
    if classes < 2:
        raise InputError(f"--void {given.void} of {where}", "2 classes beside it")
    for name, axis in varying_sides(fit.model, MOST_CLASSES - 1, MOST_CLASSES):
        if (tensor := state.get(name)) is None or axis >= tensor.ndim:
            continue
        # An output that is not used, of which LEDNet's pyramid has some, stays behind the others.
        turned = tensor.roll(-1, axis) if given.void == "first" else tensor
        side = min(tensor.shape[axis], shapes(fit.model, classes)[name][axis])
        state[name] = turned.narrow(axis, 0, side).contiguous()
    return state


def _void_option(model: str, dataset: str | None) -> str:
    if note := _VOID_FIRST.get((model, dataset or "")):
        return f"--void first ({note})"
    return "--void last (or first; published files have it last)"


def _undescribed(fit: Fit, file: Path) -> InputError:
    """The error for a network whose classes are not known: it says what to pass."""
    outputs = fit.outputs or 0
    options = []
    for name, classes in _known_classes().items():
        if outputs == classes:
            options.append(f"--dataset {name}")
        elif outputs == classes + 1:
            options.append(f"--dataset {name} {_void_option(fit.model, name).partition(' (')[0]}")
    options.append(f"--classes FILE of {outputs or 'its'} names")
    given = f"{str(file)!r} is {fit} and does not say which"
    return InputError(given, "its classes, by name", f"add {', or '.join(options)}")


def _known_classes() -> dict[str, int]:
    """Data set → number of classes, of those on disk."""
    found: dict[str, int] = {}
    for name, source in DATASETS.items():
        with suppress(InputError):  # a folder's classes are the user's
            found |= {name: len(label_set(name).classes)} if source.folder else {}
    return found


def _not_ours(fit: Fit, state: State, file: Path) -> ArtifactError:
    looks = look_of(state)
    what = f"its tensors look like {looks}" if looks else f"it has tensors such as {min(state)!r}"
    nearest = f"{fit.found} of {fit.total} names of {fit.model}, the nearest"
    given = f"{str(file)!r} is not ours: {what} ({nearest})"
    return ArtifactError(given, f"one of {', '.join(NETWORKS)}", AS_ONNX)


def look_of(names: Collection[str]) -> str:
    """The network that has such names of tensors; "" if none is known."""
    for label, parts in _SIGNATURES:
        if all(any(part in name for name in names) for part in parts):
            return label
    return ""


def form_of(file: Path) -> tuple[str, str]:
    """Tell what a file is that ``torch.load`` does not read, and what to do; "" if not known."""
    with file.open("rb") as stream:
        start = stream.read(32)
    if start.startswith(b"PK"):
        return _zip_form(file)
    if start.startswith(b"\x80") and _TORCH_MAGIC not in start:
        return _pickle_form(file)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size:
        fix = "convert it: torch.save(safetensors.torch.load_file(FILE), OUT)"
        return "a safetensors file", fix
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file, as Keras writes it", AS_ONNX
    if re.match(rb"\x08[\x01-\x20](\x12|\x1a|\x22|\x3a|\x42)", start):  # ir_version, then the next
        return "an ONNX file", "give it a name that ends in .onnx"
    return "", ""


def _zip_form(file: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # damage makes zipfile raise nearly anything
        return "", ""
    if any(name.endswith("/constants.pkl") for name in names):
        fix = "save its state dict: torch.save(torch.jit.load(FILE).state_dict(), OUT)"
        return "a TorchScript archive", fix
    if any(name.endswith("archive_format") for name in names):
        return "a torch.export archive", "save the state dict of its network with torch.save"
    return ("numpy's .npz", AS_ONNX) if any(name.endswith(".npy") for name in names) else ("", "")


def _pickle_form(file: Path) -> tuple[str, str]:
    """Read the texts of a pickle, such as names of tensors, without running anything of it."""
    texts: set[str] = set()
    with file.open("rb") as stream, suppress(Exception):  # likewise
        steps = islice(pickletools.genops(io.BytesIO(stream.read(_PICKLE_BYTES))), _PICKLE_STEPS)
        texts.update(x for _, x, _ in steps if isinstance(x, str))
    if not any(text.startswith("numpy") for text in texts):
        return "a pickle that torch.save did not write", ""
    by = "Paddle" if _PADDLE in texts or file.suffix == ".pdparams" else ""
    looks = look_of(texts)
    notes = ", ".join(
        [*([f"of {by}"] if by else []), *([f"they look like {looks}"] if looks else [])]
    )
    return "a pickle of numpy arrays" + (f" ({notes})" if notes else ""), AS_ONNX
