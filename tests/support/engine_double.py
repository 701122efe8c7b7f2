"""The half of the TensorRT double that runs engines, with what TensorRT-RTX configures of it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

TENSORRT_NAMES = {"float32": "FLOAT", "float16": "HALF"}
CLASSES = 5


class EngineBehaviours:
    """For each class that belongs to a loaded engine, the members that do something.

    ``scenario`` is a ``tensorrt_double.Scenario``. A run gives the first channel modulo CLASSES, as
    a mask or, where the engine has a float output, as logits that are 1 at that class. An output
    named ``confidence`` is the first channel itself.
    """

    def __init__(self, module: ModuleType, scenario: Any) -> None:
        self._module, self._scenario = module, scenario
        note = scenario.calls.append
        self.ICudaEngine = self._engine_members()
        self.EngineInspector = {
            "get_engine_information": lambda inspector, kind: (
                scenario.inspector if kind is module.LayerInformationFormat.JSON else ""
            )
        }
        self.IExecutionContext = {
            "__init__": lambda context: self._new_context(context),
            "set_tensor_address": self._set_address,
            "set_input_shape": self._set_shape,
            "execute_async_v3": self._execute,
        }
        self.IRuntimeConfig = {
            "record": lambda name, value: note((name, getattr(value, "name", value))),
            "create_runtime_cache": lambda config: module.IRuntimeCache(),
            "set_runtime_cache": lambda config, cache: note(("set_runtime_cache", cache)) or True,
        }
        self.IRuntimeCache = {
            "deserialize": lambda cache, blob: blob.startswith(b"\0kernels"),
            "serialize": lambda cache: memoryview(scenario.kernels),
        }

    def _engine_members(self) -> dict[str, Any]:
        module, scenario = self._module, self._scenario
        tensors = scenario.tensors
        by_name = {tensor[0]: tensor for tensor in tensors}
        return {
            "num_io_tensors": property(lambda engine: len(tensors)),
            "get_tensor_name": lambda engine, i: tensors[i][0],
            "get_tensor_dtype": lambda engine, name: getattr(
                module.DataType, TENSORRT_NAMES.get(by_name[name][1], by_name[name][1].upper())
            ),
            "get_tensor_shape": lambda engine, name: by_name[name][2],
            "get_tensor_profile_shape": lambda engine, name, index: list(scenario.profile),
            "get_tensor_mode": lambda engine, name: getattr(module.TensorIOMode, by_name[name][3]),
            "create_engine_inspector": lambda engine: module.EngineInspector(),
            "create_runtime_config": lambda engine: module.IRuntimeConfig(),
            "create_execution_context": self._create_context,
        }

    def _create_context(self, engine: Any, config: Any = None) -> Any:
        self._scenario.calls.append(("create_execution_context", config))
        if not self._scenario.gives_context:
            return None
        context = self._module.IExecutionContext()
        strategy = getattr(vars(config or self).get("cuda_graph_strategy"), "name", "")
        object.__setattr__(context, "_captures", strategy == "WHOLE_GRAPH_CAPTURE")
        return context

    def _new_context(self, context: Any) -> None:
        state = {"_addresses": {}, "_shape": self._scenario.tensors[0][2], "_warm": set()}
        for name, value in state.items():
            object.__setattr__(context, name, value)

    def _set_address(self, context: Any, name: str, address: int) -> bool:
        self._outside_of_a_capture()
        context._addresses[name] = address
        return True

    def _outside_of_a_capture(self) -> None:
        """Only ``execute_async_v3`` may be called while a graph is recorded."""
        assert not self._scenario.memory.capturing

    def _set_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> bool:
        self._outside_of_a_capture()
        assert name == self._scenario.tensors[0][0]
        object.__setattr__(context, "_shape", shape)
        smallest, _, largest = self._scenario.profile
        return all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True))

    def _execute(self, context: Any, stream: int) -> bool:
        memory, shape = self._scenario.memory, context._shape
        assert memory is not None
        if -1 in shape or (memory.capturing and shape not in context._warm):
            return False  # no shape was set; or a first run, which cannot be captured
        context._warm.add(shape)
        (given, read, _, _), *results = self._scenario.tensors
        source = context._addresses[given]
        targets = [(name, written, context._addresses[name]) for name, written, _, _ in results]

        assert memory.depth, "another GPU may be current in this thread"
        if vars(context).get("_captures"):  # TensorRT-RTX, whose graph is of addresses and a shape
            now = (tuple(context._addresses.values()), shape)
            if vars(context).get("_graph") != now:
                self._scenario.calls.append(("captured", now))
            object.__setattr__(context, "_graph", now)

        def work() -> None:
            memory.clock_s += 1.0
            count = int(np.prod(shape)) * np.dtype(read).itemsize
            image = memory.device[source][:count].view(read).reshape(shape)
            first = image[..., 0] if read == "uint8" else image[:, 0]
            for name, written, target in targets:
                found = run_of(first, written)
                if name == "confidence":
                    found = np.ascontiguousarray(first.astype(written))
                memory.device[target][: found.nbytes] = found.reshape(-1).view(np.uint8)

        memory.streams[stream].append(work)
        if (profiler := vars(context).get("profiler")) is not None:
            for layer, milliseconds in self._scenario.layers:
                profiler.report_layer_time(layer, milliseconds)
        return True


def run_of(first_channel: np.ndarray, written: str) -> np.ndarray:
    """What the double gives for a first channel of (N, H, W)."""
    mask = first_channel.astype(np.int64) % CLASSES
    if written != "float32":
        return np.ascontiguousarray(mask.astype(written))
    return np.stack([mask == k for k in range(CLASSES)], axis=1).astype(written)
