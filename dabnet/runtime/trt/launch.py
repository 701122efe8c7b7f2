"""Starting runs of an engine: plainly, or as CUDA graphs.

TensorRT-RTX captures graphs itself, once its kernels for a shape are compiled, and again whenever
an address or a shape changes; a capture from outside would need an engine that was built for it
(``REQUIRE_USER_ALLOCATION``). So there its own strategy is switched on. Elsewhere the run is
captured here. In both, each input address has a context of its own.

https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-with-cuda-graphs.html
https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html (CUDA Graphs)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dabnet.errors import BackendUnavailable, InputError
from dabnet.files import replacing, writable_target
from dabnet.outputs import TIMINGS
from dabnet.runtime.cuda import CudaGraph, DeviceMemory
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.trt.product import Product


class EngineSettings:
    """How the contexts of one engine are created (``IRuntimeConfig``, where the product has it).

    Raises:
        InputError: the product has no runtime cache, or the file cannot be written.
    """

    def __init__(self, product: Product, cuda_graph: bool, cache: str | Path | None) -> None:
        self._trt = product.module
        if cache is not None and not hasattr(self._trt, "IRuntimeCache"):
            raise InputError(
                f"a runtime cache with {product}, which compiles nothing at the load",
                "TensorRT-RTX for a runtime cache",
                "leave runtime_cache out",
            )
        self._path = None if cache is None else writable_target(cache, kind=TIMINGS)
        self._config: Any = None
        self._cache: Any = None
        self._loaded = b""
        self.cuda_graph = cuda_graph
        self._own_graphs = cuda_graph and hasattr(self._trt, "CudaGraphStrategy")
        self.captures = cuda_graph and not self._own_graphs  # whether here, by a launcher

    def configure(self, engine: Any) -> list[str]:
        """Read the cache and prepare contexts of ``engine``; return what the reader must know.

        TensorRT-RTX refuses a cache that is damaged, or of another GPU, driver or version, as a
        whole (``IRuntimeCache.deserialize``); a new one is begun.
        """
        notes = ["CUDA graph"] if self.captures else []
        if not self._own_graphs and self._path is None:
            return notes
        self._config = engine.create_runtime_config()
        if self._own_graphs:
            self._config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            notes.append("CUDA graph of TensorRT-RTX")
        if self._path is not None:
            self._cache = self._config.create_runtime_cache()
            if self._path.is_file() and (blob := self._path.read_bytes()):
                if self._cache.deserialize(blob):
                    self._loaded = blob
                    notes.append("runtime cache read")
                else:
                    notes.append(f"runtime cache {str(self._path)!r} does not fit and is made anew")
            if not self._config.set_runtime_cache(self._cache):
                raise BackendUnavailable("TensorRT-RTX took no runtime cache")
        return notes

    def create_context(self, engine: Any) -> Any:
        return engine.create_execution_context(*([self._config] if self._config else []))

    def save(self) -> None:
        """Write the cache if it holds more than was read; to be called before the engine goes."""
        if self._cache is None or self._path is None:
            return
        blob = bytes(self._cache.serialize())
        if blob and blob != self._loaded:
            with replacing(self._path) as temporary:
                temporary.write_bytes(blob)
            self._loaded = blob

    def close(self) -> None:
        self._cache = self._config = None


class _Prepared(NamedTuple):
    """A context that reads at one address, and keeps its shape: a graph depends on both."""

    context: Any
    shape: tuple[int, ...]
    graph: CudaGraph | None  # None where TensorRT-RTX captures its own


class EngineLauncher:
    """Starts runs of an engine that read at one address or another.

    ``outputs`` are the addresses that they write at, by the name of the tensor.

    With ``settings.cuda_graph`` there is an execution context for each input address, which is
    prepared anew when the shape of that input changes. NVIDIA advises one context per graph: to
    change the context from which a graph was captured is undefined.
    """

    def __init__(
        self,
        engine: Any,
        settings: EngineSettings,
        manifest: Manifest,
        memory: DeviceMemory,
        stream: int,
        outputs: Mapping[str, int],
    ) -> None:
        self._engine, self._settings, self._manifest = engine, settings, manifest
        self._memory, self._stream, self._outputs = memory, stream, outputs
        self._prepared: dict[int, _Prepared] = {}
        self._context = None if settings.cuda_graph else self._new_context()

    def prepare(self, address: int, shape: tuple[int, ...]) -> None:
        """Make the graph of an input of ``shape`` at ``address``, if that is wanted and new."""
        old = self._prepared.get(address)
        if not self._settings.cuda_graph or (old is not None and old.shape == shape):
            return
        self._memory.synchronize(self._stream)
        if old is not None:
            del self._prepared[address]
            if old.graph is not None:
                old.graph.close()
        context = self._new_context() if old is None else old.context
        self._set_input(context, address, shape)
        # The first run at a shape does work that cannot be captured.
        self._execute(context)
        self._memory.synchronize(self._stream)
        graph = None
        if self._settings.captures:
            graph = self._memory.capture(self._stream, lambda: self._execute(context))
        self._prepared[address] = _Prepared(context, shape, graph)

    def enqueue(self, address: int, shape: tuple[int, ...]) -> None:
        if not self._settings.cuda_graph:
            self._set_input(self._context, address, shape)
            self._execute(self._context)
            return
        self.prepare(address, shape)
        prepared = self._prepared[address]
        if prepared.graph is not None:
            prepared.graph.launch(self._stream)
        else:
            self._execute(prepared.context)

    def profile(self, address: int, shape: tuple[int, ...], runs: int, profiler: Any) -> None:
        """Run under a profiler, after one run without it, in a context that no other run has."""
        context = self._new_context(self._engine.create_execution_context())
        self._set_input(context, address, shape)
        for number in range(1 + runs):
            if number == 1:
                context.profiler = profiler
            self._execute(context)
            self._memory.synchronize(self._stream)

    def close(self) -> None:
        """Release graphs and contexts, which must not be running."""
        for prepared in self._prepared.values():
            if prepared.graph is not None:
                prepared.graph.close()
        self._prepared.clear()
        self._context = self._engine = None

    def _new_context(self, context: Any = None) -> Any:
        context = context or self._settings.create_context(self._engine)
        if context is None:
            fix = "free memory on the GPU"
            raise BackendUnavailable("TensorRT gave no execution context", fix=fix)
        for name, address in self._outputs.items():
            self._set_address(context, name, address)
        return context

    def _set_input(self, context: Any, address: int, shape: tuple[int, ...]) -> None:
        name = self._manifest.input.name
        if self._manifest.is_dynamic and not context.set_input_shape(name, shape):
            raise BackendUnavailable(f"TensorRT refused the shape {shape} of {name!r}")
        self._set_address(context, name, address)

    def _set_address(self, context: Any, name: str, address: int) -> None:
        if not context.set_tensor_address(name, address):
            raise BackendUnavailable(f"TensorRT refused the address of {name!r}")

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream):
            raise BackendUnavailable("TensorRT could not start a run")
