"""The layers of an engine, as TensorRT itself reports them: the type of each, and its time.

Types come from the engine inspector, where the engine can be deserialised (that takes a GPU), or
from the build log of TensorRT-RTX, which an ahead-of-time build gives on any machine. A request is
no proof: a builder may fall back to Float without an error (INT8 for sm75 does).
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dabnet.errors import BackendUnavailable
from dabnet.precision import FP16, PRECISIONS
from dabnet.runtime.runner import LayerTime

# What the versions call a type: "Float", "Row major linear FP32", "Channel major INT8 format …"
# (NVIDIA/TensorRT, tools/experimental/trt-engine-explorer/trex/activations.py).
_TYPES = ("UInt8", "Int8", "Int32", "Int64", "Int4", "BFloat16", "Half", "Float")
_CANONICAL = {name.lower(): name for name in (*_TYPES, "FP8", "FP4", "Bool")}
_CANONICAL |= {"bf16": "BFloat16", "fp16": "Half", "fp32": "Float"}
_TYPE = re.compile(rf"\b({'|'.join(_CANONICAL)})\b", re.IGNORECASE)


def layers_from_report(report: str) -> dict[str, int]:
    """Count the layers of a build log's layer report by the type in which they compute.

    One line per layer, as TensorRT-RTX 1.7 writes it with ``ProfilingVerbosity.DETAILED``::

        Name: …, LayerType: correlation, Inputs: [ { …, Datatype: Int8, … }], Constants: [ … ],
        Outputs: [ … ], TacticName: …
    """
    lines = (line for line in report.splitlines() if "LayerType:" in line)
    return _counted(_layer_from_line(line).arithmetic for line in lines)


def layers_of_engine(module: Any, engine: Any) -> dict[str, int]:
    """Count a deserialised engine's layers by the type in which they compute.

    {} if it was built without ``ProfilingVerbosity.DETAILED``: then no types are listed.
    """
    return _counted(arithmetic for _, _, arithmetic in named_layers(module, engine))


def named_layers(module: Any, engine: Any) -> list[tuple[str, str, str]]:
    """Return (name, kind, type in which it computes) of each layer of a deserialised engine.

    Source: ``EngineInspector.get_engine_information(LayerInformationFormat.JSON)``.
    """
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(module.LayerInformationFormat.JSON)
    try:
        listed = [layer for layer in json.loads(text)["Layers"] if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError):
        return []
    layers = [(str(raw.get("Name", "")), _layer_from_json(raw)) for raw in listed]
    return [(name, found.kind, found.arithmetic) for name, found in layers if found.arithmetic]


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


@dataclass(frozen=True, slots=True)
class _Layer:
    kind: str
    reads: list[str]
    weights: list[str] | None  # None where the report does not list them
    writes: list[str]

    @property
    def arithmetic(self) -> str:
        """The type in which the layer computes: what it reads (so does TREx), not what it writes.

        An int8 convolution of TensorRT-RTX reads Int8 and writes Float, and the kernel before it
        reads Float and writes Int8.
        """
        if not self.reads or self._only_dequantises:
            return self.writes[0] if self.writes else ""
        return next((kind for kind in self.reads if kind != "Bool"), "Bool")  # past a condition

    @property
    def _only_dequantises(self) -> bool:
        """Reads Int8 and has no other Int8: it would prove an int8 engine that is none."""
        if self.reads[0] != "Int8" or not self.writes or "Int8" in self.writes:
            return False
        if self.weights is None:
            return self.kind in ("kgen", "Reformat")  # generated pointwise kernels, and copies
        return "Int8" not in self.weights


def _counted(kinds: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(kind for kind in kinds if kind).items()))


def _layer_from_line(line: str) -> _Layer:
    kind, *parts = re.split(r", (Inputs|Constants|Outputs|TacticName): ", line)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    reads, weights, writes = (
        [_canonical(name) for name in re.findall(r"Datatype: (\w+)", sections.get(section, ""))]
        for section in ("Inputs", "Constants", "Outputs")
    )
    return _Layer(kind.rpartition("LayerType: ")[2], reads, weights, writes)


def _layer_from_json(layer: dict[str, Any]) -> _Layer:
    weights = _types(layer["Constants"]) if "Constants" in layer else None
    # TensorRT 8 and 10 name a convolution's weights apart: {"Type": "Int8", "Count": 864}.
    if isinstance(layer.get("Weights"), dict):
        weights = [*(weights or []), _canonical(str(layer["Weights"].get("Type", "")))]
    kind = str(layer.get("LayerType", ""))
    return _Layer(kind, _types(layer.get("Inputs")), weights, _types(layer.get("Outputs")))


def _types(tensors: Any) -> list[str]:
    if not isinstance(tensors, list):
        return []
    keys = ("Datatype", "DataType", "Format/Datatype", "Format")
    names = (next((str(t[k]) for k in keys if k in t), "") for t in tensors if isinstance(t, dict))
    return [kind for name in names if (kind := _canonical(name))]


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
    kinds = {name: kind for name, kind, _ in named_layers(trt, engine)}
    return LayerTime.ranked([(name, kinds.get(name, ""), t / calls) for name, t in sums.items()])
