"""Memory of a GPU around a session of onnxruntime: pinned copies, bound addresses, events.

The memory is ours and not onnxruntime's, so that a row of onnxruntime times the same copies as one
of TensorRT: from and to pinned host memory, on the stream that computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from dabnet.runtime.cuda import HostArray, close_at_exit, open_device_memory
from dabnet.runtime.manifest import Manifest, TensorInfo

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One input and its outputs, bound once."""

    given: Any  # address on the GPU, or a value in host memory
    results: tuple[Any, ...]  # likewise, or arrays in host memory
    binding: Any
    shape: Shape  # of the input
    number: int = 0  # of its CUDA graph, from 1
    held: tuple[Any, ...] = ()  # not every release keeps what is bound alive


class GpuBuffers:
    """The buffers of one session, on one stream. To be used inside ``memory.active()``.

    Attributes:
        memory, stream: the GPU and what all work is started on.
    """

    def __init__(self, index: int) -> None:
        self.memory = open_device_memory(index)
        self._index, self._slots = index, 0
        self._held = ExitStack()
        self._addresses: set[int] = set()
        self._pinned: dict[str, HostArray] = {}
        self.closing = ExitStack()  # the owner may add what goes first
        self.closing.callback(self.memory.close)
        self.closing.callback(self._release)
        close_at_exit(self.closing)
        with self.memory.active():
            self.stream = self.memory.create_stream()
            self._held.callback(self.memory.destroy_stream, self.stream)
            self.events = self.memory.create_event(), self.memory.create_event()
            for event in self.events:
                self._held.callback(self.memory.destroy_event, event)

    def slot(self, session: Any, manifest: Manifest, shape: Shape) -> Slot:
        """Allocate and bind memory for an input of ``shape``."""
        self._slots += 1
        binding = session.io_binding()
        given = self._bound(binding.bind_input, manifest.input, shape)
        found = manifest.output_shape(shape)
        results = [self._bound(binding.bind_output, one, found) for one in manifest.outputs]
        return Slot(given, tuple(results), binding, shape, self._slots)

    def _bound(self, bind: Callable[..., None], tensor: TensorInfo, shape: Shape) -> int:
        kind = np.dtype(tensor.dtype)
        address = self.allocate(math.prod(shape) * kind.itemsize)
        bind(tensor.name, "cuda", self._index, kind.type, shape, address)
        return address

    def allocate(self, nbytes: int) -> int:
        address = self.memory.allocate(nbytes)
        self._addresses.add(address)
        return address

    def free(self, slot: Slot) -> None:
        """Release what ``slot`` gave; no run may use it, and no graph may hold it."""
        for address in (slot.given, *slot.results):
            self._addresses.remove(address)
            self.memory.free(address)

    def upload(self, images: HostArray, address: int) -> None:
        """Start a copy of ``images`` to the GPU, by way of pinned memory."""
        staging = self._host("up", images.shape, images.dtype)
        staging[...] = images
        self.memory.copy_to_device(address, staging, self.stream)

    def download(
        self, addresses: Sequence[int], tensors: Sequence[TensorInfo], shape: Shape
    ) -> list[HostArray]:
        """Wait for the run, and return what lies at ``addresses`` in pinned memory of ours.

        ``tensors`` name the outputs and their types; all have ``shape``.
        """
        found = [self._host(f"down {t.name}", shape, np.dtype(t.dtype)) for t in tensors]
        for array, address in zip(found, addresses, strict=True):
            self.memory.copy_to_host(array, address, self.stream)
        self.synchronize()
        return found

    def synchronize(self) -> None:
        self.memory.synchronize(self.stream)

    def __del__(self) -> None:
        with suppress(Exception):  # a runner that was dropped and not closed; nobody can be told
            self.close()

    def close(self) -> None:
        """Release everything; slots must not be used afterwards."""
        self.closing.close()

    def _host(self, which: str, shape: Shape, dtype: Any) -> HostArray:
        """Pinned memory that is as large as the largest asked for so far."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        kept = self._pinned.get(which)
        if kept is None or kept.nbytes < nbytes:
            self.synchronize()
            if kept is not None:
                self.memory.free_pinned(self._pinned.pop(which))
            kept = self._pinned[which] = self.memory.pinned((nbytes,), np.uint8)
        view: HostArray = kept[:nbytes].view(dtype).reshape(shape)
        return view

    def _release(self) -> None:
        with self.memory.active():
            for kept in self._pinned.values():
                self.memory.free_pinned(kept)
            for address in self._addresses:
                self.memory.free(address)
            self._pinned.clear()
            self._addresses.clear()
            self._held.close()
