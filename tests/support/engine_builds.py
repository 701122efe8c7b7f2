"""Building engines against doubles: what several tests share."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from dabnet.runtime.manifest import Manifest, TensorInfo
from export.engine.engine import build_engine
from export.engine.spec import BuildSpec
from tests.support.contract_graph import (
    add_manifest,
    contract_manifest,
    contract_model,
    write_contract,
)
from tests.support.tensorrt_double import FakeDeviceMemory, Scenario, inspector_json, make_double

READS = {"fp32": "FP32", "fp16": "FP16", "int8": "Int8"}
FOUND = {"fp32": {"Float": 2}, "fp16": {"Half": 2}, "int8": {"Float": 1, "Int8": 2}}
PLACES = ("export.engine.limits", "export.engine.builder")  # where a GPU is opened


def scenario_of(precision: str, **changes: Any) -> Scenario:
    """An engine that is what was asked for, as the inspector shows it."""
    kinds = [READS[precision]] * 2 + (["FP32"] if precision == "int8" else [])
    return Scenario(inspector=inspector_json(*kinds), **changes)


def install(
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    scenario: Scenario,
    capability: tuple[int, int] | None = None,
) -> list[FakeDeviceMemory]:
    """Make the double the only TensorRT, on a machine with a GPU; return how it was opened."""
    double = make_double(version, scenario)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, double if name == double.__name__ else None)
    opened: list[FakeDeviceMemory] = []

    def open_memory(index: int = 0) -> FakeDeviceMemory:
        known = (6, 1) if version.startswith("8.") else (8, 6)
        opened.append(FakeDeviceMemory(index, compute_capability=capability or known))
        scenario.memory = opened[-1]
        return opened[-1]

    for place in PLACES:
        monkeypatch.setattr(f"{place}.open_device_memory", open_memory)
    monkeypatch.setattr("export.engine.limits.CDLL", lambda name: None)  # the lean runtime
    return opened


def mask_of(version: str) -> str:
    return "int32" if version.startswith("8.") else "uint8"


def build(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    version: str,
    spec: BuildSpec,
    scenario: Scenario,
    capability: tuple[int, int] | None = None,
    **more: Any,
) -> Manifest:
    """Build the contract graph with the double of ``version``."""
    opened = install(monkeypatch, version, scenario, capability)
    source = write_contract(folder, spec.onnx_precision, mask_of(version))
    try:
        return build_engine(source, folder / "model.engine", spec, **more)
    finally:
        assert [memory.opened for memory in opened] == [0] * len(opened), "a GPU was left open"


def write_dynamic(
    folder: Path, precision: str = "fp32", dynamic: tuple[int, ...] = (0, 1, 2), mask: str = "uint8"
) -> Path:
    """The contract graph with symbolic sides in the places ``dynamic`` of (N, H, W)."""
    model = contract_model(precision, mask)
    for tensor in (model.graph.input[0], model.graph.output[0]):
        for place in dynamic:
            tensor.type.tensor_type.shape.dim[place].dim_param = "NHW"[place]
    manifest = contract_manifest(precision, mask)
    shape = tuple(
        -1 if place in dynamic else side for place, side in enumerate(manifest.input.shape)
    )
    manifest = replace(
        manifest,
        input=TensorInfo("image", "uint8", shape),
        output=TensorInfo("mask", mask, shape[:3]),
    )
    add_manifest(model, manifest)
    path = folder / f"dynamic-{precision}.onnx"
    onnx.save(model, path)
    return path


def nothing_was_written(folder: Path) -> bool:
    return all(path.suffix == ".onnx" for path in folder.iterdir())
