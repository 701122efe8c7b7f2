"""OpenVINO's CPU plugin as a backend. Needs numpy and openvino, not torch.

API: https://docs.openvino.ai/2025/api/ie_python_api/api.html (Core, CompiledModel, InferRequest);
properties: https://docs.openvino.ai/2025/openvino-workflow/running-inference/
inference-devices-and-modes/query-device-properties.html.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dabnet.errors import ArtifactError, BackendUnavailable, first_line
from dabnet.files import existing_file
from dabnet.precision import FP32, INT8, PRECISIONS
from dabnet.runtime.cuda import HostArray
from dabnet.runtime.manifest import DYNAMIC, TensorInfo
from dabnet.runtime.onnx_check import check_onnx_file
from dabnet.runtime.runner import (
    LayerTime,
    Prediction,
    RunnerInfo,
    check_input,
    cpu_name,
    import_backend,
    prediction,
)

_CONVOLUTIONS = ("Convolution", "MatMul", "FullyConnected")


class OpenVinoRunner:
    """Runs an ONNX artifact of fixed sides on the CPU, set for latency.

    Args:
        precision: ``fp32``, ``fp16``, ``bf16`` of an FP32 file, or ``int8`` of an INT8 file.
        threads: CPU threads; None leaves OpenVINO's choice.
        rest: type of what an INT8 file leaves in float: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ArtifactError: the file carries no manifest, or its sides are not fixed.
        BackendUnavailable: OpenVINO is missing, does not compute in this precision on this
            processor, or did otherwise than it was told.
    """

    def __init__(
        self, path: str | Path, precision: str, threads: int | None = None, rest: str = FP32
    ) -> None:
        self._path, self._precision = existing_file(path, "an ONNX file"), PRECISIONS[precision]
        openvino, source = import_backend("openvino", "openvino"), repr(str(path))
        self._tensor, self._core = openvino.Tensor, openvino.Core()
        floats = rest if precision == INT8 else precision
        for needed in dict.fromkeys((precision, floats)):
            refuse_precision(needed, self._core)
        self._hint = PRECISIONS[floats].openvino
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self._hint,
            # Each compiled model would bind its threads to the same cores, from the first one on:
            # two in one process share them, whatever else is free.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        manifest = check_onnx_file(self._path).manifest()
        model = self._read()
        inputs, outputs = map(_tensor, model.inputs), map(_tensor, model.outputs)
        self.manifest = manifest.require_tensors(inputs, outputs, source)
        shape = self.manifest.served_shape(source)
        wanted = INT8 if precision == INT8 else FP32
        if self.manifest.is_dynamic or self.manifest.precision != wanted:
            raise ArtifactError(
                f"{source} is {self.manifest.precision} of shape {shape}",
                f"{wanted} of fixed sides, to be run as {precision}",
                "export it without --dynamic-batch and --dynamic-size",
            )
        self._compiled = self._core.compile_model(model, "CPU", self._options)
        note, fused = self._proof(threads)
        # OpenVINO has no exact Q/DQ arithmetic beside its kernels.
        kernels = f"int8 kernels of OpenVINO (Convolution {fused})" if precision == INT8 else ""
        version, device = openvino.get_version().partition("-")[0], cpu_name(threads)
        ran = (device, precision, shape, (note,), kernels)
        self.info = RunnerInfo("openvino", version, *ran, self.manifest.head)
        self._request = self._compiled.create_infer_request()
        self._staged: list[tuple[Any, HostArray]] = []

    def infer(self, images: HostArray) -> HostArray:
        return self._results(images)[0]

    def infer_with_confidence(self, images: HostArray) -> Prediction:
        return prediction(self._results(images))

    def _results(self, images: HostArray) -> list[HostArray]:
        images = check_input(images, self.manifest)
        # The images are read where they lie; the results are copies.
        found = self._request.infer({0: images}, share_inputs=True)
        dtype, outputs = self.manifest.result_dtype, self.manifest.outputs
        return [found[output.name].astype(dtype, copy=False) for output in outputs]

    def stage(self, batches: Sequence[HostArray]) -> None:
        """Give each batch a request with tensors of its own; ``launch`` copies nothing."""
        self._staged = []
        for batch in batches:
            own = check_input(batch, self.manifest).copy()
            request = self._compiled.create_infer_request()
            request.set_input_tensor(self._tensor(own, shared_memory=True))
            self._staged.append((request, own))

    def launch(self, index: int) -> None:
        """Run in the caller's thread: a hand-over to another one would be counted."""
        self._staged[index][0].infer()

    def synchronize(self) -> None:
        pass  # a run ends before ``launch`` returns

    def layer_times(self, images: HostArray, calls: int) -> tuple[LayerTime, ...]:
        """Time by node, in a second compiled model: the one that is timed never counts."""
        images = check_input(images, self.manifest)
        model = self._read()
        counting = self._core.compile_model(model, "CPU", {**self._options, "PERF_COUNT": True})
        request = counting.create_infer_request()
        for _ in range(calls):
            request.infer({0: images}, share_inputs=True)
        # The plugin gives the mean of all runs so far.
        ran = [node for node in request.get_profiling_info() if node.status.name == "EXECUTED"]
        times = [(n.node_name, n.node_type, n.real_time.total_seconds()) for n in ran]
        return LayerTime.ranked(times)

    def close(self) -> None:
        self._staged = []
        self._request = self._compiled = self._core = None

    def _read(self) -> Any:
        try:
            return self._core.read_model(str(self._path))
        except RuntimeError as error:
            given = f"OpenVINO cannot read {str(self._path)!r} ({first_line(error)})"
            raise ArtifactError(given, "an ONNX file written by dabnet-export") from error

    def _proof(self, threads: int | None) -> tuple[str, int]:
        """Say what was compiled, and how many convolutions compute in this precision's types."""
        wanted = self._precision
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        devices = ", ".join(self._compiled.get_property("EXECUTION_DEVICES"))
        used = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        asked = (self._hint, "CPU", threads or used)
        if (hint, devices, used) != asked:
            raise BackendUnavailable(
                f"OpenVINO compiled for {hint} on {devices} with {used} threads",
                f"{asked[0]} on {asked[1]} with {asked[2]} threads",
            )
        infos = (node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops())
        types = Counter(
            info["runtimePrecision"].astype(str)
            for info in infos
            if "layerType" in info and info["layerType"].astype(str) in _CONVOLUTIONS
        )
        found = ", ".join(f"{count} {kind}" for kind, count in types.most_common())
        fitting = sum(types[kind] for kind in wanted.openvino_types)
        foreign = wanted.name == FP32 and fitting < types.total()
        if foreign or not fitting:
            raise BackendUnavailable(f"the convolutions of OpenVINO are {found}", wanted.name)
        rest = f", the rest in {hint}" if wanted.name == INT8 else ""
        return f"convolutions: {found}{rest}", fitting


def offered_precisions(core: Any = None) -> list[str]:
    """Those in which OpenVINO computes on this processor; MissingPackage without it."""
    core = core or import_backend("openvino", "openvino").Core()
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name, known in PRECISIONS.items() if known.flag in offered]


def refuse_precision(precision: str, core: Any = None) -> None:
    """Raise BackendUnavailable unless OpenVINO computes in this precision on this processor."""
    names = offered_precisions(core)
    if precision not in names:
        raise BackendUnavailable(
            f"OpenVINO computes in {', '.join(names)} on this processor, not in {precision}"
        )


def _tensor(port: Any) -> TensorInfo:
    sides = port.get_partial_shape()
    shape = tuple(int(side.get_length()) if side.is_static else DYNAMIC for side in sides)
    return TensorInfo(port.get_any_name(), port.get_element_type().to_dtype().name, shape)
