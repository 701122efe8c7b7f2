"""A GPU without a GPU: what an engine needs of ``dabnet.runtime.cuda``."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class FakeDeviceMemory:
    """A GPU of byte arrays. What is enqueued on a stream runs only when it is synchronised.

    It is used inside ``active`` alone, in whichever thread. A run takes one second of its clock.
    """

    def __init__(
        self,
        index: int = 0,
        *,
        name: str = "NVIDIA Double 3090",
        compute_capability: tuple[int, int] = (8, 6),
        driver: str = "580.1 (CUDA 13.0)",
    ) -> None:
        self.name, self.compute_capability, self.driver = name, compute_capability, driver
        self.index, self.pci_bus_id = index, f"0000:{65 + index}:00.0"
        self.events: dict[int, float] = {}
        self.clock_s = 0.0
        self._current = threading.local()
        self.device: dict[int, np.ndarray] = {}
        self.host: dict[int, np.ndarray] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.capturing = False
        self.graphs: list[FakeGraph] = []
        self.opened = 1
        self._next = 4096

    def _address(self) -> int:
        self._next += 1 << 24
        return self._next

    @contextmanager
    def active(self) -> Iterator[None]:
        self._current.depth = self.depth + 1
        try:
            yield
        finally:
            self._current.depth -= 1

    @property
    def depth(self) -> int:
        """How often this thread is inside ``active``."""
        return getattr(self._current, "depth", 0)

    def allocate(self, nbytes: int) -> int:
        assert self.depth, "another GPU may be current in this thread"
        block = np.zeros(nbytes, np.uint8)
        address = block.ctypes.data  # so that a double of onnxruntime can bind it
        assert address not in self.device
        self.device[address] = block
        return address

    def free(self, address: int) -> None:
        assert self.depth, "another GPU may be current in this thread"
        del self.device[address]

    def create_event(self) -> int:
        event = self._address()
        self.events[event] = 0.0
        return event

    def destroy_event(self, event: int) -> None:
        del self.events[event]

    def record(self, event: int, stream: int) -> None:
        def note() -> None:
            self.events[event] = self.clock_s

        self.streams[stream].append(note)

    def elapsed_s(self, start: int, end: int) -> float:
        for stream in self.streams:
            self.synchronize(stream)
        return self.events[end] - self.events[start]

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        def work() -> None:
            ctypes.memmove(target, source, nbytes)

        self.streams[stream].append(work)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = np.empty(shape, dtype)
        self.host[id(array)] = array
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        del self.host[id(array)]

    def create_stream(self) -> int:
        stream = self._address()
        self.streams[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        del self.streams[stream]

    def synchronize(self, stream: int) -> None:
        assert self.depth, "another GPU may be current in this thread"
        for work in self.streams[stream]:
            work()
        self.streams[stream].clear()

    def copy_to_device(self, address: int, source: np.ndarray, stream: int) -> None:
        assert self._is_pinned(source), "copied from memory that is not pinned"

        def work() -> None:
            self.device[address][: source.nbytes] = source.reshape(-1).view(np.uint8)

        self.streams[stream].append(work)

    def copy_to_host(self, target: np.ndarray, address: int, stream: int) -> None:
        assert self._is_pinned(target), "copied to memory that is not pinned"

        def work() -> None:
            target.reshape(-1).view(np.uint8)[:] = self.device[address][: target.nbytes]

        self.streams[stream].append(work)

    def _is_pinned(self, array: np.ndarray) -> bool:
        """Whether ``array`` is a whole pinned array or a view of one."""
        assert array.flags.c_contiguous
        return any(np.shares_memory(array, held) for held in self.host.values())

    def capture(self, stream: int, work: Callable[[], None]) -> FakeGraph:
        assert not self.streams[stream], "captured while work was under way"
        self.capturing = True
        try:
            work()
            graph = FakeGraph(self, list(self.streams[stream]))
        finally:
            self.capturing = False
            self.streams[stream].clear()
        self.graphs.append(graph)
        return graph

    def close(self) -> None:
        assert not self.graphs, "closed with graphs still held"
        held = self.device or self.host or self.streams or self.events
        assert not held, "closed with memory still held"
        self.opened -= 1


class FakeGraph:
    """What was enqueued while it was captured, to be enqueued again as a whole."""

    def __init__(self, memory: FakeDeviceMemory, recorded: list[Callable[[], None]]) -> None:
        assert recorded, "an empty graph"
        self._memory, self._recorded = memory, recorded
        self.launches = 0

    def launch(self, stream: int) -> None:
        self.launches += 1
        self._memory.streams[stream] += self._recorded

    def close(self) -> None:
        self._memory.graphs.remove(self)
