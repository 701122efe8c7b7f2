"""OpenVINO's CPU plugin as a backend. Needs numpy and openvino, not torch.

API: https://docs.openvino.ai/2025/api/ie_python_api/api.html (Core, CompiledModel, InferRequest);
properties: https://docs.openvino.ai/2025/openvino-workflow/running-inference/
inference-devices-and-modes/query-device-properties.html.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dabnet.errors import ArtifactError, BackendUnavailable, MissingPackage
from dabnet.files import existing_file
from dabnet.runtime.cuda import HostArray
from dabnet.runtime.manifest import (
    DYNAMIC,
    ONNX_KEY,
    Manifest,
    TensorInfo,
    carried_manifest,
    require_tensors,
)
from dabnet.runtime.runner import (
    LayerTime,
    RunnerInfo,
    check_input,
    declared_shape,
    layer_times,
    result_dtype,
)

# The type in which floats are computed, as OpenVINO and its list of capabilities call it. An int8
# artifact says by its Q/DQ nodes what is int8; the rest of it is FP32.
HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
CAPABILITIES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}

# What the runtime model calls the type of a convolution's input.
_TYPES_OF = {"fp32": {"f32"}, "fp16": {"f16"}, "bf16": {"bf16"}, "int8": {"i8", "u8"}}

_CONVOLUTIONS = ("Convolution", "MatMul", "FullyConnected")


class OpenVinoRunner:
    """Runs an ONNX artifact on the CPU, set for latency.

    Args:
        path: the ONNX file, of fixed sides.
        precision: ``fp32``, ``fp16``, ``bf16`` of an FP32 file, or ``int8`` of an INT8 file.
        threads: CPU threads; None leaves OpenVINO's choice.

    Raises:
        ArtifactError: the file carries no manifest, or its sides are not fixed.
        BackendUnavailable: OpenVINO is missing, does not compute in this precision on this
            processor, or did otherwise than it was told.
    """

    def __init__(self, path: str | Path, precision: str, threads: int | None = None) -> None:
        self._path, self._precision = existing_file(path, "an ONNX file"), precision
        openvino = _import()
        self._tensor, self._core = openvino.Tensor, openvino.Core()
        refuse_precision(precision, self._core)
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            # Each compiled model would bind its threads to the same cores, from the first one on:
            # two in one process share them, whatever else is free.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        model = self._core.read_model(str(self._path))
        self._manifest = _manifest_of(model, repr(str(path)))
        shape = declared_shape(self._manifest, repr(str(path)))
        wanted = "int8" if precision == "int8" else "fp32"
        if self._manifest.is_dynamic or self._manifest.precision != wanted:
            raise ArtifactError(
                f"{str(path)!r} is {self._manifest.precision} of shape {shape}",
                f"{wanted} of fixed sides, to be run as {precision}",
                "export it without --dynamic-batch and --dynamic-size",
            )
        compiled = self._core.compile_model(model, "CPU", self._options)
        self._ran = executed(compiled)
        self._info = RunnerInfo(
            backend="openvino",
            version=openvino.get_version().partition("-")[0],
            device=f"cpu ({threads or 'default'} threads, {platform.machine()})",
            precision=precision,
            shape=shape,
            notes=self._proof(compiled, threads),
            arithmetic=self._int8_kernels() if precision == "int8" else "",
        )
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._staged: list[tuple[Any, HostArray]] = []

    @property
    def info(self) -> RunnerInfo:
        """Device, threads and precision as the compiled model says them."""
        return self._info

    @property
    def manifest(self) -> Manifest:
        """What the artifact says it is."""
        return self._manifest

    def infer(self, images: HostArray) -> HostArray:
        images = check_input(images, self._manifest.input)
        # The images are read where they lie; the masks are a copy.
        found: HostArray = self._request.infer({0: images}, share_inputs=True)[0]
        return found.astype(result_dtype(self._manifest), copy=False)

    def stage(self, batches: Sequence[HostArray]) -> None:
        """Give each batch a request with tensors of its own; ``launch`` copies nothing."""
        self._staged = []
        for batch in batches:
            own = check_input(batch, self._manifest.input).copy()
            request = self._compiled.create_infer_request()
            request.set_input_tensor(self._tensor(own, shared_memory=True))
            self._staged.append((request, own))

    def launch(self, index: int) -> None:
        """Run in the caller's thread: a hand-over to another one would be counted."""
        self._staged[index][0].infer()

    def synchronize(self) -> None:
        """A run ends before ``launch`` returns."""

    def layer_times(self, images: HostArray, calls: int) -> tuple[LayerTime, ...]:
        """Time by node of what was compiled, in a second compiled model: this one never counts."""
        images = check_input(images, self._manifest.input)
        model = self._core.read_model(str(self._path))
        counting = self._core.compile_model(model, "CPU", {**self._options, "PERF_COUNT": True})
        request = counting.create_infer_request()
        for _ in range(calls):
            request.infer({0: images}, share_inputs=True)
        # The plugin gives the mean of all runs so far.
        return layer_times(
            [
                (node.node_name, node.node_type, node.real_time.total_seconds())
                for node in request.get_profiling_info()
                if node.status.name == "EXECUTED"
            ]
        )

    def close(self) -> None:
        self._staged = []
        self._request = self._compiled = self._core = None

    def _proof(self, compiled: Any, threads: int | None) -> tuple[str, ...]:
        """Say what was compiled; raise where that is not what was asked for."""
        hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        devices = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
        used = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        asked = (HINTS[self._precision], "CPU", threads or used)
        if (hint, devices, used) != asked:
            raise BackendUnavailable(
                f"OpenVINO compiled for {hint} on {devices} with {used} threads",
                f"{asked[0]} on {asked[1]} with {asked[2]} threads",
            )
        types = Counter(kind for name, kind, _ in self._ran if name in _CONVOLUTIONS)
        found = ", ".join(f"{count} {kind}" for kind, count in types.most_common())
        foreign = self._precision == "fp32" and types.keys() != {"f32"}
        if foreign or not types.keys() & _TYPES_OF[self._precision]:
            raise BackendUnavailable(f"the convolutions of OpenVINO are {found}", self._precision)
        return (f"convolutions: {found}",)

    def _int8_kernels(self) -> str:
        """How int8 was computed: OpenVINO has no exact Q/DQ arithmetic beside its kernels."""
        fused = sum(
            name in _CONVOLUTIONS and kind in _TYPES_OF["int8"] for name, kind, _ in self._ran
        )
        return f"int8 kernels of OpenVINO (Convolution {fused})"


