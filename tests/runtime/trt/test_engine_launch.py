"""Dynamic sides, raw tensors, CUDA graphs and the runtime cache, on doubles."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dabnet.errors import ArtifactError, BackendUnavailable, InputError
from dabnet.runtime.cuda import gpu_unavailable_reason
from dabnet.runtime.manifest import EngineInfo, TensorInfo
from dabnet.runtime.trt.runner import TensorRTRunner
from tests.support.contract_graph import HEIGHT, WIDTH, contract_manifest, write_contract
from tests.support.engine_double import run_of
from tests.support.engine_files import (
    INFO,
    SHAPE,
    images,
    info_of,
    install,
    scenario_of,
    write_engine,
)
from tests.support.tensorrt_double import VERSIONS, FakeDeviceMemory, Scenario

PROFILE = ((1, 16, 32, 3), (1, 32, 64, 3), (4, 64, 128, 3))
DYNAMIC = {
    "input": TensorInfo("image", "uint8", (-1, -1, -1, 3)),
    "output": TensorInfo("mask", "uint8", (-1, -1, -1)),
}

Opener = Callable[..., tuple[TensorRTRunner, Scenario, FakeDeviceMemory]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Opener:
    """Opens an engine of ``version`` whose manifest has the ``changes``."""

    def open_engine(
        version: str = "10.16.1",
        info: EngineInfo | None = None,
        memory: FakeDeviceMemory | None = None,
        scenario: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        **changes: Any,
    ) -> tuple[TensorRTRunner, Scenario, FakeDeviceMemory]:
        memory = memory or FakeDeviceMemory()
        info = info or info_of(version)
        path = write_engine(tmp_path, info, **changes)
        manifest = replace(contract_manifest(), engine=info, **changes)
        double = scenario_of(memory, manifest, **(scenario or {}))
        install(monkeypatch, version, double)
        return TensorRTRunner(path, memory=memory, **(options or {})), double, memory

    return open_engine


def dynamic(version: str) -> dict[str, Any]:
    return {"version": version, "info": replace(info_of(version), profile=PROFILE), **DYNAMIC}


def expected(batch: np.ndarray) -> np.ndarray:
    return run_of(batch[..., 0], "uint8")


# --- dynamic sides ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("graphs", [False, True])
def test_each_call_chooses_its_shape(opened: Opener, version: str, graphs: bool) -> None:
    runner, _, memory = opened(**dynamic(version), options={"cuda_graph": graphs})
    assert runner.info.shape == (-1, -1, -1, 3)
    assert runner.manifest.is_dynamic
    held = len(memory.device)
    for shape in ((1, 32, 64, 3), (4, 64, 128, 3), (1, 16, 32, 3), (2, 24, 40, 3), SHAPE):
        batch = images(sum(shape), shape)
        np.testing.assert_array_equal(runner.infer(batch), expected(batch))
    assert len(memory.device) == held  # allocated once, for the largest
    batches = [images(1, (1, 16, 32, 3)), images(2, (4, 64, 128, 3))]
    runner.stage(batches)
    masks = next(a for a, block in memory.device.items() if block.nbytes == 4 * 64 * 128)
    for index in (0, 1, 0):
        runner.launch(index)
        runner.synchronize()
        wanted = expected(batches[index])
        np.testing.assert_array_equal(memory.device[masks][: wanted.size], wanted.reshape(-1))
    runner.close()
    assert memory.opened == 0


@given(st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(0, 20)))
@settings(max_examples=60, deadline=None)
def test_what_the_profile_holds_and_no_more(sides: tuple[int, int, int]) -> None:
    """Any shape is either run or refused by one line, before TensorRT sees it."""
    batch, height, width = sides[0], 8 * sides[1], 8 * sides[2]
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        memory = FakeDeviceMemory()
        manifest = replace(contract_manifest(), engine=replace(INFO, profile=PROFILE), **DYNAMIC)
        install(patch, "10.16.1", scenario_of(memory, manifest))
        runner = TensorRTRunner(
            write_engine(Path(folder), manifest.engine, **DYNAMIC), memory=memory
        )
        given_images = images(0, (batch, height, width, 3))
        if 1 <= batch <= 4 and 16 <= height <= 64 and 32 <= width <= 128:
            np.testing.assert_array_equal(runner.infer(given_images), expected(given_images))
        else:
            with pytest.raises(InputError, match=r"images of .*shape \(\d+, \d+, \d+, 3\)"):
                runner.infer(given_images)
        runner.close()


def test_shapes_outside_of_the_profile_name_it(opened: Opener) -> None:
    runner, _, _ = opened(**dynamic("10.16.1"))
    message = (
        r"\(1, 128, 64, 3\); expected between \(1, 16, 32, 3\) and \(4, 64, 128, 3\).*export trt"
    )
    for use in (runner.infer, lambda batch: runner.stage([batch])):
        with pytest.raises(InputError, match=message):
            use(images(0, (1, 128, 64, 3)))
    with pytest.raises(InputError, match="any multiple of 8 as a side"):
        runner.infer(images(0, (1, 33, 64, 3)))


def test_another_profile_than_the_manifest_says(opened: Opener) -> None:
    ours = "is for the shapes .*rebuild it with"
    none = "engine.profile: expected shapes for the sides that a call chooses"
    for profile, told in (((), none), ((PROFILE[0], PROFILE[1], (8, 64, 128, 3)), ours)):
        info = replace(INFO, profile=profile)
        with pytest.raises(ArtifactError, match=told):
            opened(info=info, **DYNAMIC, scenario={"profile": PROFILE})


# --- raw tensors ------------------------------------------------------------------------------


def test_float_input_and_logits(opened: Opener) -> None:
    raw = {
        "input": TensorInfo("image", "float32", (2, 3, HEIGHT, WIDTH)),
        "output": TensorInfo("logits", "float32", (2, 5, HEIGHT, WIDTH)),
        "example": (2, HEIGHT, WIDTH),
    }
    runner, _, memory = opened(**raw)
    assert runner.info.shape == (2, 3, HEIGHT, WIDTH)
    planes = images(3, (2, 3, HEIGHT, WIDTH)).astype(np.float32)
    first = runner.infer(planes)
    runner.infer(planes * 0)
    assert (first.dtype, first.shape) == (np.float32, (2, 5, HEIGHT, WIDTH))
    np.testing.assert_array_equal(first, run_of(planes[:, 0], "float32"))
    with pytest.raises(InputError, match=r"expected float32 of shape .*\(N, RGB, H, W\)"):
        runner.infer(images(0))
    runner.close()
    assert memory.opened == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("graphs", [False, True])
def test_a_confidence_beside_the_mask(opened: Opener, version: str, graphs: bool) -> None:
    """Of any shape; int32 on TensorRT 8.6; the engine may list its outputs in any order."""
    kind = "int32" if version.startswith("8.") else "uint8"
    changes = dynamic(version)
    changes["output"] = TensorInfo("mask", kind, (-1, -1, -1))
    changes["confidence"] = TensorInfo("confidence", kind, (-1, -1, -1))
    runner, _, memory = opened(**changes, options={"cuda_graph": graphs})
    assert runner.info.head == "mask+confidence"
    for shape in (SHAPE, (4, 64, 128, 3), (1, 16, 32, 3)):
        batch = images(sum(shape), shape)
        found = runner.infer_with_confidence(batch)
        assert found.mask.dtype == found.confidence.dtype == np.uint8
        np.testing.assert_array_equal(found.mask, expected(batch))
        np.testing.assert_array_equal(found.confidence, batch[..., 0])
        np.testing.assert_array_equal(runner.infer(batch), found.mask)
    runner.close()
    assert memory.opened == 0


# --- CUDA graphs ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [v for v in VERSIONS if not v.startswith("rtx")])
def test_a_run_is_captured_once_for_each_input(opened: Opener, version: str) -> None:
    runner, double, memory = opened(version, options={"cuda_graph": True})
    assert "CUDA graph" in runner.info.notes
    assert len(memory.graphs) == 1  # at the load, not in the first call
    for seed in range(3):
        np.testing.assert_array_equal(runner.infer(images(seed)), expected(images(seed)))
    (graph,) = memory.graphs
    assert graph.launches == 3
    runner.stage([images(1), images(2)])
    assert len(memory.graphs) == 3
    runner.stage([images(5), images(6)])
    for index in (0, 1, 0):
        runner.launch(index)
    runner.synchronize()
    assert [graph.launches for graph in memory.graphs] == [3, 2, 1]
    # One context for each graph: to change the context of a captured graph is undefined.
    assert len(double.called("create_execution_context")) == 3
    runner.close()
    assert memory.opened == 0


def test_a_graph_is_captured_anew_for_another_shape(opened: Opener) -> None:
    runner, double, memory = opened(**dynamic("11.4.0"), options={"cuda_graph": True})
    (first,) = memory.graphs
    runner.infer(images(0, PROFILE[1]))
    assert first.launches == 1
    runner.infer(images(0, PROFILE[2]))
    assert first not in memory.graphs
    assert len(memory.graphs) == 1
    assert len(double.called("create_execution_context")) == 1
    runner.close()


@pytest.mark.parametrize("version", ["10.16.1", "rtx-1.7.1"])
def test_memory_goes_after_the_graphs_that_hold_it(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Staged inputs are allocated after the launcher was made, and freed after it is closed."""
    runner, _, memory = opened(version, options={"cuda_graph": True})
    runner.stage([images(1), images(2)])
    launcher, free, held = runner._launcher, memory.free, []
    monkeypatch.setattr(
        memory, "free", lambda address: (held.append(len(launcher._prepared)), free(address))
    )
    runner.close()
    assert held == [0] * 4


