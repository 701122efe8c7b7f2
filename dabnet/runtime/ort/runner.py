"""ONNX Runtime as a backend. Needs numpy and onnxruntime, not torch."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dabnet.errors import ArtifactError, BackendUnavailable, InputError, first_line
from dabnet.files import existing_file
from dabnet.precision import FP16, INT8
from dabnet.runtime.cuda import HostArray, open_device_memory
from dabnet.runtime.manifest import DYNAMIC, Manifest, TensorInfo, carried_manifest
from dabnet.runtime.ort.arithmetic import EXACT_QDQ, arithmetic_of, fused_nodes
from dabnet.runtime.ort.placement import CPU, PlacedNode, check_placement, node_times, traced
from dabnet.runtime.runner import LayerTime, RunnerInfo, check_input, cpu_name, import_backend

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}

# The run option that says which CUDA graph is captured or replayed; -1 runs without one.
# (onnxruntime_run_options_config_keys.h, kOrtRunOptionsConfigCudaGraphAnnotation)
GRAPH_ID, NO_GRAPH = "gpu_graph_id", -1

# FP32 must mean FP32, and TF32 is this provider's default. The search is its default as well; said,
# so that a release that changes it changes no measurement.
# https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#configuration-options
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}

# This provider has no option for it; the driver's libraries read it when they are first used.
# https://github.com/microsoft/onnxruntime/issues/26029
TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"


@dataclass(frozen=True, slots=True)
class TensorRTProvider:
    """Run on TensorRT inside onnxruntime.

    https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
    """

    precision: str  # of the artifact: which types the builder may use
    cache: Path  # folder of the engines that the provider builds, and of its kernel timings

    def options(self) -> dict[str, str]:
        return {
            "trt_fp16_enable": str(int(self.precision == FP16)),
            "trt_int8_enable": str(int(self.precision == INT8)),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(self.cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(self.cache),
        }


class OnnxRuntimeRunner:
    """Runs an ONNX artifact on one execution provider.

    Args:
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
        tensorrt: run on onnxruntime's TensorRT provider (``cuda`` only), with TF32 off in the whole
            process; the first load builds the engine, which takes minutes.

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
    ) -> None:
        if device not in PROVIDERS:
            raise InputError(f"device {device!r}", f"one of {', '.join(PROVIDERS)}")
        if cuda_graph and device != "cuda":
            raise InputError("a CUDA graph on the CPU", "device 'cuda'", "leave cuda_graph out")
        if tensorrt and (device != "cuda" or cuda_graph):
            raise InputError("TensorRT on the CPU, or in a CUDA graph", "device 'cuda' alone")
        self._ort = import_backend("onnxruntime", "cpu")
        self._device, self._tensorrt, self._threads = device, tensorrt, threads
        self._provider = TENSORRT if tensorrt else PROVIDERS[device]
        self._cuda_graph, self._exact_qdq = cuda_graph, exact_qdq
        self._slots: dict[tuple[int, ...], _Slot] = {}
        self._staged: list[_Slot] = []
        self._graphs = 0
        self._path, source = existing_file(path, "an ONNX file"), repr(str(path))
        self._notes = [self._provider, *(["CUDA graph"] if cuda_graph else [])]
        options = self._options()
        with traced(options) if device == "cuda" else nullcontext() as nodes_of:
            self._session = self._open(options)
            self.manifest = _manifest_of(self._session, source)
            self._shape = self.manifest.served_shape(source)
            expected = self.manifest.precision
            if tensorrt and tensorrt.precision != expected:
                raise InputError(f"{tensorrt.precision} of TensorRT for {source}", expected)
            if nodes_of is not None:
                self._run(self._new_slot(self.manifest.example_shape), NO_GRAPH)
                self._ran = nodes_of(self._session)
                self._notes += check_placement(self._ran, self._provider, source, allow_cpu_nodes)

    @cached_property
    def info(self) -> RunnerInfo:
        """What runs. Of an int8 artifact on the CPU the first look loads and runs it once more."""
        precision, arithmetic = self.manifest.precision, ""
        if precision == INT8:  # TensorRT's engine is one node of the trace
            of_engine = "int8 kernels of TensorRT"
            arithmetic = of_engine if self._tensorrt else arithmetic_of(self._ran, self._ort)
        device, notes = cpu_name(self._threads), tuple(self._notes)
        if self._device == "cuda":
            with closing(open_device_memory()) as memory:
                device = memory.name
        version = self._ort.__version__
        return RunnerInfo("onnxruntime", version, device, precision, self._shape, notes, arithmetic)

    @property
    def fuses_int8(self) -> bool:
        """Whether integer kernels took the place of Q/DQ nodes; see ``ort.arithmetic``."""
        is_int8 = self.manifest.precision == INT8 and self._tensorrt is None
        return is_int8 and bool(fused_nodes(self._ran))

    @cached_property
    def _ran(self) -> list[PlacedNode]:
        """The nodes of one run. On the CPU traced in another session: what is timed never was."""
        images = np.zeros(self.manifest.example_shape, self.manifest.input.dtype)
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
        found: HostArray = slot.output.numpy().astype(self.manifest.result_dtype, copy=False)
        return found

    def _infer_on_cpu(self, images: HostArray) -> HostArray:
        """Bind both arrays as they are: no copies, and an output of its own for each call."""
        found = np.empty(self.manifest.output_shape(images.shape), self.manifest.output.dtype)
        given, result = (
            self._ort.OrtValue.ortvalue_from_numpy(a, "cpu", 0) for a in (images, found)
        )
        self._run(self._bound(given, result), NO_GRAPH)
        return found.astype(self.manifest.result_dtype, copy=False)

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
        ort, provider = self._ort, self._provider
        if provider not in ort.get_available_providers():
            raise BackendUnavailable(
                f"onnxruntime {ort.__version__} is built without {provider}",
                fix="install onnxruntime-gpu: pip install -c constraints/gpu.txt '.[gpu]'",
            )
        settings: dict[str, str] = {}
        if provider != CPU and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA libraries of PyTorch's wheels
        if provider == CUDA:
            settings = {**CUDA_OPTIONS, "enable_cuda_graph": str(int(self._cuda_graph))}
        if self._tensorrt:
            os.environ[TF32_OVERRIDE] = "0"
            with suppress(ImportError):
                importlib.import_module("tensorrt_libs")  # loads those that pip installed
            self._tensorrt.cache.mkdir(parents=True, exist_ok=True)
            settings = self._tensorrt.options()
        try:
            chosen = [(provider, settings)]
            session = ort.InferenceSession(str(self._path), options, providers=chosen)
        except Exception as error:  # onnxruntime raises classes of its own for each status
            raise ArtifactError(
                f"onnxruntime cannot load {str(self._path)!r} ({first_line(error)})",
                "an ONNX file written by dabnet-export",
            ) from error
        if provider not in session.get_providers():
            fix = "check the NVIDIA driver and the libraries that onnxruntime-gpu asks for"
            raise BackendUnavailable(
                f"onnxruntime could not start {provider} and would have run on the CPU",
                fix=fix + (" (TensorRT 10)" if self._tensorrt else ""),
            )
        return session

    def _traced_runs(self, images: HostArray, runs: int) -> list[PlacedNode]:
        options = self._options()
        with traced(options) as nodes_of:
            session = self._open(options)
            for _ in range(runs):
                session.run(None, {self.manifest.input.name: images})
            return nodes_of(session)

    def _new_slot(self, shape: tuple[int, ...]) -> _Slot:
        """Buffers on the device for one input of ``shape``, with a graph's number of their own."""
        manifest, allocate = self.manifest, self._ort.OrtValue.ortvalue_from_shape_and_type
        sizes = ((manifest.input, shape), (manifest.output, manifest.output_shape(shape)))
        given, result = (allocate(s, np.dtype(t.dtype).type, self._device, 0) for t, s in sizes)
        self._graphs += 1
        return self._bound(given, result, shape, self._graphs)

    def _bound(
        self, given: Any, result: Any, shape: tuple[int, ...] = (), graph: int = NO_GRAPH
    ) -> _Slot:
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self.manifest.input.name, given)
        binding.bind_ortvalue_output(self.manifest.output.name, result)
        return _Slot(given, result, binding, shape, graph)

    def _run(self, slot: _Slot, graph: int) -> None:
        options = None
        if self._cuda_graph:
            options = self._ort.RunOptions()
            options.add_run_config_entry(GRAPH_ID, str(graph))
        try:
            self._session.run_with_iobinding(slot.binding, options)
        except Exception as error:  # as at the load; most often the GPU's memory is full
            raise BackendUnavailable(f"onnxruntime failed ({first_line(error)})") from error


@dataclass(frozen=True, slots=True)
class _Slot:
    """One input and one output where the provider computes, bound once."""

    input: Any  # not every release keeps what is bound alive
    output: Any
    binding: Any
    shape: tuple[int, ...]
    graph: int


def _manifest_of(session: Any, source: str) -> Manifest:
    manifest = carried_manifest(session.get_modelmeta().custom_metadata_map, source)
    inputs, outputs = map(_tensor, session.get_inputs()), map(_tensor, session.get_outputs())
    return manifest.require_tensors(inputs, outputs, source)


def _tensor(real: Any) -> TensorInfo:
    name = str(real.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) else DYNAMIC for side in real.shape)
    return TensorInfo(real.name, "float32" if name == "float" else name, shape)