def refuse_precision(precision: str, core: Any = None) -> None:
    """Raise BackendUnavailable unless OpenVINO computes in this precision on this processor."""
    core = core or _import().Core()
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if CAPABILITIES[precision] not in offered:
        names = [name for name, capability in CAPABILITIES.items() if capability in offered]
        raise BackendUnavailable(
            f"OpenVINO computes in {', '.join(names)} on this processor, not in {precision}"
        )


def executed(compiled: Any) -> list[tuple[str, str, str]]:
    """Return (layer's type, type of its arithmetic, kernel) of each node that was compiled."""
    found = []
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        keys = ("layerType", "runtimePrecision", "primitiveType")
        found.append(tuple(info[k].astype(str) if k in info else "" for k in keys))
    return [(layer, kind, kernel) for layer, kind, kernel in found]


def _manifest_of(model: Any, source: str) -> Manifest:
    """Return the manifest, which OpenVINO keeps beside the graph; its tensors are the graph's."""
    info = model.get_rt_info()  # a map of OpenVINO's, without get()
    notes = info["framework"] if "framework" in info else {}  # noqa: SIM401
    properties = {ONNX_KEY: str(notes[ONNX_KEY].value)} if ONNX_KEY in notes else {}
    manifest = carried_manifest(properties, source)
    inputs, outputs = ([*map(_info_of, ports)] for ports in (model.inputs, model.outputs))
    require_tensors(manifest, inputs, outputs, source)
    return manifest


def _info_of(port: Any) -> TensorInfo:
    shape = tuple(
        int(side.get_length()) if side.is_static else DYNAMIC for side in port.get_partial_shape()
    )
    return TensorInfo(port.get_any_name(), port.get_element_type().to_dtype().name, shape)


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingPackage("openvino", "openvino") from error
    return openvino
