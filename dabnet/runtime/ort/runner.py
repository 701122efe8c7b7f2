"""ONNX Runtime as a backend. Needs numpy and onnxruntime, not torch."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dabnet.errors import BackendUnavailable, InputError, MissingPackage
from dabnet.files import existing_file
from dabnet.runtime.cuda import HostArray, open_device_memory
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.ort.arithmetic import EXACT_QDQ, arithmetic_of, fused_nodes
from dabnet.runtime.ort.placement import (
    PlacedNode,
    check_placement,
    read_layer_times,
    traced,
    tracing,
)
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
    declared_shape,
    example_shape,
    output_shape,
    result_dtype,
)

# The run option that says which CUDA graph is captured or replayed; -1 runs without one.
# (onnxruntime_run_options_config_keys.h, kOrtRunOptionsConfigCudaGraphAnnotation)
GRAPH_ID, NO_GRAPH = "gpu_graph_id", -1


class OnnxRuntimeRunner:
    """Runs an ONNX artifact on one execution provider.

    An artifact with float input or logits is run as it is: ``infer`` then takes and returns arrays
    of the manifest's types and shapes.

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
        self._ort, self._device, self._tensorrt = _import(), device, tensorrt
        self._cuda_graph, self._exact_qdq = cuda_graph, exact_qdq
        self._slots: dict[tuple[int, ...], _Slot] = {}
        self._staged: list[_Slot] = []
        self._graphs = 0
        self._path, self._threads = existing_file(path, "an ONNX file"), threads
        source = repr(str(path))
        provider = TENSORRT if tensorrt else PROVIDERS[device]
        self._notes = [provider, *(["CUDA graph"] if cuda_graph else [])]
        self._nodes: list[PlacedNode] | None = None
        options = self._options()
        with traced(options) if device == "cuda" else nullcontext() as nodes_of:
            self._session = self._open(options)
            self._manifest = manifest_of_session(self._session, source)
            self._shape = declared_shape(self._manifest, source)
            if tensorrt and tensorrt.precision != self._manifest.precision:
                raise InputError(
                    f"{tensorrt.precision} of TensorRT for {str(path)!r}", self._manifest.precision
                )
            if nodes_of is not None:
                self._run(self._new_slot(example_shape(self._manifest)), NO_GRAPH)
                self._nodes = nodes_of(self._session)
                self._notes += check_placement(self._nodes, provider, source, allow_cpu_nodes)

    @cached_property
    def info(self) -> RunnerInfo:
        """Of an int8 artifact on the CPU the first look loads and runs it once more."""
        is_int8 = self._manifest.precision == "int8"
        name = f"cpu ({self._threads or 'default'} threads, {platform.machine()})"
        return RunnerInfo(
            backend="onnxruntime",
            version=self._ort.__version__,
            device=name if self._device == "cpu" else _cuda_name(),
            precision=self._manifest.precision,
            shape=self._shape,
            notes=tuple(self._notes),
            arithmetic=self._arithmetic() if is_int8 else "",
        )

    def _arithmetic(self) -> str:
        if self._tensorrt:
            return "int8 kernels of TensorRT"  # the trace shows the engine as one node
        return arithmetic_of(self._ran, self._ort)

    @property
    def fuses_int8(self) -> bool:
        """Whether integer kernels took the place of Q/DQ nodes; see ``onnxruntime_arithmetic``."""
        is_int8 = self._manifest.precision == "int8" and self._tensorrt is None
        return is_int8 and bool(fused_nodes(self._ran))

    @cached_property
    def _ran(self) -> list[PlacedNode]:
        """The nodes of one run, traced in a session of its own: what is timed was never traced."""
        if self._nodes is not None:
            return self._nodes
        options = self._options()
        with traced(options) as nodes_of:
            session = self._open(options)
            given = np.zeros(example_shape(self._manifest), self._manifest.input.dtype)
            session.run(None, {self._manifest.input.name: given})
            return nodes_of(session)

    @property
    def manifest(self) -> Manifest:
        """What the artifact says it is; its tensors were compared with the graph's."""
        return self._manifest

    def infer(self, images: HostArray) -> HostArray:
        """Host → host; the returned array is the caller's own."""
        images = check_input(images, self._manifest.input)
        if self._device == "cpu":
            return self._infer_on_cpu(images)
        slot = self._slots.get(images.shape)
        if slot is None:
            if not self._cuda_graph:  # a captured graph needs its buffers for as long as it lives
                self._slots.clear()
            slot = self._slots[images.shape] = self._new_slot(images.shape)
        slot.input.update_inplace(images)
        self._run(slot, slot.graph)
        found: HostArray = slot.output.numpy().astype(result_dtype(self._manifest), copy=False)
        return found

    def stage(self, batches: Sequence[HostArray]) -> None:
        """Copy ``batches`` to the device; a buffer that fits is used again, with its graph."""
        checked = [check_input(batch, self._manifest.input) for batch in batches]
        kept = self._staged
        self._staged = []
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
        given = {self._manifest.input.name: check_input(images, self._manifest.input)}
        options = self._options()
        with tracing(options) as ended:
            session = self._open(options)
            for _ in range(1 + calls):
                session.run(None, given)
            return read_layer_times(ended(session), skipped=1)

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

    def _infer_on_cpu(self, images: HostArray) -> HostArray:
        """Bind both arrays as they are: no copies, and an output of its own for each call."""
        shape = output_shape(self._manifest, images.shape)
        found = np.empty(shape, self._manifest.output.dtype)
        value = self._ort.OrtValue.ortvalue_from_numpy
        slot = _Slot(self._session, self._manifest, value(images, "cpu", 0), value(found, "cpu", 0))
        self._run(slot, NO_GRAPH)
        return found.astype(result_dtype(self._manifest), copy=False)

    def _new_slot(self, shape: tuple[int, ...]) -> _Slot:
        """Buffers on the device for one input of ``shape``, with a graph's number of their own."""
        given, result = (
            self._ort.OrtValue.ortvalue_from_shape_and_type(
                sides, np.dtype(tensor.dtype).type, self._device, 0
            )
            for tensor, sides in (
                (self._manifest.input, shape),
                (self._manifest.output, output_shape(self._manifest, shape)),
            )
        )
        self._graphs += 1
        return _Slot(self._session, self._manifest, given, result, shape, self._graphs)

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


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "cpu") from error
    return onnxruntime


def _cuda_name() -> str:
    memory = open_device_memory()
    try:
        return memory.name
    finally:
        memory.close()
