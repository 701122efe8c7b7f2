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
from functools import partialmethod
from pathlib import Path
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

VERSIONS = ("8.6.1", "10.0.1", "10.16.1", "11.4.0", "rtx-1.7.1")
PLAN = b"a plan of the double"
_API = Path(__file__).parent / "trt_api"


class FakeDeviceMemory:
    """A GPU of byte arrays. What is enqueued on a stream runs only when it is synchronised."""

    def __init__(
        self,
        name: str = "NVIDIA Double 3090",
        compute_capability: tuple[int, int] = (8, 6),
        driver: str = "580.1 (CUDA 13.0)",
    ) -> None:
        self.name, self.compute_capability, self.driver = name, compute_capability, driver
        self.device: dict[int, np.ndarray] = {}
        self.host: dict[int, np.ndarray] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.opened = 1
        self._next = 4096

    def _address(self) -> int:
        self._next += 1 << 24
        return self._next

    def allocate(self, nbytes: int) -> int:
        address = self._address()
        self.device[address] = np.zeros(nbytes, np.uint8)
        return address

    def free(self, address: int) -> None:
        del self.device[address]

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = np.empty(shape, dtype)
        self.host[id(array)] = array
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        del self.host[id(array)]

    def create_stream(self) -> int:
        stream = self._address()
        self.streams[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        del self.streams[stream]

    def synchronize(self, stream: int) -> None:
        for work in self.streams[stream]:
            work()
        self.streams[stream].clear()

    def copy_to_device(self, address: int, source: np.ndarray, stream: int) -> None:
        assert id(source) in self.host, "copied from memory that is not pinned"

        def work() -> None:
            self.device[address][:] = source.reshape(-1).view(np.uint8)

        self.streams[stream].append(work)

    def copy_to_host(self, target: np.ndarray, address: int, stream: int) -> None:
        assert id(target) in self.host, "copied to memory that is not pinned"

        def work() -> None:
            target.reshape(-1).view(np.uint8)[:] = self.device[address]

        self.streams[stream].append(work)

    def close(self) -> None:
        assert not (self.device or self.host or self.streams), "closed with memory still held"
        self.opened -= 1


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
        memory: where ``execute_async_v3`` finds the addresses; mask = first channel modulo 5.
    """

    parser_errors: tuple[str, ...] = ()
    plan: bytes | None = PLAN
    log: tuple[tuple[str, str], ...] = ()
    loads: bool = True
    inspector: str = ""
    validity: tuple[str, tuple[str, ...]] = ("VALID", ())
    tensors: tuple[tuple[str, str, tuple[int, ...], str], ...] = ()
    memory: FakeDeviceMemory | None = None
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


class Member:
    """A member of an enum; its integer is not that of the real enum, on purpose."""

    def __init__(self, owner: str, name: str, value: int) -> None:
        self.owner, self.name, self.value = owner, name, value

    def __int__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"{self.owner}.{self.name}"


class _Unused:
    """A name that exists and has no behaviour; an instance may overwrite it as a property."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        raise NotImplementedError(f"the double has no behaviour for {self.name}")


def make_double(version: str, scenario: Scenario | None = None) -> ModuleType:
    """Return a module with the names of ``version`` (one of VERSIONS), to put in sys.modules."""
    api = json.loads((_API / f"{version}.json").read_text(encoding="utf-8"))
    module = ModuleType(api["product"])
    for name in api["module_names"]:
        setattr(module, name, _Unused(name))
    behaviours = _Behaviours(module, scenario or Scenario())
    for name, names in api["classes"].items():
        members = getattr(behaviours, name, {})
        setattr(module, name, _strict_class(name, names, members))
    module.ILogger = type("ILogger", (), {"log": lambda self, severity, text: None})
    module.ILogger.Severity = _severities()
    module.__version__ = api["version"]
    return module


def _severities() -> SimpleNamespace:
    names = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    return SimpleNamespace(**{n: Member("Severity", n, i) for i, n in enumerate(names)})


def _strict_class(name: str, names: list[str], members: dict[str, Any]) -> type:
    """A class with ``names`` only; the ``members`` that the version lacks are left out."""
    body: dict[str, Any] = {}
    for index, attribute in enumerate(sorted(names)):
        if attribute.isupper():
            body[attribute] = Member(name, attribute, index)
        elif attribute != "__init__":
            body[attribute] = _unbound(members.get(attribute, _Unused(f"{name}.{attribute}")))

    def set_attribute(self: object, attribute: str, value: Any) -> None:
        if attribute not in names and not attribute.startswith("_"):
            raise AttributeError(f"{name!r} has no attribute {attribute!r} in this version")
        if "record" in members:
            members["record"](attribute, value)
        object.__setattr__(self, attribute, value)

    body["__setattr__"] = set_attribute
    if "__init__" in members:
        body["__init__"] = members["__init__"]
    return type(name, (), body)


def _unbound(member: Any) -> Any:
    """A method of _Behaviours as a function, which a class turns into a method of its own."""
    return partialmethod(_call, member) if isinstance(member, MethodType) else member


def _call(instance: object, method: MethodType, *arguments: Any) -> Any:
    return method(instance, *arguments)


class _Behaviours:
    """For each class, the members that do something."""

    def __init__(self, module: ModuleType, scenario: Scenario) -> None:
        self._module, self._scenario = module, scenario
        note = scenario.calls.append
        self.Builder = {
            "__init__": _keeps("logger"),
            "create_network": self._create_network,
            "create_builder_config": lambda builder: module.IBuilderConfig(),
            "build_serialized_network": self._build,
        }
        self.IBuilderConfig = {
            "record": lambda name, value: note((name, value)),
            "set_flag": lambda config, flag: note(("set_flag", flag.name)),
            "clear_flag": lambda config, flag: note(("clear_flag", flag.name)),
            "set_memory_pool_limit": lambda config, pool, size: note((pool.name, size)),
            "set_compute_capability": self._set_capability,
        }
        self.OnnxParser = {
            "__init__": _keeps("network", "logger"),
            "parse": lambda parser, content: not scenario.parser_errors,
            "num_errors": property(lambda parser: len(scenario.parser_errors)),
            "get_error": lambda parser, i: SimpleNamespace(desc=lambda: scenario.parser_errors[i]),
        }
        self.Runtime = {
            "__init__": _keeps("logger"),
            "deserialize_cuda_engine": self._deserialize,
            "get_engine_validity": self._validity,
        }
        self.ICudaEngine = self._engine_members()
        self.EngineInspector = {
            "get_engine_information": lambda inspector, kind: (
                scenario.inspector if kind is module.LayerInformationFormat.JSON else ""
            )
        }
        self.IExecutionContext = {
            "__init__": lambda context: object.__setattr__(context, "_addresses", {}),
            "set_tensor_address": self._set_address,
            "execute_async_v3": self._execute,
        }

    def _engine_members(self) -> dict[str, Any]:
        module, tensors = self._module, self._scenario.tensors
        by_name = {tensor[0]: tensor for tensor in tensors}
        return {
            "num_io_tensors": property(lambda engine: len(tensors)),
            "get_tensor_name": lambda engine, i: tensors[i][0],
            "get_tensor_dtype": lambda engine, name: getattr(
                module.DataType, by_name[name][1].upper()
            ),
            "get_tensor_shape": lambda engine, name: by_name[name][2],
            "get_tensor_mode": lambda engine, name: getattr(module.TensorIOMode, by_name[name][3]),
            "create_engine_inspector": lambda engine: module.EngineInspector(),
            "create_execution_context": lambda engine: module.IExecutionContext(),
        }

    def _create_network(self, builder: Any, flags: int = 0) -> Any:
        known = vars(self._module.NetworkDefinitionCreationFlag).values()
        members = [flag for flag in known if isinstance(flag, Member)]
        names = {flag.name for flag in members if flags & (1 << int(flag))}
        self._scenario.calls.append(("create_network", names))
        return self._module.INetworkDefinition()

    def _build(self, builder: Any, network: Any, config: Any) -> bytes | None:
        for severity, text in self._scenario.log:
            builder._logger.log(getattr(self._module.ILogger.Severity, severity), text)
        return self._scenario.plan

    def _set_capability(self, config: Any, capability: Member, index: int) -> bool:
        assert 0 <= index < config.num_compute_capabilities
        self._scenario.calls.append(("set_compute_capability", capability.name))
        return True

    def _deserialize(self, runtime: Any, plan: bytes) -> Any:
        if self._scenario.loads and bytes(plan) == PLAN:
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

    def _set_address(self, context: Any, name: str, address: int) -> bool:
        context._addresses[name] = address
        return True

    def _execute(self, context: Any, stream: int) -> bool:
        memory = self._scenario.memory
        assert memory is not None
        (_, _, shape, _), (_, dtype, _, _) = self._scenario.tensors
        source, target = context._addresses["image"], context._addresses["mask"]

        def work() -> None:
            image = memory.device[source].reshape(shape)
            mask = (image[..., 0] % 5).astype(dtype)
            memory.device[target][:] = mask.reshape(-1).view(np.uint8)

        memory.streams[stream].append(work)
        return True


def _keeps(*names: str) -> Callable[..., None]:
    """An ``__init__`` that keeps its arguments as ``_name``."""

    def init(self: object, *arguments: Any) -> None:
        for name, argument in zip(names, arguments, strict=True):
            object.__setattr__(self, f"_{name}", argument)

    return init
