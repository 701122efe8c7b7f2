"""The protocol between an artifact and whoever runs it.

``dabnet-bench`` knows a backend only by this protocol, and so may an application. Two scopes can
be timed on it, and each row of a report names its own:

- ``host``: ``infer(images)``: uint8 images in host memory → masks in host memory, copies included;
- ``device``: ``launch(i)`` then ``synchronize()``: the input already resident where the backend
  computes → the mask resident there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dabnet.errors import InputError
from dabnet.models import STRIDE
from dabnet.runtime.manifest import DYNAMIC

Uint8Array = NDArray[np.uint8]

SCOPES = ("host", "device")


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What runs, and on what; proved by the backend, not copied from the request.

    Attributes:
        backend: ``pytorch``, ``onnxruntime``, ``tensorrt`` or ``null``.
        version: of the backend.
        device: where it computes, such as ``cpu (2 threads)`` or ``NVIDIA GeForce GTX 1080 Ti``.
        precision: of the arithmetic, such as ``fp32`` or ``int8``.
        shape: (N, H, W, 3) of the images it takes; -1 for a side that each call chooses.
        notes: what the reader of a row must know (a provider that was not used, TF32, …).
    """

    backend: str
    version: str
    device: str
    precision: str
    shape: tuple[int, int, int, int]
    notes: tuple[str, ...] = ()


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
    """Return ``images`` C-contiguous if dtype and shape fit the artifact; raise otherwise.

    ``shape`` may hold -1 (``manifest.DYNAMIC``): any batch, any multiple of ``STRIDE`` as a side.
    """
    fits = images.ndim == 4 and all(
        side == wanted or (wanted == DYNAMIC and side > 0 and side % step == 0)
        for side, wanted, step in zip(images.shape, shape, (1, STRIDE, STRIDE, 1), strict=True)
    )
    if images.dtype != np.uint8 or not fits:
        free = f"; -1 is any batch, or any multiple of {STRIDE} as a side"
        raise InputError(
            f"images of dtype {images.dtype} and shape {images.shape}",
            f"uint8 of shape {shape} (N, H, W, RGB{free if DYNAMIC in shape else ''})",
            "resize the images, or export the artifact at their size",
        )
    return np.ascontiguousarray(images)
