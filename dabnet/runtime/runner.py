"""The protocol between an artifact and whoever runs it, and what the runners share.

``dabnet-bench`` knows a backend only by ``Runner``, and so may an application. Three scopes can be
timed on it, and each row of a report names its own:

- ``host``: ``infer(images)``: uint8 images in host memory → masks in host memory, copies included;
- ``device``: ``launch(i)`` then ``synchronize()``: the input already resident where the backend
  computes → the mask resident there, by the clock of the host;
- ``events``: the same by the clock of the GPU, between two CUDA events (``HasGpuTimes``). Gaps in
  which it waits for the next launch count; what the host does before and behind the run does not.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dabnet.errors import InputError, MissingPackage
from dabnet.head import MASK, MASK_AND_CONFIDENCE
from dabnet.records import Seconds, Share
from dabnet.runtime.cuda import HostArray
from dabnet.runtime.manifest import DYNAMIC, Manifest, TensorInfo

Uint8Array = NDArray[np.uint8]

SCOPES = ("host", "device", "events")


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What runs, and on what; proved by the backend, not copied from the request."""

    backend: str  # ``pytorch``, ``onnxruntime``, ``openvino``, ``tensorrt`` or ``null``
    version: str  # of the backend
    device: str  # such as ``cpu (2 threads)`` or ``NVIDIA GeForce GTX 1080 Ti``
    precision: str  # of the arithmetic, such as ``fp32``, ``bf16`` or ``int8``
    # (N, H, W, 3) of the images it takes, (N, 3, H, W) of an artifact with float input;
    # -1 for a side that each call chooses.
    shape: tuple[int, int, int, int]
    notes: tuple[str, ...] = ()  # for the reader of a row: a provider that was not used, TF32, …
    arithmetic: str = ""  # of int8, where there are several, such as ``exact Q/DQ in float32``
    head: str = MASK  # what a call computes and copies: one of ``dabnet.head.HEADS``

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and the head if it is another than most have."""
        return self.notes if self.head == MASK else (*self.notes, f"gives {self.head}")

    @property
    def on_gpu(self) -> bool:
        return not self.device.startswith(("cpu", "none"))


class Prediction(NamedTuple):
    """What an artifact of the head ``mask+confidence`` gives for a batch, both uint8 (N, H, W)."""

    mask: Uint8Array  # classes
    confidence: Uint8Array  # of the mask's class, 0…255 (``dabnet.head.confidence_of``)


class Runner(Protocol):
    """One artifact, loaded on one backend. Images: uint8, (N, H, W, 3), RGB; masks: (N, H, W).

    An artifact with float input or logits is run as it is: it takes and returns arrays of the
    manifest's types and shapes. The arrays of a caller stay the caller's own, and so do results.

    A runner of this package also has ``infer_with_confidence(images) -> Prediction``, which raises
    InputError unless the artifact's head is ``mask+confidence``. ``infer`` of such an artifact does
    the same work and the same copies, and gives the masks alone.
    """

    @property
    def info(self) -> RunnerInfo: ...

    def infer(self, images: Uint8Array) -> Uint8Array:
        """Host → host: copy in, run, copy out; blocks until the masks are in host memory."""

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        """Place inputs where the backend computes, instead of those staged before."""

    def launch(self, index: int) -> None:
        """Start a run on a staged input. May return before the device has finished."""

    def synchronize(self) -> None:
        """Block until every launched run has finished."""

    def close(self) -> None:
        """Release memory and handles. Using the runner afterwards is an error."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer, kernel or operator of what ran, as the backend's own profiler names it."""

    name: str  # the same in all calls
    kind: str  # operator, such as ``Conv``, or the kernel's type
    seconds: Seconds  # mean per call
    share: Share  # of the sum over all layers of a call

    @staticmethod
    def ranked(layers: Sequence[tuple[str, str, float]]) -> tuple[LayerTime, ...]:
        """Return (name, kind, seconds per call) as layers, the longest first, with their shares."""
        total = sum(time for _, _, time in layers) or 1.0
        ordered = sorted(layers, key=lambda layer: -layer[2])
        return tuple(LayerTime(name, kind, time, time / total) for name, kind, time in ordered)


@runtime_checkable
class HasLayerTimes(Protocol):
    """A ``Runner`` that reports where its time goes."""

    def layer_times(self, images: Uint8Array, calls: int) -> tuple[LayerTime, ...]:
        """Run ``calls`` times under the backend's profiler, which slows them down.

        Raises:
            BackendUnavailable: this backend has no profile here; the message says why.
        """


@runtime_checkable
class HasGpuTimes(Protocol):
    """A ``Runner`` on a GPU that can record CUDA events around a run."""

    def gpu_seconds(self, index: int) -> float:
        """Run a staged input; seconds between the events before and behind it on its stream."""


def prediction(found: Sequence[HostArray]) -> Prediction:
    """The results of a call as a pair; InputError if there is no confidence among them."""
    if len(found) != 2:
        fix = f"export it with: --head {MASK_AND_CONFIDENCE}"
        raise InputError("the artifact gives no confidence", f"the head {MASK_AND_CONFIDENCE}", fix)
    return Prediction(*found)


def check_images(images: Uint8Array, shape: tuple[int, int, int, int]) -> Uint8Array:
    """Return ``images`` C-contiguous; raise InputError unless they are uint8 (N, H, W, 3)."""
    return _checked(images, TensorInfo("image", "uint8", shape), 1)


def check_input(array: HostArray, manifest: Manifest) -> HostArray:
    """Return ``array`` C-contiguous; raise InputError unless the artifact takes it.

    Where its input is ``DYNAMIC``, the batch may be any, and a side any multiple of the stride.
    """
    return _checked(array, manifest.input, manifest.stride)


def _checked(array: HostArray, tensor: TensorInfo, stride: int) -> HostArray:
    steps = (1, stride, stride, stride)
    fits = array.ndim == len(tensor.shape) and all(
        side == wanted or (wanted == DYNAMIC and side > 0 and side % step == 0)
        for side, wanted, step in zip(array.shape, tensor.shape, steps, strict=True)
    )
    if array.dtype != tensor.dtype or not fits:
        axes = "N, H, W, RGB" if tensor.dtype == "uint8" else "N, RGB, H, W"
        free = f"; -1 is any batch, or any multiple of {stride} as a side"
        raise InputError(
            f"images of dtype {array.dtype} and shape {array.shape}",
            f"{tensor.dtype} of shape {tensor.shape} "
            f"({axes}{free if DYNAMIC in tensor.shape else ''})",
            "resize the images, or export the artifact at their size",
        )
    return np.ascontiguousarray(array)


def cpu_name(threads: int | None) -> str:
    return f"cpu ({threads or 'default'} threads, {platform.machine()})"


def import_backend(package: str, extra: str) -> Any:
    """Import an optional package, or raise MissingPackage, which names its extra."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackage(package, extra) from error


class NullRunner(Runner):
    """Returns an empty mask at once, and nothing else: timing it measures the harness itself."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._info = RunnerInfo("null", "", "none", "none", shape)
        self._masks = np.zeros(shape[:3], np.uint8)

    @property
    def info(self) -> RunnerInfo:
        return self._info

    def infer(self, images: Uint8Array) -> Uint8Array:
        check_images(images, self._info.shape)
        return self._masks
