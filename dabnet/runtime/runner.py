"""The protocol between an artifact and whoever runs it.

``dabnet-bench`` knows a backend only by this protocol, and so may an application. Two scopes can
be timed on it, and each row of a report names its own:

- ``host``: ``infer(images)``: uint8 images in host memory → masks in host memory, copies included;
- ``device``: ``launch(i)`` then ``synchronize()``: the input already resident where the backend
  computes → the mask resident there.

Time by layer, in one form for every backend.

A backend that does nothing: timing it measures the harness itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dabnet.errors import ArtifactError, InputError
from dabnet.models import STRIDE
from dabnet.runtime.cuda import HostArray
from dabnet.runtime.manifest import DYNAMIC, Manifest, TensorInfo

Uint8Array = NDArray[np.uint8]

SCOPES = ("host", "device")


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What runs, and on what; proved by the backend, not copied from the request.

    Attributes:
        backend: ``pytorch``, ``onnxruntime``, ``openvino``, ``tensorrt`` or ``null``.
        version: of the backend.
        device: where it computes, such as ``cpu (2 threads)`` or ``NVIDIA GeForce GTX 1080 Ti``.
        precision: of the arithmetic, such as ``fp32``, ``bf16`` or ``int8``.
        shape: (N, H, W, 3) of the images it takes, (N, 3, H, W) of an artifact with float input;
            -1 for a side that each call chooses.
        notes: what the reader of a row must know (a provider that was not used, TF32, …).
        arithmetic: how int8 was computed, where there is more than one way, such as
            ``exact Q/DQ in float32``; else "".
    """

    backend: str
    version: str
    device: str
    precision: str
    shape: tuple[int, int, int, int]
    notes: tuple[str, ...] = ()
    arithmetic: str = ""


class Runner(Protocol):
    """One artifact, loaded on one backend. Images: uint8, (N, H, W, 3), RGB; masks: (N, H, W)."""

    @property
    def info(self) -> RunnerInfo: ...

    def infer(self, images: Uint8Array) -> Uint8Array:
        """Host → host: copy in, run, copy out; blocks until the masks are in host memory."""
        ...

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        """Place inputs where the backend computes; ``launch`` then takes them by index."""
        ...

    def launch(self, index: int) -> None:
        """Start a run on a staged input. May return before the device has finished."""
        ...

    def synchronize(self) -> None:
        """Block until every launched run has finished."""
        ...

    def close(self) -> None:
        """Release memory and handles. Using the runner afterwards is an error."""
        ...


def check_images(images: Uint8Array, shape: tuple[int, int, int, int]) -> Uint8Array:
    """Return ``images`` C-contiguous if they are uint8 of ``shape`` (N, H, W, 3); raise otherwise.

    ``shape`` may hold -1 (``manifest.DYNAMIC``): any batch, any multiple of ``STRIDE`` as a side.
    """
    return check_input(images, TensorInfo("image", "uint8", shape))


def check_input(array: HostArray, tensor: TensorInfo) -> HostArray:
    """Return ``array`` C-contiguous if dtype and shape are those of ``tensor``; raise otherwise.

    ``tensor`` is uint8 (N, H, W, RGB) or, of an artifact with float input, float (N, RGB, H, W).
    Where its shape holds -1, the batch may be any and a side any multiple of ``STRIDE``.
    """
    fits = array.ndim == len(tensor.shape) and all(
        side == wanted or (wanted == DYNAMIC and side > 0 and side % step == 0)
        for side, wanted, step in zip(
            array.shape, tensor.shape, (1, STRIDE, STRIDE, STRIDE), strict=True
        )
    )
    if array.dtype != tensor.dtype or not fits:
        axes = "N, H, W, RGB" if tensor.dtype == "uint8" else "N, RGB, H, W"
        free = f"; -1 is any batch, or any multiple of {STRIDE} as a side"
        raise InputError(
            f"images of dtype {array.dtype} and shape {array.shape}",
            f"{tensor.dtype} of shape {tensor.shape} "
            f"({axes}{free if DYNAMIC in tensor.shape else ''})",
            "resize the images, or export the artifact at their size",
        )
    return np.ascontiguousarray(array)


