"""Running engines: against doubles of every version, and for real where there is a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dabnet.errors import ArtifactError, BackendUnavailable, InputError, MissingPackage
from dabnet.runtime.cuda import gpu_unavailable_reason
from dabnet.runtime.manifest import EngineInfo, engine_manifest_path
from dabnet.runtime.trt.runner import TensorRTRunner
from tests.support.contract_graph import HEIGHT, WIDTH, contract_manifest, write_contract
from tests.support.engine_files import (
    INFO,
    SHAPE,
    images,
    info_of,
    install,
    scenario_for,
    write_engine,
)
from tests.support.tensorrt_double import VERSIONS, FakeDeviceMemory, inspector_json


@pytest.mark.parametrize("version", VERSIONS)
def test_runs_on_each_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    mask = "int32" if version == "8.6.1" else "uint8"
    memory = FakeDeviceMemory()
    install(monkeypatch, version, scenario_for(memory, mask))
    output = contract_manifest(mask=mask).output
    runner = TensorRTRunner(write_engine(tmp_path, info_of(version), output=output), memory=memory)
    assert runner.info.backend == "tensorrt"
    assert runner.info.version == version.replace("rtx-", "RTX ")
    assert runner.info.device == "NVIDIA Double 3090"
    assert (runner.info.precision, runner.info.shape) == ("fp32", SHAPE)
    assert runner.info.notes == ("layers: 4 Float",)
    first = runner.infer(images(1))
    second = runner.infer(images(2))
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, images(1)[..., 0] % 5)  # not overwritten by the second
    np.testing.assert_array_equal(second, images(2)[..., 0] % 5)
    runner.close()
    runner.close()
    assert memory.opened == 0


def test_staged_inputs_stay_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = FakeDeviceMemory()
    install(monkeypatch, "10.16.1", scenario_for(memory))
    runner = TensorRTRunner(write_engine(tmp_path, INFO), memory=memory)
    batches = [images(seed) for seed in range(3)]
    runner.stage(batches)
    mask_address = next(a for a, held in memory.device.items() if held.nbytes == HEIGHT * WIDTH)
    for index in (2, 0, 1):
        runner.launch(index)
        runner.synchronize()
        mask = memory.device[mask_address].reshape(SHAPE[:3])
        np.testing.assert_array_equal(mask, batches[index][..., 0] % 5)
    held = len(memory.device)
    runner.stage(batches[:2])
    assert len(memory.device) == held  # the buffers are used again
    np.testing.assert_array_equal(runner.infer(images(9)), images(9)[..., 0] % 5)
    with pytest.raises(InputError, match="no images to stage"):
        runner.stage([])
    runner.close()
    assert memory.opened == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_as_the_profiler_reports_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    memory = FakeDeviceMemory()
    layers = (("layer 0", 1.0), ("layer 0", 2.0), ("argmax", 9.0))  # a name may come twice a run
    mask = "int32" if version == "8.6.1" else "uint8"
    scenario = scenario_for(memory, mask, layers=layers, inspector=inspector_json("FP32"))
    install(monkeypatch, version, scenario)
    output = contract_manifest(mask=mask).output
    runner = TensorRTRunner(write_engine(tmp_path, info_of(version), output=output), memory=memory)
    first, second = runner.layer_times(images(1), 5)
    assert (first.name, first.kind, second.name, second.kind) == (
        *("argmax", ""),
        *("layer 0", "CaskConvolution"),
    )
    assert (first.seconds, second.seconds) == pytest.approx((9e-3, 3e-3))
    assert (first.share, second.share) == pytest.approx((0.75, 0.25))
    np.testing.assert_array_equal(runner.infer(images(2)), images(2)[..., 0] % 5)
    scenario.layers = ()
    with pytest.raises(BackendUnavailable, match="reported no layers"):
        runner.layer_times(images(1), 1)
    runner.close()
    assert memory.opened == 0


def test_images_of_another_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = FakeDeviceMemory()
    install(monkeypatch, "10.16.1", scenario_for(memory))
    runner = TensorRTRunner(write_engine(tmp_path, INFO), memory=memory)
    with pytest.raises(InputError, match="expected uint8 of shape"):
        runner.infer(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="float32"):
        runner.stage([np.zeros(SHAPE, np.float32)])  # type: ignore[list-item]
    runner.close()


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (replace(INFO, version="10.0.1"), "built by tensorrt 10.0.1; expected 10.16.1"),
        (
            replace(INFO, compute_capability="8.9", gpu="RTX 4090"),
            r"built for compute capability 8.9 \(RTX 4090\); expected 8.6 \(NVIDIA Double 3090\)",
        ),
        (replace(INFO, layers_by_type={"Half": 4}), "not fp32: no layer computes in Float"),
    ],
)
def test_an_engine_for_another_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, info: EngineInfo, message: str
) -> None:
    memory = FakeDeviceMemory()
    install(monkeypatch, "10.16.1", scenario_for(memory))
    path = write_engine(tmp_path, info)
    rebuild = f"rebuild it with: dabnet-export trt MODEL.onnx --output {path}"
    with pytest.raises(ArtifactError, match=message) as caught:
        TensorRTRunner(path, memory=memory)
    assert str(caught.value).endswith(rebuild)
    assert not (memory.device or memory.host or memory.streams)


def test_version_compatible_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compatible = replace(INFO, version="10.0.1", compatibility=("version",))
    path = write_engine(tmp_path, compatible)
    for version in ("10.0.1", "10.16.1", "11.4.0"):
        double = scenario_for(memory := FakeDeviceMemory())
        install(monkeypatch, version, double)
        TensorRTRunner(path, memory=memory).close()
        assert double.called("engine_host_code_allowed") == [True]
    install(monkeypatch, "8.6.1", scenario_for(memory))
    with pytest.raises(ArtifactError, match=r"by tensorrt 10.0.1; expected 8.6.1, .*or an earlier"):
        TensorRTRunner(path, memory=memory)
    install(monkeypatch, "10.16.1", double := scenario_for(memory := FakeDeviceMemory()))
    TensorRTRunner(write_engine(tmp_path, INFO), memory=memory).close()
    assert not double.called("engine_host_code_allowed")  # only where the engine needs it


@pytest.mark.parametrize(
    ("kind", "card", "message"),
    [
        ("hardware", (8, 9), ""),
        ("hardware", (6, 1), r"8\.0 and later; expected 6\.1 \(NVIDIA Double"),
        ("same-compute-capability", (8, 6), ""),
        ("same-compute-capability", (8, 9), "compute capability 8.6"),
    ],
)
def test_hardware_compatible_engines(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    card: tuple[int, int],
    message: str,
) -> None:
    memory = FakeDeviceMemory(compute_capability=card)
    install(monkeypatch, "10.16.1", scenario_for(memory))
    path = write_engine(tmp_path, replace(INFO, compatibility=(kind,)))
    if message:
        with pytest.raises(ArtifactError, match=message):
            TensorRTRunner(path, memory=memory)
    else:
        TensorRTRunner(path, memory=memory).close()
    assert memory.opened == 0


def test_another_product_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = FakeDeviceMemory()
    install(monkeypatch, "10.16.1", scenario_for(memory))
    info = replace(INFO, product="tensorrt_rtx", version="1.7.1")
    path = write_engine(tmp_path, info)
    with pytest.raises(MissingPackage, match=r"'tensorrt_rtx' is not installed.*\[rtx\]"):
        TensorRTRunner(path, memory=memory)
    install(monkeypatch, "rtx-1.7.1", scenario_for(memory))
    with pytest.raises(MissingPackage, match=r"'tensorrt' is not installed.*\[gpu\]"):
        TensorRTRunner(write_engine(tmp_path, INFO), memory=memory)
    path = write_engine(tmp_path, replace(info, version="1.0.0"))
    with pytest.raises(ArtifactError, match=r"dabnet-export trt .* --product tensorrt-rtx$"):
        TensorRTRunner(path, memory=memory)


def test_rtx_is_asked_whether_the_engine_is_valid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = replace(info_of("rtx-1.7.1"), target="sm86", gpu="", compute_capability="", driver="")
    path = write_engine(tmp_path, info)
    bad = ("INVALID", ("UNSUPPORTED_CC", "OLD_CUDA_DRIVER"))
    memory = FakeDeviceMemory(compute_capability=(9, 0))
    install(monkeypatch, "rtx-1.7.1", scenario_for(memory, validity=bad))
    with pytest.raises(ArtifactError, match="machine: OLD_CUDA_DRIVER, UNSUPPORTED_CC;.*rebuild"):
        TensorRTRunner(path, memory=memory)
    assert memory.opened == 0
    slow = ("SUBOPTIMAL", ("UNSUPPORTED_CC",))
    memory = FakeDeviceMemory(compute_capability=(8, 9))
    install(monkeypatch, "rtx-1.7.1", scenario_for(memory, validity=slow))
    runner = TensorRTRunner(path, memory=memory)
    assert runner.info.notes[0] == "suboptimal on this GPU: UNSUPPORTED_CC"
    runner.close()


def test_the_inspector_is_believed_before_the_manifest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory = FakeDeviceMemory()
    install(monkeypatch, "10.0.1", scenario_for(memory, inspector=inspector_json("FP16")))
    path = write_engine(tmp_path, info_of("10.0.1"))
    with pytest.raises(ArtifactError, match="not fp32: no layer computes in Float"):
        TensorRTRunner(path, memory=memory)


def test_an_engine_that_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = FakeDeviceMemory()
    install(monkeypatch, "10.16.1", scenario_for(memory, loads=False))
    with pytest.raises(ArtifactError, match="refused: Serialization assertion.*rebuild it with"):
        TensorRTRunner(write_engine(tmp_path, INFO), memory=memory)
    assert memory.opened == 0


def test_other_tensors_than_the_manifest_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory = FakeDeviceMemory()
    install(monkeypatch, "10.16.1", scenario_for(memory, mask="int32"))
    with pytest.raises(ArtifactError, match="has the tensors .*mask int32.*rebuild"):
        TensorRTRunner(write_engine(tmp_path, INFO), memory=memory)
    output = replace(contract_manifest().output, dtype="float32")
    with pytest.raises(ArtifactError, match=r"mask float32 \[1, 32, 64\]; expected"):
        TensorRTRunner(write_engine(tmp_path, INFO, output=output), memory=memory)


def test_manifests_that_are_missing_or_of_an_onnx_file(tmp_path: Path) -> None:
    path = write_engine(tmp_path, None)
    with pytest.raises(ArtifactError, match="describes no engine.*dabnet-export trt"):
        TensorRTRunner(path)
    engine_manifest_path(path).unlink()
    with pytest.raises(ArtifactError, match=r"no manifest at .*model.engine.json.*export trt"):
        TensorRTRunner(path)
    with pytest.raises(InputError, match="no file at"):
        TensorRTRunner(tmp_path / "none.engine")


def test_real_engine_without_a_gpu_says_so(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    if gpu_unavailable_reason() is None:
        pytest.skip("there is a GPU")
    from export.engine.engine import build_engine
    from export.engine.spec import BuildSpec

    build_engine(write_contract(tmp_path), tmp_path / "m.engine", BuildSpec("fp32", "sm86"))
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA GPU|no NVIDIA driver|\[rtx\]"):
        TensorRTRunner(tmp_path / "m.engine")


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("product", ["tensorrt", "tensorrt_rtx"])
def test_results_agree_with_onnxruntime(tmp_path: Path, product: str, precision: str) -> None:
    if reason := gpu_unavailable_reason():
        pytest.skip(reason)
    module = pytest.importorskip(product)
    onnxruntime = pytest.importorskip("onnxruntime")
    from dabnet.runtime.cuda import open_device_memory
    from export.engine.engine import build_engine
    from export.engine.spec import BuildSpec

    old = hasattr(module.ICudaEngine, "num_bindings")
    if open_device_memory().compute_capability == (6, 1) and precision == "fp16":
        pytest.skip("FP16 is refused on this GPU")
    mask = "int32" if old else "uint8"
    source = write_contract(tmp_path, precision, mask, confidence=True)
    output = tmp_path / "model.engine"
    manifest = build_engine(source, output, BuildSpec(precision, product=product))
    assert manifest.engine is not None
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # no saturating kernels
    session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    runner = TensorRTRunner(output)
    try:
        for seed in range(4):
            wanted, probable = session.run(["mask", "confidence"], {"image": images(seed)})
            found = runner.infer_with_confidence(images(seed))
            apart = np.abs(found.confidence.astype(int) - probable).mean()
            assert apart <= (1 if precision == "fp32" else 20), apart
            agreement = np.mean(found.mask == wanted)
            # On noise many logits are nearly equal; FP16 and INT8 round them differently.
            assert agreement >= (0.999 if precision == "fp32" else 0.97), agreement
        runner.stage([images(0), images(1)])
        for index in (0, 1, 0):
            runner.launch(index)
        runner.synchronize()
        assert runner.info.precision == precision
        assert manifest.engine.gpu == runner.info.device
    finally:
        runner.close()
