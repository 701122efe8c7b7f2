"""ONNX Runtime as a backend. Needs numpy and onnxruntime, not torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dabnet.errors import BackendUnavailable, InputError
from dabnet.files import existing_file
from dabnet.precision import INT8
from dabnet.runtime.cuda import HostArray, open_device_memory
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.ort.arithmetic import EXACT_QDQ, arithmetic_of, fused_nodes
from dabnet.runtime.ort.placement import PlacedNode, check_placement, node_times, traced
from dabnet.runtime.ort.session import (
    PROVIDERS,
    TENSORRT,
    TensorRTProvider,
    first_line,
    manifest_of_session,
    open_session,
)
from dabnet.runtime.runner import (
    LayerTime,
    RunnerInfo,
    check_input,
    cpu_name,
    declared_shape,
    example_shape,
    import_backend,
    output_shape,
    result_dtype,
)

# The run option that says which CUDA graph is captured or replayed; -1 runs without one.
# (onnxruntime_run_options_config_keys.h, kOrtRunOptionsConfigCudaGraphAnnotation)
GRAPH_ID, NO_GRAPH = "gpu_graph_id", -1


class OnnxRuntimeRunner:
    """Runs an ONNX artifact on one execution provider.

    Args:
        path: the ONNX file.
        device: ``cpu`` or ``cuda``. Where CUDA is asked for and cannot be used, the runner
            raises ``BackendUnavailable``: onnxruntime by itself would fall back to the CPU.
        threads: CPU threads inside an operator; None leaves onnxruntime's choice.
        cuda_graph: capture the run of each input buffer into a CUDA graph (``cuda`` only).
            onnxruntime keeps every graph until the session ends, so a call of another size than
            before costs memory for good.
        allow_cpu_nodes: accept nodes that onnxruntime places on the CPU although CUDA was asked
            for; arithmetic on shapes is accepted without it. ``info.notes`` counts both.
        exact_qdq: compute int8 as the graph's Q/DQ nodes say, in floating point: the masks of the
            file, not those of this CPU's integer kernels.
        tensorrt: run on onnxruntime's TensorRT provider (``cuda`` only); the first load builds the
            engine, which takes minutes.

    Attributes:
        manifest: of the artifact; its tensors were compared with the graph's.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "cpu",
        threads: int | None = None,
        cuda_graph: bool = False,
        allow_cpu_nodes: bool = False,
        exact_qdq: bool = False,
        tensorrt: TensorRTProvider | None = None,
    ) -> None:
        if device not in PROVIDERS:
            raise InputError(f"device {device!r}", f"one of {', '.join(PROVIDERS)}")
        if cuda_graph and device != "cuda":
            raise InputError("a CUDA graph on the CPU", "device 'cuda'", "leave cuda_graph out")
        if tensorrt and (device != "cuda" or cuda_graph):
            raise InputError("TensorRT on the CPU, or in a CUDA graph", "device 'cuda' alone")
        self._ort = import_backend("onnxruntime", "cpu")
        self._device, self._tensorrt, self._threads = device, tensorrt, threads
        self._cuda_graph, self._exact_qdq = cuda_graph, exact_qdq
        self._slots: dict[tuple[int, ...], _Slot] = {}
        self._staged: list[_Slot] = []
        self._graphs = 0
        self._path, source = existing_file(path, "an ONNX file"), repr(str(path))
        provider = TENSORRT if tensorrt else PROVIDERS[device]
        self._notes = [provider, *(["CUDA graph"] if cuda_graph else [])]
        options = self._options()
        with traced(options) if device == "cuda" else nullcontext() as nodes_of:
            self._session = self._open(options)
            self.manifest = manifest_of_session(self._session, source)
            self._shape = declared_shape(self.manifest, source)
            if tensorrt and tensorrt.precision != self.manifest.precision:
                raise InputError(
                    f"{tensorrt.precision} of TensorRT for {source}", self.manifest.precision
                )
            if nodes_of is not None:
                self._run(self._new_slot(example_shape(self.manifest)), NO_GRAPH)
                self._ran = nodes_of(self._session)
                self._notes += check_placement(self._ran, provider, source, allow_cpu_nodes)

    @cached_property
    def info(self) -> RunnerInfo:
        """What runs. Of an int8 artifact on the CPU the first look loads and runs it once more."""
        arithmetic = ""
        if self._tensorrt and self.manifest.precision == INT8:
            arithmetic = "int8 kernels of TensorRT"  # the trace shows the engine as one node
        elif self.manifest.precision == INT8:
            arithmetic = arithmetic_of(self._ran, self._ort)
        return RunnerInfo(
            backend="onnxruntime",
            version=self._ort.__version__,
            device=cpu_name(self._threads) if self._device == "cpu" else _cuda_name(),
            precision=self.manifest.precision,
            shape=self._shape,
            notes=tuple(self._notes),
            arithmetic=arithmetic,
        )

    @property
    def fuses_int8(self) -> bool:
        """Whether integer kernels took the place of Q/DQ nodes; see ``ort.arithmetic``."""
        is_int8 = self.manifest.precision == INT8 and self._tensorrt is None
        return is_int8 and bool(fused_nodes(self._ran))

    @cached_property
    def _ran(self) -> list[PlacedNode]:
        """The nodes of one run. On the CPU traced in another session: what is timed never was."""
        images = np.zeros(example_shape(self.manifest), self.manifest.input.dtype)
        return self._traced_runs(images, 1)

    def infer(self, images: HostArray) -> HostArray:
        images = check_input(images, self.manifest)
        if self._device == "cpu":
            return self._infer_on_cpu(images)
        slot = self._slots.get(images.shape)
        if slot is None:
            if not self._cuda_graph:  # a captured graph needs its buffers for as long as it lives
                self._slots.clear()
            slot = self._slots[images.shape] = self._new_slot(images.shape)
        slot.input.update_inplace(images)
        self._run(slot, slot.graph)
        found: HostArray = slot.output.numpy().astype(result_dtype(self.manifest), copy=False)
        return found

    def _infer_on_cpu(self, images: HostArray) -> HostArray:
        """Bind both arrays as they are: no copies, and an output of its own for each call."""
        shape = output_shape(self.manifest, images.shape)
        found = np.empty(shape, self.manifest.output.dtype)
        value = self._ort.OrtValue.ortvalue_from_numpy
        slot = _Slot(self._session, self.manifest, value(images, "cpu", 0), value(found, "cpu", 0))
        self._run(slot, NO_GRAPH)
        return found.astype(result_dtype(self.manifest), copy=False)

    def stage(self, batches: Sequence[HostArray]) -> None:
        """Copy ``batches`` to the device; a buffer that fits is used again, with its graph."""
        checked = [check_input(batch, self.manifest) for batch in batches]
        kept, self._staged = self._staged, []
        for index, batch in enumerate(checked):
            fits = index < len(kept) and kept[index].shape == batch.shape
            slot = kept[index] if fits else self._new_slot(batch.shape)
            slot.input.update_inplace(batch)
            self._staged.append(slot)

    def launch(self, index: int) -> None:
        slot = self._staged[index]
        self._run(slot, slot.graph)

    def synchronize(self) -> None:
        for slot in self._staged:
            slot.binding.synchronize_outputs()

    def layer_times(self, images: HostArray, calls: int) -> tuple[LayerTime, ...]:
        """Time by node, in a session of its own: what is timed is never traced."""
        images = check_input(images, self.manifest)
        return node_times(self._traced_runs(images, 1 + calls), skipped=1)

    def close(self) -> None:
        self._slots, self._staged = {}, []
        self._session = None

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if self._exact_qdq:
            options.add_session_config_entry(EXACT_QDQ, "1")
        return options

    def _open(self, options: Any) -> Any:
        return open_session(
            self._ort, self._path, options, self._device, self._cuda_graph, self._tensorrt
        )

    def _traced_runs(self, images: HostArray, runs: int) -> list[PlacedNode]:
        options = self._options()
        with traced(options) as nodes_of:
            session = self._open(options)
            for _ in range(runs):
                session.run(None, {self.manifest.input.name: images})
            return nodes_of(session)

    def _new_slot(self, shape: tuple[int, ...]) -> _Slot:
        """Buffers on the device for one input of ``shape``, with a graph's number of their own."""
        given, result = self.manifest.input, self.manifest.output
        allocate = self._ort.OrtValue.ortvalue_from_shape_and_type
        source, target = (
            allocate(sides, np.dtype(tensor.dtype).type, self._device, 0)
            for tensor, sides in ((given, shape), (result, output_shape(self.manifest, shape)))
        )
        self._graphs += 1
        return _Slot(self._session, self.manifest, source, target, shape, self._graphs)

    def _run(self, slot: _Slot, graph: int) -> None:
        options = None
        if self._cuda_graph:
            options = self._ort.RunOptions()
            options.add_run_config_entry(GRAPH_ID, str(graph))
        try:
            self._session.run_with_iobinding(slot.binding, options)
        except Exception as error:  # as at the load; most often the GPU's memory is full
            raise BackendUnavailable(f"onnxruntime failed ({first_line(error)})") from error


class _Slot:
    """One input and one output where the provider computes, bound once."""

    def __init__(
        self,
        session: Any,
        manifest: Manifest,
        given: Any,
        result: Any,
        shape: tuple[int, ...] = (),
        graph: int = NO_GRAPH,
    ) -> None:
        self.input, self.output = given, result  # not every release keeps what is bound alive
        self.shape, self.graph = shape, graph
        self.binding = session.io_binding()
        self.binding.bind_ortvalue_input(manifest.input.name, given)
        self.binding.bind_ortvalue_output(manifest.output.name, result)


def _cuda_name() -> str:
    memory = open_device_memory()
    try:
        return memory.name
    finally:
        memory.close()
