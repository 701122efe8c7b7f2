"""onnxruntime with GPU providers that compute on the CPU: the real package, told otherwise.

Sessions, bindings and traces are those of the real package. What the double changes: "cuda" memory
is host memory (that of ``device_double``), and the trace names the session's provider (CUDA,
TensorRT or TensorRT-RTX) at every node that the scenario does not place on the CPU. A run is
enqueued behind the copies on the session's stream; onnxruntime waits for it unless it is told not
to, and always for a graph. A captured graph is checked to be replayed with the buffers, and in the
thread, of its capture.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from dabnet.runtime.ort.providers import CUDA, OF_TENSORRT
from tests.support.device_double import FakeDeviceMemory

GPU_PROVIDERS = (CUDA, *OF_TENSORRT.values())


@dataclass
class CudaScenario:
    """What is placed on the CPU, and what was asked of the double.

    Attributes:
        on_cpu: operators, such as ``Resize``, that run on the CPU.
        settings: the provider options of the session.
        graphs: the number of each run's graph, in order.
        captured: the binding and the thread that each graph was captured with.
        memory: the GPU whose stream the session gets; None until it is opened.
        index: number of that GPU, as bound.
        gpus: how many the plug-in of TensorRT-RTX serves, which it lists in reverse.
        tells_address: whether each of them tells its PCI address.
        rtx_device: PCI address of the one that a session was given.
        fails: text of the error with which a run ends; "" for none.
    """

    on_cpu: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    graphs: list[str] = field(default_factory=list)
    captured: dict[str, Any] = field(default_factory=dict)
    fails: str = ""
    memory: FakeDeviceMemory | None = None
    index: int = 0
    gpus: int = 1
    tells_address: bool = True
    rtx_device: str = ""

    def open_memory(self, index: int = 0) -> FakeDeviceMemory:
        """In the place of ``open_device_memory``."""
        self.memory, self.index = FakeDeviceMemory(index), index
        return self.memory


def make_double(scenario: CudaScenario) -> SimpleNamespace:
    """What the runner uses of the module ``onnxruntime``."""

    class Binding:
        def __init__(self, real: Any) -> None:
            self.real = real

        def bind_input(self, *bound: Any) -> None:
            self._bind(self.real.bind_input, *bound)

        def bind_output(self, *bound: Any) -> None:
            self._bind(self.real.bind_output, *bound)

        @staticmethod
        def _bind(bind: Any, name: str, device: str, index: int, *rest: Any) -> None:
            kind, shape, address = rest
            assert (device, index) == ("cuda", scenario.index)
            assert scenario.memory is not None
            needed = int(np.prod(shape)) * np.dtype(kind).itemsize
            assert scenario.memory.device[address].nbytes >= needed
            bind(name, "cpu", 0, kind, shape, address)

    class Session:
        def __init__(self, path: str, options: Any, providers: list[Any] | None = None) -> None:
            ((name, settings),) = providers or chosen.pop(options)
            assert name in GPU_PROVIDERS
            self._provider, scenario.settings = name, settings
            self._real = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def get_providers(self) -> list[str]:
            return [self._provider, "CPUExecutionProvider"]

        def io_binding(self) -> Binding:
            return Binding(self._real.io_binding())

        def end_profiling(self) -> str:
            path = Path(self._real.end_profiling())
            events = json.loads(path.read_text(encoding="utf-8"))
            for event in events:
                arguments = event.get("args") or {}
                if "provider" in arguments and arguments["op_name"] not in scenario.on_cpu:
                    arguments["provider"] = self._provider
            path.write_text(json.dumps(events), encoding="utf-8")
            return str(path)

        def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
            if scenario.fails:
                raise RuntimeError(scenario.fails)
            graph = _entry(options, "gpu_graph_id")
            scenario.graphs.append(graph)
            # TensorRT's providers capture one graph per session.
            captures = str(id(self)) if self._provider != CUDA else graph
            if captures not in ("none", "-1"):
                now = (binding, threading.get_ident())
                assert scenario.captured.setdefault(captures, now) == now
            memory, stream = scenario.memory, int(scenario.settings["user_compute_stream"])
            assert memory is not None and memory.depth

            def work() -> None:
                memory.clock_s += 1.0
                self._real.run_with_iobinding(binding.real)

            memory.streams[stream].append(work)
            replays = captures in scenario.captured
            if replays or _entry(options, "disable_synchronize_execution_providers") != "1":
                memory.synchronize(stream)

    rtx, registered = OF_TENSORRT["tensorrt_rtx"], [0]
    chosen: dict[Any, Any] = {}

    def register(name: str, library: str) -> None:
        assert (name, library) == (rtx, "libplugin.so")
        assert registered == [0], "registered twice"
        registered[0] = scenario.gpus

    def device_of(index: int) -> Any:
        metadata = {"pci_bus_id": f"0000:{65 + index}:00.0"} if scenario.tells_address else {}
        return SimpleNamespace(ep_name=rtx, device=SimpleNamespace(metadata=metadata))

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_provider_for_devices(self, devices: list[Any], settings: dict[str, str]) -> None:
            (device,) = devices
            scenario.rtx_device = device.device.metadata.get("pci_bus_id", "the only one")
            chosen[self] = [(rtx, settings)]

    return SimpleNamespace(
        __version__=onnxruntime.__version__,
        get_available_providers=lambda: [OF_TENSORRT["tensorrt"], CUDA, "CPUExecutionProvider"],
        SessionOptions=Options,
        RunOptions=onnxruntime.RunOptions,
        InferenceSession=Session,
        get_ep_devices=lambda: [device_of(index) for index in reversed(range(registered[0]))],
        register_execution_provider_library=register,
    )


def _entry(options: Any, name: str) -> str:
    """An entry of a run's options; ``none`` without it."""
    try:
        return str(options.get_run_config_entry(name))
    except (AttributeError, RuntimeError):
        return "none"


def make_plugin() -> SimpleNamespace:
    """The package of NVIDIA's plug-in, by the names of its wheel (0.5.0)."""
    name = OF_TENSORRT["tensorrt_rtx"]
    return SimpleNamespace(get_ep_name=lambda: name, get_library_path=lambda: "libplugin.so")