def output_shape(manifest: Manifest, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the output for an input of ``input_shape``, which ``check_input`` has passed.

    The output is a mask (N, H, W) or logits (N, K, H, W), at the size of the images.
    """
    batch = input_shape[0]
    channels_last = manifest.input.dtype == "uint8"
    sides = input_shape[1:3] if channels_last else input_shape[2:4]
    return (batch, *manifest.output.shape[1:-2], *sides)


def example_shape(manifest: Manifest) -> tuple[int, ...]:
    """Shape of an input that the artifact takes: its own, with the example's where it is free."""
    batch, height, width = manifest.example
    channels_last = manifest.input.dtype == "uint8"
    example = (batch, height, width, 3) if channels_last else (batch, 3, height, width)
    sides = zip(manifest.input.shape, example, strict=True)
    return tuple(free if side == DYNAMIC else side for side, free in sides)


def result_dtype(manifest: Manifest) -> np.dtype[Any]:
    """What ``infer`` returns: masks as uint8, whichever integers the graph gives, else as it is."""
    name = manifest.output.dtype
    return np.dtype(name if name.startswith("float") else np.uint8)


def declared_shape(manifest: Manifest, source: str) -> tuple[int, int, int, int]:
    """Return the four sides of the declared input, if a runner can serve the declared tensors.

    These are: uint8 (N, H, W, 3) or float32 (N, 3, H, W) in; a mask, uint8 or int32 (N, H, W), or
    logits, float32 (N, K, H, W), out. ``source`` names the file in the error.
    """
    given, result = manifest.input, manifest.output
    kind_in, kind_out = (given.dtype, len(given.shape)), (result.dtype, len(result.shape))
    served = (("uint8", 3), ("int32", 3), ("float32", 4))
    if kind_in not in (("uint8", 4), ("float32", 4)) or kind_out not in served:
        raise ArtifactError(
            f"{source} takes {given.dtype} {given.shape} and gives {result.dtype} {result.shape}",
            "uint8 (N, H, W, 3) or float32 (N, 3, H, W) in; a uint8 or int32 mask (N, H, W) "
            "or float32 logits (N, K, H, W) out",
            "export the artifact again",
        )
    batch, second, third, fourth = given.shape
    return batch, second, third, fourth


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer, kernel or operator of what ran, as the backend's own profiler names it.

    Attributes:
        name: of the layer; alike for all calls.
        kind: operator, such as ``Conv``, or the kernel's type.
        seconds: mean of a call.
        share: of the sum over all layers of a call, 0…1.
    """

    name: str
    kind: str
    seconds: float
    share: float


@runtime_checkable
class HasLayerTimes(Protocol):
    """A ``Runner`` that can say where its time goes."""

    def layer_times(self, images: Uint8Array, calls: int) -> tuple[LayerTime, ...]:
        """Run ``calls`` times under the backend's profiler; the longest layer comes first.

        Profiling slows the calls down: its times are for comparing layers, and a row's own time is
        never taken from them.

        Raises:
            BackendUnavailable: this backend has no profile here; the message says why.
        """
        ...


def layer_times(seconds: Sequence[tuple[str, str, float]]) -> tuple[LayerTime, ...]:
    """Return (name, kind, seconds a call) as layers, the longest first, with their shares."""
    total = sum(time for _, _, time in seconds) or 1.0
    ordered = sorted(seconds, key=lambda layer: -layer[2])
    return tuple(LayerTime(name, kind, time, time / total) for name, kind, time in ordered)


class NullRunner:
    """Returns an empty mask at once."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._info = RunnerInfo("null", "", "none", "none", shape)
        self._masks = np.zeros(shape[:3], np.uint8)

    @property
    def info(self) -> RunnerInfo:
        return self._info

    def infer(self, images: Uint8Array) -> Uint8Array:
        check_images(images, self._info.shape)
        return self._masks

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        pass

    def launch(self, index: int) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        pass
