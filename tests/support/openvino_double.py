"""OpenVINO on a processor that it is told of: the real package, which computes in FP32.

Graphs, requests and masks are those of the real package. What the double changes: which precisions
the processor offers, and in which types the compiled model says that it computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import openvino


@dataclass
class Processor:
    """What the double says, and what was asked of it.

    Attributes:
        offered: the precisions that the CPU plugin lists.
        computes: the type in which each convolution of the compiled model computes, in order; the
            last one is that of all others too.
        hint: the type of floats that was compiled for; None for the one that was asked for.
        options: of each compiled model.
    """

    offered: tuple[str, ...] = ("FP32", "FP16", "BF16", "INT8")
    computes: tuple[str, ...] = ("f32",)
    hint: str | None = None
    options: list[dict[str, Any]] = field(default_factory=list)


def make_double(processor: Processor) -> SimpleNamespace:
    """What the runner uses of the module ``openvino``, to put in ``sys.modules``."""

    class Core:
        def __init__(self) -> None:
            self._real = openvino.Core()

        def get_property(self, device: str, name: str) -> Any:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return list(processor.offered)

        def read_model(self, path: str) -> Any:
            return self._real.read_model(path)

        def compile_model(self, model: Any, device: str, options: dict[str, Any]) -> Any:
            processor.options.append(options)
            known = {**options, "INFERENCE_PRECISION_HINT": "f32"}
            return _Compiled(self._real.compile_model(model, device, known), options, processor)

    return SimpleNamespace(
        Core=Core, Tensor=openvino.Tensor, get_version=lambda: openvino.get_version()
    )


class _Compiled:
    def __init__(self, real: Any, options: dict[str, Any], processor: Processor) -> None:
        self._real, self._options, self._processor = real, options, processor

    def get_property(self, name: str) -> Any:
        if name != "INFERENCE_PRECISION_HINT":
            return self._real.get_property(name)
        hint = self._processor.hint or self._options[name]
        return SimpleNamespace(to_string=lambda: hint)

    def create_infer_request(self) -> Any:
        return self._real.create_infer_request()

    def get_runtime_model(self) -> Any:
        found: list[Any] = []
        kinds = iter(self._processor.computes)
        for node in self._real.get_runtime_model().get_ops():
            real = node.get_rt_info()
            layer = real["layerType"].astype(str) if "layerType" in real else ""
            kind = next(kinds, self._processor.computes[-1]) if layer == "Convolution" else "f32"
            found.append(_Node({"layerType": _Text(layer), "runtimePrecision": _Text(kind)}))
        return SimpleNamespace(get_ops=lambda: found)


@dataclass
class _Node:
    info: dict[str, Any]

    def get_rt_info(self) -> dict[str, Any]:
        return self.info


@dataclass
class _Text:
    text: str

    def astype(self, kind: type) -> str:
        assert kind is str
        return self.text
