"""TensorRT inside onnxruntime, against a double; time by node, for real."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dabnet.errors import BackendUnavailable, InputError
from dabnet.runtime.ort import gpu as onnxruntime_gpu
from dabnet.runtime.ort.providers import (
    OF_TENSORRT,
    RTX_PLUGIN,
    TF32_NOTE,
    TF32_OVERRIDE,
    TensorRTProvider,
)
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import HasLayerTimes
from tests.support.contract_graph import HEIGHT, WIDTH, write_contract
from tests.support.contract_variants import write_dynamic
from tests.support.int8_graph import write_int8
from tests.support.onnxruntime_double import CudaScenario, make_double, make_plugin

ort = pytest.importorskip("onnxruntime")

TENSORRT = OF_TENSORRT["tensorrt"]
IMAGES = np.random.default_rng(1).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CudaScenario]:
    def install(**changes: Any) -> CudaScenario:
        scenario = CudaScenario(**changes)
        monkeypatch.setitem(sys.modules, "onnxruntime", make_double(scenario))
        monkeypatch.setitem(sys.modules, RTX_PLUGIN, make_plugin())
        monkeypatch.setattr(onnxruntime_gpu, "open_device_memory", scenario.open_memory)
        monkeypatch.setenv(TF32_OVERRIDE, "1")
        return scenario

    return install


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"), [("fp32", "0", "0"), ("fp16", "1", "0"), ("int8", "0", "1")]
)
def test_tensorrt_may_use_the_types_of_the_precision_and_no_tf32(
    double: Callable[..., CudaScenario], tmp_path: Path, precision: str, fp16: str, int8: str
) -> None:
    # The double computes on this CPU, int8 kernels included: so must the reference.
    expected = OnnxRuntimeRunner(write_contract(tmp_path, precision), threads=1).infer(IMAGES)
    scenario = double()
    cache = tmp_path / "engines"
    runner = OnnxRuntimeRunner(
        write_contract(tmp_path, precision), "cuda", tensorrt=TensorRTProvider(precision, cache)
    )
    assert (runner.infer(IMAGES) == expected).mean() > 0.99
    settings = scenario.settings
    assert (settings["trt_fp16_enable"], settings["trt_int8_enable"]) == (fp16, int8)
    assert settings["trt_engine_cache_path"] == str(cache) and cache.is_dir()
    assert os.environ[TF32_OVERRIDE] == "0"
    assert runner.info.notes[0] == TENSORRT
    assert runner.info.arithmetic == ("int8 kernels of TensorRT" if precision == "int8" else "")
    assert not runner.fuses_int8  # there is no exact arithmetic to score beside it


@pytest.mark.parametrize("product", OF_TENSORRT)
def test_one_graph_serves_all_staged_inputs(
    double: Callable[..., CudaScenario], tmp_path: Path, product: str
) -> None:
    """These providers capture one graph per session: an input is copied to where it reads."""
    path = write_contract(tmp_path)
    reference = OnnxRuntimeRunner(path, threads=1)
    scenario = double()
    provider = TensorRTProvider("fp32", tmp_path / "engines", product)
    runner = OnnxRuntimeRunner(path, "cuda", tensorrt=provider)
    graph = {"tensorrt": "trt_cuda_graph_enable", "tensorrt_rtx": "enable_cuda_graph"}[product]
    assert scenario.settings[graph] == "1"
    tf32 = (TF32_NOTE,) if product == "tensorrt_rtx" else ()
    assert runner.info.notes == (OF_TENSORRT[product], "CUDA graph", *tf32)
    batches = [np.roll(IMAGES, shift, axis=2) for shift in (0, 7, 13)]
    runner.stage(batches)
    assert scenario.memory is not None
    for index in (2, 0, 1, 0):
        runner.launch(index)
        runner.synchronize()
        mask = scenario.memory.device[runner._staged[index].slot.results[0]]
        assert np.array_equal(mask, reference.infer(batches[index]).reshape(-1))
    assert np.array_equal(runner.infer(batches[1]), reference.infer(batches[1]))
    assert runner.gpu_seconds(2) == 1.0
    runner.close()
    assert scenario.memory.opened == 0
    with pytest.raises(InputError, match="whose calls choose, on .*expected one of a fixed batch"):
        OnnxRuntimeRunner(write_dynamic(tmp_path), "cuda", tensorrt=provider)


def test_the_gpu_that_was_chosen(double: Callable[..., CudaScenario], tmp_path: Path) -> None:
    scenario = double(gpus=3)
    path, cache = write_contract(tmp_path), tmp_path / "cache"
    for tensorrt in (None, TensorRTProvider("fp32", cache)):
        runner = OnnxRuntimeRunner(path, "cuda:2", tensorrt=tensorrt)
        assert scenario.memory is not None
        assert (scenario.settings["device_id"], scenario.memory.index) == ("2", 2)
        runner.close()
    # The plug-in lists its devices in an order of its own: the PCI address tells them apart.
    of_rtx = TensorRTProvider("fp32", cache, "tensorrt_rtx")
    OnnxRuntimeRunner(path, "cuda:2", tensorrt=of_rtx).close()
    assert scenario.rtx_device == "0000:67:00.0"
    assert "device_id" not in scenario.settings
    with pytest.raises(BackendUnavailable, match=r"does not serve this GPU; expected compute cap"):
        OnnxRuntimeRunner(path, "cuda:3", tensorrt=of_rtx)
    scenario.tells_address = False
    with pytest.raises(BackendUnavailable, match="which of its 3 devices .*CUDA_VISIBLE_DEVICES"):
        OnnxRuntimeRunner(path, "cuda:2", tensorrt=of_rtx)
    scenario = double(tells_address=False)
    OnnxRuntimeRunner(path, "cuda", tensorrt=of_rtx).close()
    assert scenario.rtx_device == "the only one"


def test_without_the_plug_in(
    double: Callable[..., CudaScenario], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double()
    monkeypatch.setitem(sys.modules, RTX_PLUGIN, None)
    provider = TensorRTProvider("fp32", tmp_path, "tensorrt_rtx")
    with pytest.raises(BackendUnavailable, match="is not installed; pip install onnxruntime-ep"):
        OnnxRuntimeRunner(write_contract(tmp_path), "cuda", tensorrt=provider)


def test_nodes_that_tensorrt_leaves_to_others_are_an_error(
    double: Callable[..., CudaScenario], tmp_path: Path
) -> None:
    double(on_cpu=("ArgMax",))
    provider, path = TensorRTProvider("fp32", tmp_path / "engines"), write_contract(tmp_path)
    with pytest.raises(BackendUnavailable, match=rf"\(ArgMax\).*expected all on {TENSORRT}"):
        OnnxRuntimeRunner(path, "cuda", tensorrt=provider)
    runner = OnnxRuntimeRunner(path, "cuda", tensorrt=provider, allow_cpu_nodes=True)
    assert any("nodes on the CPU" in note for note in runner.info.notes)


def test_tensorrt_where_it_cannot_be(
    double: Callable[..., CudaScenario], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fp16 = write_contract(tmp_path), TensorRTProvider("fp16", tmp_path / "engines")
    with pytest.raises(InputError, match="TensorRT on the CPU, or with cuda_graph"):
        OnnxRuntimeRunner(path, tensorrt=fp16)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match=f"built without {TENSORRT}"):
        OnnxRuntimeRunner(path, "cuda", tensorrt=fp16)
    double()
    with pytest.raises(InputError, match="fp16 of TensorRT for .*expected fp32"):
        OnnxRuntimeRunner(path, "cuda", tensorrt=fp16)


def test_layer_times_are_those_of_the_nodes_that_run(tmp_path: Path, temp_folder: Path) -> None:
    runner = OnnxRuntimeRunner(write_contract(tmp_path), threads=1)
    assert isinstance(runner, HasLayerTimes)
    layers = runner.layer_times(IMAGES, 3)
    by_name = {layer.name: layer for layer in layers}
    assert by_name["labels"].kind == "ArgMax"
    assert {"Conv", "ArgMax"} <= {layer.kind for layer in layers}
    assert len(by_name) == len(layers)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert [layer.seconds for layer in layers] == sorted((x.seconds for x in layers), reverse=True)
    assert 0 < sum(layer.seconds for layer in layers) < 10
    assert not list(temp_folder.iterdir())
    kernels = OnnxRuntimeRunner(write_int8(tmp_path, fuses=True), threads=1).layer_times(IMAGES, 1)
    assert "QLinearConv" in {layer.kind for layer in kernels}  # what was fused counts as one


def test_launches_on_a_gpu_are_no_layer_times(
    double: Callable[..., CudaScenario], tmp_path: Path
) -> None:
    double()
    runner = OnnxRuntimeRunner(write_contract(tmp_path), "cuda")
    with pytest.raises(BackendUnavailable, match="times launches and not kernels on CUDA"):
        runner.layer_times(IMAGES, 1)