def test_a_runner_that_is_dropped_gives_its_memory_back(opened: Opener) -> None:
    runner, _, memory = opened("10.16.1")
    del runner
    gc.collect()
    assert memory.opened == 0


def test_tensorrt_rtx_captures_itself(opened: Opener) -> None:
    runner, double, memory = opened("rtx-1.7.1", options={"cuda_graph": True})
    assert double.called("cuda_graph_strategy") == ["WHOLE_GRAPH_CAPTURE"]
    assert "CUDA graph of TensorRT-RTX" in runner.info.notes
    (config,) = double.called("create_execution_context")
    assert config is not None
    np.testing.assert_array_equal(runner.infer(images(4)), expected(images(4)))
    assert not memory.graphs
    runner.stage([images(1), images(2), images(3)])
    for index in (2, 0, 1) * 3:
        runner.launch(index)
    runner.synchronize()
    # It captures again whenever an address changes: each context keeps its own.
    assert len(double.called("captured")) == 4
    assert len(double.called("create_execution_context")) == 4
    runner.close()


@pytest.mark.parametrize("graphs", [False, True])
def test_any_thread_may_call_and_close(opened: Opener, graphs: bool) -> None:
    """CUDA's current GPU belongs to a thread: the double refuses work where another may be it."""
    options = {"cuda_graph": graphs, "device": "cuda:1"}
    runner, _, memory = opened("10.16.1", options=options)
    with ThreadPoolExecutor(1) as pool:
        mask = pool.submit(runner.infer, images(1)).result()
        np.testing.assert_array_equal(mask, expected(images(1)))
        pool.submit(runner.stage, [images(2)]).result()
        assert pool.submit(runner.gpu_seconds, 0).result() == 1.0
        pool.submit(runner.close).result()
    assert memory.opened == memory.depth == 0


