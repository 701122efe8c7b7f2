"""Engines of the TensorRT double as files: a plan, and its manifest beside it."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dabnet.runtime.manifest import EngineInfo, Manifest, engine_manifest_path
from tests.support.contract_graph import HEIGHT, WIDTH, contract_manifest
from tests.support.tensorrt_double import PLAN, FakeDeviceMemory, Scenario, make_double

SHAPE = (1, HEIGHT, WIDTH, 3)
INFO = EngineInfo("tensorrt", "10.16.1", "this-gpu", "RTX 3090", "8.6", "580", {"Float": 4})


def images(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_engine(folder: Path, info: EngineInfo | None, **changes: Any) -> Path:
    """Write the double's plan and a manifest beside it."""
    path = folder / "model.engine"
    path.write_bytes(PLAN)
    info = info and replace(info, sha256=hashlib.sha256(PLAN).hexdigest())
    manifest = replace(contract_manifest(), engine=info, **changes)
    engine_manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")
    return path


def scenario_for(memory: FakeDeviceMemory, mask: str = "uint8", **changes: Any) -> Scenario:
    tensors = (("image", "uint8", SHAPE, "INPUT"), ("mask", mask, SHAPE[:3], "OUTPUT"))
    return Scenario(**{"tensors": tensors, "memory": memory, **changes})


def scenario_of(memory: FakeDeviceMemory, manifest: Manifest, **changes: Any) -> Scenario:
    """A scenario whose engine has the tensors and the profile of ``manifest``."""
    assert manifest.engine is not None
    outputs = reversed(manifest.outputs)  # an engine may list them in any order
    modes = ((manifest.input, "INPUT"), *((output, "OUTPUT") for output in outputs))
    tensors = tuple((t.name, t.dtype, t.shape, mode) for t, mode in modes)
    profile = manifest.engine.profile
    return Scenario(**{"tensors": tensors, "profile": profile, "memory": memory, **changes})


def install(monkeypatch: pytest.MonkeyPatch, version: str, scenario: Scenario) -> None:
    double = make_double(version, scenario)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, double if name == double.__name__ else None)


def info_of(version: str) -> EngineInfo:
    if version.startswith("rtx"):
        return replace(INFO, product="tensorrt_rtx", version=version.removeprefix("rtx-"))
    return replace(INFO, version=version)
