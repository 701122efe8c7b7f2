"""ONNX Runtime as a backend. Needs numpy and onnxruntime, not torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dabnet.device import Device
from dabnet.errors import BackendUnavailable, InputError, first_line
from dabnet.files import existing_file
from dabnet.precision import INT8
from dabnet.runtime.cuda import HostArray
from dabnet.runtime.manifest import DYNAMIC, Manifest, TensorInfo
from dabnet.runtime.onnx_check import check_onnx_file
from dabnet.runtime.ort.arithmetic import EXACT_QDQ, arithmetic_of, fused_nodes
from dabnet.runtime.ort.gpu import GpuBuffers, Slot
from dabnet.runtime.ort.placement import PlacedNode, check_placement, node_times, traced
from dabnet.runtime.ort.providers import TF32_NOTE, Provider, TensorRTProvider
from dabnet.runtime.runner import (
    LayerTime,
    Prediction,
    RunnerInfo,
    check_input,
    cpu_name,
    import_backend,
    prediction,
)
from dabnet.runtime.trt.product import TENSORRT_RTX

# The run option that says which CUDA graph is captured or replayed; -1 runs without one.
# (onnxruntime_run_options_config_keys.h, kOrtRunOptionsConfigCudaGraphAnnotation)
GRAPH_ID, NO_GRAPH = "gpu_graph_id", -1

# The run option by which a run returns before its stream has finished: ``synchronize`` waits for
# it. (kOrtRunOptionsConfigDisableSynchronizeExecutionProviders; a replay of a graph waits all the
# same in older releases.)
WITHOUT_WAITING = "disable_synchronize_execution_providers"


class OnnxRuntimeRunner:
    """Runs an ONNX artifact on one execution provider.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``. Where CUDA is asked for and cannot be used, the
            runner raises ``BackendUnavailable``: onnxruntime by itself would fall back to the CPU.
        threads: CPU threads inside an operator; None leaves onnxruntime's choice.
        cuda_graph: capture the run of each input buffer into a CUDA graph (``cuda`` only).
            onnxruntime keeps every graph until the session ends, so a call of another size than
            before costs memory for good. A graph belongs to the thread that captured it: call the
            runner from one thread.
        allow_cpu_nodes: accept nodes that onnxruntime places on the CPU although CUDA was asked
            for; arithmetic on shapes is accepted without it. ``info.notes`` counts both.
        exact_qdq: compute int8 as the graph's Q/DQ nodes say, in floating point: the masks of the
            file, not those of this CPU's integer kernels.
        tensorrt: run on one of onnxruntime's TensorRT providers (``cuda`` only), with TF32 off in
            the whole process; the first load builds the engine, which takes minutes. It captures
            one CUDA graph per session: all runs have one input buffer, to which a staged input is
            copied on the GPU.
        manifest: of a file that carries none.

    Raises:
        ArtifactError: the file does not load, or its manifest does not fit it.
        BackendUnavailable: onnxruntime is missing, or lacks the provider or cannot start it.
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
        manifest: Manifest | None = None,
    ) -> None:
        chosen = Device.parse(device)
        if cuda_graph and not chosen.is_gpu:
            raise InputError("a CUDA graph on the CPU", "device 'cuda'", "leave cuda_graph out")
        if tensorrt and (not chosen.is_gpu or cuda_graph):
            expected = "device 'cuda' alone: the provider captures its own graph"
            raise InputError("TensorRT on the CPU, or with cuda_graph", expected)
        self._ort = import_backend("onnxruntime", "cpu")
        self._threads, self._cuda_graph, self._exact_qdq = threads, cuda_graph, exact_qdq
        self._slots: dict[tuple[int, ...], Slot] = {}  # of infer
        self._staged: list[_Staged] = []
        self._path, source = existing_file(path, "an ONNX file"), repr(str(path))
        index = chosen.index if chosen.is_gpu else None
        self._provider = Provider(index, cuda_graph=cuda_graph, tensorrt=tensorrt)
        self._provider.require(self._ort)
        self._buffers = None if index is None else GpuBuffers(index)
        if self._buffers is not None:
            self._buffers.closing.callback(self._drop)
            card, stream = self._buffers.memory, self._buffers.stream
            self._provider = replace(self._provider, stream=stream, pci_bus_id=card.pci_bus_id)
        self._notes = [self._provider.name]
        self._notes += ["CUDA graph"] if cuda_graph or tensorrt else []
        self._notes += [TF32_NOTE] if tensorrt and tensorrt.product == TENSORRT_RTX else []
        try:
            with self._active():
                self._load(manifest, source, allow_cpu_nodes)
        except BaseException:
            self.close()
            raise

    def _load(self, manifest: Manifest | None, source: str, allow_cpu_nodes: bool) -> None:
        options, tensorrt = self._options(), self._provider.tensorrt
        with traced(options) if self._buffers else nullcontext() as nodes_of:
            file = check_onnx_file(self._path)
            manifest = manifest or file.manifest()
            self._session = self._provider.session(self._ort, self._path, options)
            self.manifest = _fitting(self._session, source, manifest)
            self._shape = self.manifest.served_shape(source)
            expected = self.manifest.precision
            if tensorrt and tensorrt.precision != expected:
                raise InputError(f"{tensorrt.precision} of TensorRT for {source}", expected)
            if tensorrt and self.manifest.is_dynamic:
                expected = "one of a fixed batch and size"
                raise InputError(f"{source}, whose calls choose, on {tensorrt.name}", expected)
            if nodes_of is not None and self._buffers is not None:
                self._run(self._slot_of(self.manifest.example_shape), NO_GRAPH)
                self._buffers.synchronize()
                self._ran, name = nodes_of(self._session), self._provider.name
                self._notes += check_placement(self._ran, name, source, allow_cpu_nodes)

    @cached_property
    def info(self) -> RunnerInfo:
        """What runs. Of an int8 artifact on the CPU the first look loads and runs it once more."""
        precision, arithmetic = self.manifest.precision, ""
        if precision == INT8:  # TensorRT's engine is one node of the trace
            of_engine = "int8 kernels of TensorRT"
            on_tensorrt = self._provider.tensorrt is not None
            arithmetic = of_engine if on_tensorrt else arithmetic_of(self._ran, self._ort)
        device = self._buffers.memory.name if self._buffers else cpu_name(self._threads)
        asked = (device, precision, self._shape, tuple(self._notes), arithmetic)
        return RunnerInfo("onnxruntime", self._ort.__version__, *asked, self.manifest.head)

    @property
    def fuses_int8(self) -> bool:
        """Whether integer kernels took the place of Q/DQ nodes; see ``ort.arithmetic``."""
        is_int8 = self.manifest.precision == INT8 and self._provider.tensorrt is None
        return is_int8 and bool(fused_nodes(self._ran))

    @cached_property
    def _ran(self) -> list[PlacedNode]:
        """The nodes of one run. On the CPU traced in another session: what is timed never was."""
        images = np.zeros(self.manifest.example_shape, self.manifest.input.dtype)
        return self._traced_runs(images, 1)

    def infer(self, images: HostArray) -> HostArray:
        return self._results(images)[0]

    def infer_with_confidence(self, images: HostArray) -> Prediction:
        return prediction(self._results(images))

    def _results(self, images: HostArray) -> list[HostArray]:
        images = check_input(images, self.manifest)
        buffers, dtype = self._buffers, self.manifest.result_dtype
        if buffers is None:
            # All arrays are bound as they are: no copies, and outputs of its own for each call.
            slot = self._host_slot(images)
            self._run(slot, NO_GRAPH)
            return [result.astype(dtype, copy=False) for result in slot.results]
        shape = self.manifest.output_shape(images.shape)
        with buffers.memory.active():
            slot = self._slot_of(images.shape)
            buffers.upload(images, slot.given)
            self._run(slot, slot.number)
            # A copy: the pinned buffer is written by the next call.
            found = buffers.download(slot.results, self.manifest.outputs, shape)
            return [result.astype(dtype) for result in found]

    def stage(self, batches: Sequence[HostArray]) -> None:
        """Copy ``batches`` to the device; a buffer that fits is used again, with its graph."""
        checked = [check_input(batch, self.manifest) for batch in batches]
        buffers = self._buffers
        if buffers is None:
            self._staged = [_Staged(self._host_slot(batch.copy())) for batch in checked]
            return
        with buffers.memory.active():
            buffers.synchronize()
            kept, self._staged = self._staged, []
            for index, batch in enumerate(checked):
                fits = index < len(kept) and kept[index].slot.shape == batch.shape
                staged = kept[index] if fits else self._new_staged(batch)
                self._staged.append(staged)
                buffers.upload(batch, staged.source or staged.slot.given)
                buffers.synchronize()  # the pinned buffer serves the next batch
            for old in kept if not self._keeps_graphs else ():
                if old not in self._staged:
                    buffers.free(old.slot)

    def launch(self, index: int) -> None:
        staged = self._staged[index]
        with self._active():
            self._bring(staged)
            self._run(staged.slot, staged.slot.number)

    def synchronize(self) -> None:
        if self._buffers is not None:
            with self._active():
                self._buffers.synchronize()

    def gpu_seconds(self, index: int) -> float:
        if self._buffers is None:
            raise BackendUnavailable("CUDA events on the CPU")
        staged, memory, stream = self._staged[index], self._buffers.memory, self._buffers.stream
        start, end = self._buffers.events
        with memory.active():
            self._bring(staged)
            memory.record(start, stream)
            self._run(staged.slot, staged.slot.number)
            memory.record(end, stream)
            return memory.elapsed_s(start, end)

    def layer_times(self, images: HostArray, calls: int) -> tuple[LayerTime, ...]:
        """Time by node, in a session of its own: what is timed is never traced."""
        images = check_input(images, self.manifest)
        if self._buffers is not None:
            return node_times(self._ran, skipped=0)  # which says why there are none
        return node_times(self._traced_runs(images, 1 + calls), skipped=1)

    def close(self) -> None:
        """Release session and buffers. May be called twice."""
        if self._buffers is not None:
            self._buffers.close()
        self._drop()

    def _drop(self) -> None:
        """Let go of what lies on the stream, before the stream goes."""
        self._slots, self._staged, self._session = {}, [], None

    def _active(self) -> AbstractContextManager[None]:
        return self._buffers.memory.active() if self._buffers else nullcontext()

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, too
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if self._exact_qdq:
            options.add_session_config_entry(EXACT_QDQ, "1")
        return options

    def _traced_runs(self, images: HostArray, runs: int) -> list[PlacedNode]:
        options = self._options()
        with traced(options) as nodes_of:
            session = self._provider.session(self._ort, self._path, options)
            for _ in range(runs):
                session.run(None, {self.manifest.input.name: images})
            return nodes_of(session)

    def _slot_of(self, shape: tuple[int, ...]) -> Slot:
        """The buffers of ``infer`` for an input of ``shape``."""
        assert self._buffers is not None
        if shape not in self._slots:
            if not self._keeps_graphs:
                for slot in self._slots.values():
                    self._buffers.free(slot)
                self._slots.clear()
            self._slots[shape] = self._buffers.slot(self._session, self.manifest, shape)
        return self._slots[shape]

    @property
    def _keeps_graphs(self) -> bool:
        """Whether graphs are captured, which need their buffers until the session ends."""
        return self._cuda_graph or self._provider.tensorrt is not None

    def _host_slot(self, images: HostArray) -> Slot:
        """Bind ``images`` and new outputs, all in host memory."""
        binding, allocate = self._session.io_binding(), self._ort.OrtValue.ortvalue_from_numpy
        shape, outputs = self.manifest.output_shape(images.shape), self.manifest.outputs
        found = tuple(np.empty(shape, output.dtype) for output in outputs)
        given, *results = (allocate(array, "cpu", 0) for array in (images, *found))
        binding.bind_ortvalue_input(self.manifest.input.name, given)
        for output, result in zip(outputs, results, strict=True):
            binding.bind_ortvalue_output(output.name, result)
        # Not every release keeps what is bound alive.
        return Slot(given, found, binding, images.shape, held=(images, *results))

    def _new_staged(self, batch: HostArray) -> _Staged:
        assert self._buffers is not None
        if self._provider.tensorrt is None:
            return _Staged(self._buffers.slot(self._session, self.manifest, batch.shape))
        return _Staged(self._slot_of(batch.shape), self._buffers.allocate(batch.nbytes))

    def _bring(self, staged: _Staged) -> None:
        """Copy a staged input to the buffer that is bound, where that is another one."""
        if staged.source and self._buffers is not None:
            nbytes = np.dtype(self.manifest.input.dtype).itemsize * math.prod(staged.slot.shape)
            memory, stream = self._buffers.memory, self._buffers.stream
            memory.copy_on_device(staged.slot.given, staged.source, nbytes, stream)

    def _run(self, slot: Slot, graph: int) -> None:
        entries = {} if self._buffers is None else {WITHOUT_WAITING: "1"}
        entries |= {GRAPH_ID: str(graph)} if self._cuda_graph else {}
        options: Any = self._ort.RunOptions() if entries else None
        for name, value in entries.items():
            options.add_run_config_entry(name, value)
        try:
            self._session.run_with_iobinding(slot.binding, options)
        except Exception as error:  # as at the load; most often the GPU's memory is full
            raise BackendUnavailable(f"onnxruntime failed ({first_line(error)})") from error


@dataclass(frozen=True, slots=True, eq=False)
class _Staged:
    """One staged input: in the buffers that are bound, or (``source``) elsewhere on the GPU."""

    slot: Slot
    source: int = 0


def _fitting(session: Any, source: str, manifest: Manifest) -> Manifest:
    inputs, outputs = map(_tensor, session.get_inputs()), map(_tensor, session.get_outputs())
    return manifest.require_tensors(inputs, outputs, source)


def _tensor(real: Any) -> TensorInfo:
    name = str(real.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) else DYNAMIC for side in real.shape)
    return TensorInfo(real.name, "float32" if name == "float" else name, shape)
