"""TensorRT without TensorRT: doubles whose names are those of a real version, and no others.

``trt_api/VERSION.json`` lists the public names of each version's Python bindings. A double has
exactly these; an attribute that the version lacks raises AttributeError, to read and to write.
Behind the names that the toolkit uses lies just enough behaviour, driven by a ``Scenario``; the
others raise NotImplementedError when they are called on an instance.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.support.builder_double import BuilderBehaviours
from tests.support.device_double import FakeDeviceMemory
from tests.support.engine_double import EngineBehaviours
from tests.support.strict_double import Member, Unused, keeps, strict_class

__all__ = ("FakeDeviceMemory", "Scenario", "inspector_json", "layer_report", "make_double")

VERSIONS = ("8.6.1", "10.0.1", "10.16.1", "11.4.0", "rtx-1.7.1")
PLAN = b"a plan of the double"
_API = Path(__file__).parent / "trt_api"


@dataclass
class Scenario:
    """What the double is to do, and (``calls``) what was asked of it.

    Attributes:
        parser_errors: texts; any make ``OnnxParser.parse`` fail.
        plan: what the builder returns.
        log: (severity name, text) that the builder writes while it builds.
        loads: whether the engine can be deserialised.
        inspector: what the inspector returns for JSON.
        validity: (name of EngineValidity, names of EngineInvalidityDiagnostics).
        tensors: (name, numpy dtype name, shape, mode) of the engine.
        memory: where ``execute_async_v3`` and a calibration find the addresses; mask = first
            channel modulo 5.
        fast: what the builder says of the card's FP16 and INT8.
        during: called while the builder builds.
        profile_index: what ``add_optimization_profile`` returns.
        batches: what a calibration read, in order.
        profile: smallest, best and largest input of a loaded engine with dynamic sides.
        gives_context: whether the engine gives an execution context.
        kernels: what the runtime cache of TensorRT-RTX holds when it is saved.
        layers: (name, milliseconds) that a run reports to its profiler.
    """

    parser_errors: tuple[str, ...] = ()
    plan: bytes | None = PLAN
    log: tuple[tuple[str, str], ...] = ()
    loads: bool = True
    inspector: str = ""
    validity: tuple[str, tuple[str, ...]] = ("VALID", ())
    tensors: tuple[tuple[str, str, tuple[int, ...], str], ...] = ()
    memory: FakeDeviceMemory | None = None
    fast: bool = True
    during: Callable[[], None] = lambda: None
    profile_index: int = 0
    batches: list[np.ndarray] = field(default_factory=list)
    profile: tuple[tuple[int, ...], ...] = ()
    gives_context: bool = True
    kernels: bytes = b"\0kernels of this card"
    layers: tuple[tuple[str, float], ...] = ()
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def called(self, name: str) -> list[Any]:
        """The arguments of every call of ``name``, in order."""
        return [argument for call, argument in self.calls if call == name]


def inspector_json(*kinds: str) -> str:
    """Layers as TensorRT 8 and 10 list them: convolutions that read the types ``kinds``."""
    layers = [
        {
            "Name": f"layer {index}",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": f"Channel major {kind} format"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
            "Weights": {"Type": "Int8" if kind == "Int8" else "Float", "Count": 9},
        }
        for index, kind in enumerate(kinds)
    ]
    return json.dumps({"Layers": layers, "Bindings": ["image", "mask"]})


def layer_report(*kinds: str) -> str:
    """Layers as the build log of TensorRT-RTX lists them: convolutions that read ``kinds``."""
    line = (
        "Name: layer_{0}, LayerType: correlation, Inputs: [ {{ Name: x, Dimensions: [1,4,32,64], "
        "Datatype: {1}, Format: (NHWC) Channel major format }}], Constants: [ {{ Name: w, "
        "Datatype: {1}, Format: (NHWC) Channel major format }}], Outputs: [ {{ Name: y, "
        "Datatype: Float, Format: (NHWC) Channel major format }}], TacticName: stub, StreamId: 0"
    )
    return "\n".join(["Layers:", *(line.format(i, kind) for i, kind in enumerate(kinds))])


def make_double(version: str, scenario: Scenario | None = None) -> ModuleType:
    """Return a module with the names of ``version`` (one of VERSIONS), to put in sys.modules."""
    api = json.loads((_API / f"{version}.json").read_text(encoding="utf-8"))
    module = ModuleType(api["product"])
    for name in api["module_names"]:
        setattr(module, name, Unused(name))
    behaviours = _Behaviours(module, scenario or Scenario())
    for name, names in api["classes"].items():
        members = getattr(behaviours, name, {})
        setattr(module, name, strict_class(name, names, members))
    module.ILogger = type("ILogger", (), {"log": lambda self, severity, text: None})
    module.ILogger.Severity = _severities()
    module.__version__ = api["version"]
    return module


def _severities() -> SimpleNamespace:
    names = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    return SimpleNamespace(**{n: Member("Severity", n, i) for i, n in enumerate(names)})


class _Behaviours(BuilderBehaviours):
    """For each class, the members that do something."""

    def __init__(self, module: ModuleType, scenario: Scenario) -> None:
        super().__init__(module, scenario)
        self.Runtime = {
            "__init__": keeps("logger"),
            "record": lambda name, value: scenario.calls.append((name, value)),
            "deserialize_cuda_engine": self._deserialize,
            "get_engine_validity": self._validity,
        }
        engine = EngineBehaviours(module, scenario)
        self.ICudaEngine, self.EngineInspector = engine.ICudaEngine, engine.EngineInspector
        self.IExecutionContext = engine.IExecutionContext
        self.IRuntimeConfig, self.IRuntimeCache = engine.IRuntimeConfig, engine.IRuntimeCache

    def _deserialize(self, runtime: Any, plan: bytes) -> Any:
        brings_code = "VERSION_COMPATIBLE" in self._scenario.called("set_flag")
        trusted = True in self._scenario.called("engine_host_code_allowed")
        if self._scenario.loads and bytes(plan) == PLAN and (trusted or not brings_code):
            return self._module.ICudaEngine()
        severity = self._module.ILogger.Severity.ERROR
        runtime._logger.log(severity, "Serialization assertion failed. Version tag does not match.")
        return None

    def _validity(self, runtime: Any, plan: bytes) -> tuple[Any, int]:
        name, reasons = self._scenario.validity
        kinds = self._module.EngineInvalidityDiagnostics
        # The real diagnostics are powers of two; so they must be here.
        for bit, member in enumerate(v for v in vars(kinds).values() if isinstance(v, Member)):
            member.value = 1 << bit
        bits = sum(int(getattr(kinds, reason)) for reason in reasons)
        return getattr(self._module.EngineValidity, name), bits
