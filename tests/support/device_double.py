"""A GPU without a GPU: what an engine needs of ``dabnet.runtime.cuda``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class FakeDeviceMemory:
    """A GPU of byte arrays. What is enqueued on a stream runs only when it is synchronised."""

    def __init__(
        self,
        name: str = "NVIDIA Double 3090",
        compute_capability: tuple[int, int] = (8, 6),
        driver: str = "580.1 (CUDA 13.0)",
    ) -> None:
        self.name, self.compute_capability, self.driver = name, compute_capability, driver
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

    def allocate(self, nbytes: int) -> int:
        address = self._address()
        self.device[address] = np.zeros(nbytes, np.uint8)
        return address

    def free(self, address: int) -> None:
        del self.device[address]

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
        assert not (self.device or self.host or self.streams), "closed with memory still held"
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
