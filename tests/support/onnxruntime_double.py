"""onnxruntime with GPU providers that compute on the CPU: the real package, told otherwise.

Sessions, bindings and traces are those of the real package. What the double changes: "cuda" memory
is host memory, and the trace names the session's provider (CUDA or TensorRT) at every node that the
scenario does not place on the CPU. A captured graph is checked to be replayed with the buffers of
its capture.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


@dataclass
class CudaScenario:
    """What is placed on the CPU, and what was asked of the double.

    Attributes:
        on_cpu: operators, such as ``Resize``, that run on the CPU.
        settings: the provider options of the session.
        graphs: the number of each run's graph, in order.
        captured: the binding that each graph was captured with.
        fails: text of the error with which a run ends; "" for none.
    """

    on_cpu: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    graphs: list[str] = field(default_factory=list)
    captured: dict[str, Any] = field(default_factory=dict)
    fails: str = ""


def make_double(scenario: CudaScenario) -> SimpleNamespace:
    """What the runner uses of the module ``onnxruntime``."""

    class Session:
        def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
            ((name, settings),) = providers
            assert name in (CUDA, TENSORRT)
            self._provider, scenario.settings = name, settings
            self._real = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def get_providers(self) -> list[str]:
            return [self._provider, "CPUExecutionProvider"]

        def end_profiling(self) -> str:
            path = Path(self._real.end_profiling())
            events = json.loads(path.read_text(encoding="utf-8"))
            for event in events:
                arguments = event.get("args") or {}
                if "provider" in arguments and arguments["op_name"] not in scenario.on_cpu:
                    arguments["provider"] = self._provider
            path.write_text(json.dumps(events), encoding="utf-8")
            return str(path)

        def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
            if scenario.fails:
                raise RuntimeError(scenario.fails)
            graph = options.get_run_config_entry("gpu_graph_id") if options else "none"
            scenario.graphs.append(graph)
            if graph not in ("none", "-1"):
                assert scenario.captured.setdefault(graph, binding) is binding
            self._real.run_with_iobinding(binding, options)

    class OrtValue:
        @staticmethod
        def ortvalue_from_shape_and_type(shape: Any, kind: Any, device: str, index: int) -> Any:
            assert (device, index) == ("cuda", 0)
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)
            view = value.numpy
            value.numpy = lambda: view().copy()  # from a GPU it is a copy; here it would be a view
            return value

    return SimpleNamespace(
        __version__=onnxruntime.__version__,
        get_available_providers=lambda: [TENSORRT, CUDA, "CPUExecutionProvider"],
        SessionOptions=onnxruntime.SessionOptions,
        RunOptions=onnxruntime.RunOptions,
        InferenceSession=Session,
        OrtValue=OrtValue,
    )
