"""The doubles of ``gpu_machine``: one card, and packages that compute on it what a file says.

onnxruntime's double has GPU providers, and the real CPU provider beside them. TensorRT's double
builds "engines" that hold the ONNX file, and runs them on the real onnxruntime: masks are those of
the network, so that a check of masks means something.
"""

from __future__ import annotations

import importlib
import math
import os
from functools import cache, partial
from types import ModuleType
from typing import Any

from dabnet.errors import BackendUnavailable
from dabnet.runtime.manifest import carried_manifest
from tests.support import tensorrt_double
from tests.support.device_double import FakeDeviceMemory
from tests.support.tensorrt_double import PLAN, Scenario, inspector_json, make_double

READS = {"fp32": "FP32", "fp16": "FP16", "int8": "Int8"}
COPY_S = 1e-8
"""Time of each copy, and of each event, on the card's clock; a run takes a second."""


class Card(FakeDeviceMemory):
    """One card that the whole process shares; what is done on it takes time."""

    def synchronize(self, stream: int) -> None:
        assert self.depth, "another GPU may be current in this thread"
        waiting, self.streams[stream][:] = list(self.streams[stream]), []
        for work in waiting:
            work()
            self.clock_s += COPY_S

    def close(self) -> None:
        """Others may still use it."""


CARD = Card(compute_capability=tuple(map(int, os.environ.get("DOUBLE_CARD", "8.6").split("."))))


def opened(index: int = 0) -> Card:
    """In the place of ``open_device_memory``."""
    if index > 0:
        raise BackendUnavailable(f"there is no GPU cuda:{index}", "one of the 1 that CUDA sees")
    return CARD


@cache
def real_onnxruntime() -> Any:
    return importlib.import_module("onnxruntime")


def make_onnxruntime() -> ModuleType:
    real = real_onnxruntime()
    doubles = importlib.import_module("tests.support.onnxruntime_double")
    double = doubles.make_double(doubles.CudaScenario(memory=CARD))

    def session(path: Any, options: Any = None, providers: Any = None) -> Any:
        on_cpu = providers == ["CPUExecutionProvider"]
        return (real if on_cpu else double).InferenceSession(path, options, providers=providers)

    made = ModuleType("onnxruntime")
    known = vars(real) | vars(double) | {"InferenceSession": session}
    vars(made).update({name: value for name, value in known.items() if name != "preload_dlls"})
    return made


class RealMasks(tensorrt_double._Behaviours):
    """Engines that hold the ONNX file they were built from, and compute what it says."""

    def __init__(self, module: ModuleType, scenario: Scenario) -> None:
        super().__init__(module, scenario)
        self._create_context = self.ICudaEngine["create_execution_context"]
        self.OnnxParser["parse"] = self._parse_file
        self.Builder["build_serialized_network"] = self._build_file
        self.Runtime["deserialize_cuda_engine"] = self._load
        self.ICudaEngine["create_execution_context"] = self._create_context_of
        self.IExecutionContext["execute_async_v3"] = self._run

    def _parse_file(self, parser: Any, content: bytes) -> bool:
        parser._network._content = content
        return self._parse(parser, content)

    def _build_file(self, builder: Any, network: Any, config: Any) -> bytes | None:
        plan = self._build(builder, network, config)
        return None if plan is None else plan + network._content

    def _load(self, runtime: Any, plan: bytes) -> Any:
        engine = self._deserialize(runtime, PLAN)
        content = bytes(plan).removeprefix(PLAN)
        session = real_onnxruntime().InferenceSession(content, providers=["CPUExecutionProvider"])
        precision = carried_manifest(session.get_modelmeta().custom_metadata_map, "it").precision
        self._scenario.inspector = inspector_json(*[READS[precision]] * 2)
        object.__setattr__(engine, "_session", session)
        return engine

    def _create_context_of(self, engine: Any, config: Any = None) -> Any:
        context = self._create_context(engine, config)
        object.__setattr__(context, "_session", engine._session)
        return context

    def _run(self, context: Any, stream: int) -> bool:
        memory = CARD
        assert memory.depth, "another GPU may be current in this thread"
        (given, _, shape, _), (result, _, _, _) = self._scenario.tensors
        source, target = context._addresses[given], context._addresses[result]

        def work() -> None:
            memory.clock_s += 1.0
            images = memory.device[source][: math.prod(shape)].reshape(shape)
            (masks,) = context._session.run(None, {given: images})
            memory.device[target][: masks.size] = masks.reshape(-1)

        memory.streams[stream].append(work)
        return True


def make_tensorrt(version: str) -> ModuleType:
    height, width = map(int, os.environ["DOUBLE_SIZE"].split("x"))
    tensors = (
        ("image", "uint8", (1, height, width, 3), "INPUT"),
        ("mask", "uint8", (1, height, width), "OUTPUT"),
    )
    plan = None if version in os.environ.get("DOUBLE_REFUSES", "").split() else PLAN
    log = (("ERROR", "Unsupported SM"),) if plan is None else ()
    tensorrt_double._Behaviours = RealMasks
    return make_double(version, Scenario(plan=plan, log=log, tensors=tensors, memory=CARD))


def make_pynvml() -> Any:
    from tests.support.nvml_double import NvmlDouble

    return NvmlDouble({"nvmlSystemGetDriverVersion": "580.1"})


MAKERS = {
    "onnxruntime": make_onnxruntime,
    "tensorrt": partial(make_tensorrt, "10.16.1"),
    "tensorrt_rtx": partial(make_tensorrt, "rtx-1.7.1"),
    "pynvml": make_pynvml,
}