def test_a_capture_that_fails_leaves_nothing(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BackendUnavailable("pycuda captures no CUDA graphs")

    memory = FakeDeviceMemory()
    monkeypatch.setattr(memory, "capture", refuse)
    with pytest.raises(BackendUnavailable, match="captures no CUDA graphs"):
        opened(memory=memory, options={"cuda_graph": True})
    assert memory.opened == 0
    with pytest.raises(BackendUnavailable, match="no execution context"):
        opened(memory=(other := FakeDeviceMemory()), scenario={"gives_context": False})
    assert other.opened == 0


# --- runtime cache ----------------------------------------------------------------------------


def test_the_runtime_cache_is_kept(opened: Opener, tmp_path: Path) -> None:
    cache = tmp_path / "kernels.cache"
    runner, double, _ = opened("rtx-1.7.1", options={"runtime_cache": cache})
    assert not any("cache" in note for note in runner.info.notes)
    assert len(double.called("set_runtime_cache")) == 1
    runner.close()
    assert cache.read_bytes() == b"\0kernels of this card"
    stamp = cache.stat().st_mtime_ns
    runner, _, _ = opened("rtx-1.7.1", options={"runtime_cache": str(cache)})
    assert "runtime cache read" in runner.info.notes
    runner.close()
    assert cache.stat().st_mtime_ns == stamp  # nothing new, nothing written
    more = {"kernels": b"\0kernels of this card and more"}
    opened("rtx-1.7.1", scenario=more, options={"runtime_cache": cache})[0].close()
    assert cache.read_bytes() == b"\0kernels of this card and more"


def test_a_damaged_cache_is_made_anew(opened: Opener, tmp_path: Path) -> None:
    cache = tmp_path / "kernels.cache"
    for content in (b"\0 rubbish", b""):
        cache.write_bytes(content)
        runner, _, memory = opened("rtx-1.7.1", options={"runtime_cache": cache})
        told = any("does not fit and is made anew" in note for note in runner.info.notes)
        assert told == bool(content)
        np.testing.assert_array_equal(runner.infer(images(1)), expected(images(1)))
        runner.close()
        assert cache.read_bytes() == b"\0kernels of this card"
        assert memory.opened == 0


def test_a_cache_that_cannot_be_written(opened: Opener, tmp_path: Path) -> None:
    folder = tmp_path / "caches"
    with pytest.raises(InputError, match="does not exist.*mkdir"):
        opened("rtx-1.7.1", options={"runtime_cache": folder / "c"})
    folder.mkdir()
    runner, _, memory = opened("rtx-1.7.1", options={"runtime_cache": folder / "c"})
    folder.rmdir()
    with pytest.raises(InputError, match="nothing can be written"):
        runner.close()
    assert memory.opened == 0  # all the same
    for version in ("8.6.1", "10.16.1"):
        with pytest.raises(InputError, match=f"tensorrt {version}.*TensorRT-RTX.*leave"):
            opened(version, options={"runtime_cache": tmp_path / "c"})


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("product", ["tensorrt", "tensorrt_rtx"])
def test_graphs_and_cache_on_a_gpu(tmp_path: Path, product: str) -> None:
    if reason := gpu_unavailable_reason():
        pytest.skip(reason)
    module = pytest.importorskip(product)
    from export.engine.engine import build_engine
    from export.engine.spec import BuildSpec

    mask = "int32" if hasattr(module.ICudaEngine, "num_bindings") else "uint8"
    path = tmp_path / "model.engine"
    build_engine(write_contract(tmp_path, mask=mask), path, BuildSpec("fp32", product=product))
    plain = TensorRTRunner(path)
    batches = [images(seed) for seed in range(3)]
    wanted = [plain.infer(batch) for batch in batches]
    plain.close()
    cache = tmp_path / "cache" if hasattr(module, "IRuntimeCache") else None
    for _ in range(2):
        runner = TensorRTRunner(path, cuda_graph=True, runtime_cache=cache)
        for batch, masks in zip(batches * 2, wanted * 2, strict=True):
            np.testing.assert_array_equal(runner.infer(batch), masks)
        runner.stage(batches)
        for index in (2, 0, 1):
            runner.launch(index)
        runner.synchronize()
        runner.close()
    if cache is not None:
        assert cache.stat().st_size > 0
        assert "runtime cache read" in runner.info.notes
