"""The kernels of an engine, as TensorRT itself reports them, and the time of each.

Types come from the engine inspector, where the engine can be deserialised (that takes a GPU), or
from the build log of TensorRT-RTX, which an ahead-of-time build gives on any machine. A request is
no proof: a builder may fall back to Float without an error (INT8 for sm75 does).
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from dabnet.errors import BackendUnavailable
from dabnet.precision import FP16, PRECISIONS
from dabnet.runtime.plan import WEIGHTS, Plan, PlanKernel, PlanTensor
from dabnet.runtime.runner import LayerTime

# What the versions call a type: "Float", "Row major linear FP32", "Channel major INT8 format …"
# (NVIDIA/TensorRT, tools/experimental/trt-engine-explorer/trex/activations.py).
_TYPES = ("UInt8", "Int8", "Int32", "Int64", "Int4", "BFloat16", "Half", "Float")
_CANONICAL = {name.lower(): name for name in (*_TYPES, "FP8", "FP4", "Bool")}
_CANONICAL |= {"bf16": "BFloat16", "fp16": "Half", "fp32": "Float"}
_TYPE = re.compile(rf"\b({'|'.join(_CANONICAL)})\b", re.IGNORECASE)

# Of a layer report of TensorRT-RTX: name, sides and type of a tensor; the ONNX nodes of a kernel.
_TENSOR = re.compile(
    r"\{ (?:Name: ([^}]*?), )?(?:Dimensions: \[([^\]}]*)\][^}]*?, )?[^}]*?Datatype: (\w+)"
)
_SECTIONS = (
    *("LayerType", "Inputs", "Constants", "Outputs"),
    *("TacticName", "StreamId", "Metadata"),
)
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


Operators = Mapping[str, str]
"""Name of a node of the ONNX graph → its operator."""


def plan_of_report(report: str, operators: Operators = MappingProxyType({})) -> Plan:
    """The kernels of a build log's layer report.

    One line per layer, as TensorRT-RTX 1.7 writes it with ``ProfilingVerbosity.DETAILED``::

        Name: …, LayerType: correlation, Inputs: [ { Name: …, Dimensions: [1,4,32,64], …, Datatype:
        Int8, Format: … }], Constants: [ … ], Outputs: [ … ], TacticName: …, StreamId: 0,
        Metadata: [ONNX Layer: …]

    Signals and waits between streams, which it lists too, are left out.
    """
    lines = (line for line in report.splitlines() if "LayerType:" in line)
    kernels = (_kernel_of_line(line, operators) for line in lines)
    return tuple(kernel for kernel in kernels if kernel.kind not in ("signal", "wait"))


def plan_of_engine(module: Any, engine: Any, operators: Operators = MappingProxyType({})) -> Plan:
    """The kernels of a deserialised engine.

    () if it was built without ``ProfilingVerbosity.DETAILED``: then no types are listed.
    Source: ``EngineInspector.get_engine_information(LayerInformationFormat.JSON)``.
    """
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(module.LayerInformationFormat.JSON)
    try:
        listed = [layer for layer in json.loads(text)["Layers"] if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError):
        return ()
    kernels = (_kernel_of_json(layer, operators) for layer in listed)
    return tuple(kernel for kernel in kernels if kernel.arithmetic)


def precision_fault(precision: str, layers: dict[str, int]) -> str | None:
    """Say in words why ``layers`` are not those of an engine of ``precision``; None if they are."""
    found, wanted = describe(layers), PRECISIONS[precision]
    if not layers:
        return "the builder did not report the types of its layers"
    if wanted.tensorrt not in layers:
        return f"no layer computes in {wanted.tensorrt} ({found})"
    if precision == FP16 and layers["Half"] < layers.get("Float", 0):
        return f"most layers compute in Float ({found})"
    if foreign := [kind for kind in wanted.tensorrt_foreign if kind in layers]:
        return f"some layers compute in {', '.join(foreign)} ({found})"
    return None


def describe(layers: dict[str, int]) -> str:
    """``{"Int8": 4, "Float": 5}`` → ``layers: 5 Float, 4 Int8``."""
    ordered = sorted(layers.items(), key=lambda item: (-item[1], item[0]))
    return "layers: " + (", ".join(f"{count} {kind}" for kind, count in ordered) or "unknown")


def _kernel_of_line(line: str, operators: Operators) -> PlanKernel:
    named, *parts = re.split(rf", ({'|'.join(_SECTIONS)}): ", line)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    return PlanKernel(
        named.partition("Name: ")[2],
        sections.get("LayerType", ""),
        reads=_tensors_of_text(sections.get("Inputs", "")),
        writes=_tensors_of_text(sections.get("Outputs", "")),
        constants=_tensors_of_text(sections.get("Constants", "")),
        operators=_counted(sections.get("Metadata", ""), operators),
    )


def _counted(metadata: str, operators: Operators) -> dict[str, int]:
    nodes = dict.fromkeys(_NODE.findall(metadata))
    return dict(Counter(operators[node] for node in nodes if node in operators))


def _tensors_of_text(section: str) -> tuple[PlanTensor, ...]:
    found = _TENSOR.findall(section)
    return _each_once(
        PlanTensor(name, _canonical(kind), _shape(sides.split(",") if sides.strip() else ()))
        for name, sides, kind in found
    )


def _each_once(tensors: Iterable[PlanTensor]) -> tuple[PlanTensor, ...]:
    """Each named tensor once, however often the kernel lists it."""
    found: dict[object, PlanTensor] = {}
    for tensor in tensors:
        found.setdefault(tensor if tensor.name else object(), tensor)
    return tuple(found.values())


def _kernel_of_json(layer: dict[str, Any], operators: Operators) -> PlanKernel:
    constants = _tensors_of_json(layer["Constants"]) if "Constants" in layer else None
    # TensorRT 8 and 10 name a convolution's weights apart: {"Type": "Int8", "Count": 864}.
    if isinstance(layer.get("Weights"), dict):
        weights = layer["Weights"]
        count = weights.get("Count")
        shape = (count,) if isinstance(count, int) else None
        own = PlanTensor(WEIGHTS, _canonical(str(weights.get("Type", ""))), shape)
        constants = (*(constants or ()), own)
    return PlanKernel(
        str(layer.get("Name", "")),
        str(layer.get("LayerType", "")),
        reads=_tensors_of_json(layer.get("Inputs")),
        writes=_tensors_of_json(layer.get("Outputs")),
        constants=constants,
        operators=_counted(str(layer.get("Metadata", "")), operators),
    )


def _tensors_of_json(tensors: Any) -> tuple[PlanTensor, ...]:
    found = []
    for tensor in tensors if isinstance(tensors, list) else ():
        if isinstance(tensor, dict):
            keys = ("Datatype", "DataType", "Format/Datatype", "Format")
            kind = next((str(tensor[key]) for key in keys if key in tensor), "")
            sides = tensor.get("Dimensions")
            shape = _shape(map(str, sides)) if isinstance(sides, list) else None
            found.append(PlanTensor(str(tensor.get("Name", "")), _canonical(kind), shape))
    return _each_once(found)


def _shape(sides: Iterable[str]) -> tuple[int, ...] | None:
    """None for a shape that a call chooses."""
    found = [side.strip() for side in sides]
    return tuple(map(int, found)) if all(side.isdigit() for side in found) else None


def _canonical(text: str) -> str:
    found = _TYPE.search(text)
    return _CANONICAL[found.group(1).lower()] if found else ""


def engine_layer_times(
    trt: Any, engine: Any, run: Callable[[Any], None], calls: int
) -> tuple[LayerTime, ...]:
    """Return each layer's mean time, as TensorRT reports it to a profiler.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/Profiler.html.
    A context with a profiler runs its layers one after another and waits for the last of them
    (``IExecutionContext.enqueue_emits_profile``, which is on by default).

    Args:
        run: runs the engine ``calls`` times under the profiler that it is given.

    Raises:
        BackendUnavailable: nothing was reported.
    """
    sums: dict[str, float] = defaultdict(float)

    def report_layer_time(_: Any, layer_name: str, ms: float) -> None:
        sums[str(layer_name)] += 1e-3 * float(ms)

    # The base class is known only at run time, so ``class`` cannot be used under mypy strict.
    run(type("LayerProfiler", (trt.IProfiler,), {"report_layer_time": report_layer_time})())
    if not sums:
        raise BackendUnavailable("TensorRT reported no layers to its profiler")
    kinds = {kernel.name: kernel.kind for kernel in plan_of_engine(trt, engine)}
    return LayerTime.ranked([(name, kinds.get(name, ""), t / calls) for name, t in sums.items()])
