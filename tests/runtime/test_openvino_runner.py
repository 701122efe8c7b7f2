"""OpenVINO behind the runner protocol, on real files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from dabnet.errors import ArtifactError, BackendUnavailable, InputError, MissingPackage
from dabnet.runtime.manifest import ONNX_KEY, TensorInfo
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import HasLayerTimes
from tests.support.contract_graph import (
    HEIGHT,
    WIDTH,
    contract_manifest,
    contract_model,
    write_contract,
)
from tests.support.contract_variants import write_dynamic, write_raw
from tests.support.int8_graph import write_int8

openvino = pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

from dabnet.runtime.openvino_runner import OpenVinoRunner  # noqa: E402

SHAPE = (1, HEIGHT, WIDTH, 3)
OFFERED = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def images(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, np.uint8)


@pytest.mark.parametrize("mask", ["uint8", "int32"])
def test_masks_are_those_of_the_file(tmp_path: Path, mask: str) -> None:
    path = write_contract(tmp_path, mask=mask)
    runner, reference = OpenVinoRunner(path, "fp32", 1), OnnxRuntimeRunner(path, threads=1)
    first = runner.infer(images(1))
    kept = first.copy()
    assert (first.dtype, first.shape) == (np.uint8, SHAPE[:3])
    assert (first == reference.infer(images(1))).mean() > 0.999
    assert (runner.infer(images(2)) == reference.infer(images(2))).mean() > 0.999
    assert np.array_equal(first, kept)  # a mask is the caller's own
    flipped = images(1)[:, :, ::-1]
    assert np.array_equal(runner.infer(flipped), runner.infer(flipped.copy()))


def test_info_is_what_was_compiled(tmp_path: Path) -> None:
    info = OpenVinoRunner(write_contract(tmp_path), "fp32", 1).info
    assert (info.backend, info.precision, info.shape) == ("openvino", "fp32", SHAPE)
    assert openvino.__version__.startswith(info.version)
    assert info.device.startswith("cpu (1 threads")
    assert info.notes == ("convolutions: 4 f32",)
    assert info.arithmetic == ""


def test_int8_runs_in_integers_and_keeps_the_masks_of_its_file(tmp_path: Path) -> None:
    if "INT8" not in OFFERED:
        pytest.skip("no INT8 on this processor")
    path = write_int8(tmp_path, fuses=False)
    runner = OpenVinoRunner(path, "int8", 1)
    assert runner.info.arithmetic.startswith("int8 kernels of OpenVINO (Convolution ")
    exact = OnnxRuntimeRunner(path, threads=1, exact_qdq=True)
    same = [(runner.infer(images(i)) == exact.infer(images(i))).mean() for i in range(4)]
    assert np.mean(same) > 0.97


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_where_the_processor_has_it(tmp_path: Path, precision: str) -> None:
    path = write_contract(tmp_path)
    if precision.upper() not in OFFERED:
        with pytest.raises(BackendUnavailable, match=rf"OpenVINO computes in fp32.* {precision}$"):
            OpenVinoRunner(path, precision, 1)
        return
    info = OpenVinoRunner(path, precision, 1).info
    assert info.precision == precision
    assert precision.removesuffix("16") in info.notes[0]


def test_launch_runs_the_staged_input_of_its_index(tmp_path: Path) -> None:
    runner = OpenVinoRunner(write_contract(tmp_path), "fp32", 1)
    batches = [images(seed) for seed in (3, 4, 5)]
    expected = [runner.infer(batch) for batch in batches]
    runner.stage(batches)
    batches[0][:] = 0  # staged inputs belong to the runner
    for index in (2, 0, 1):
        runner.launch(index)
        runner.synchronize()
        found = runner._staged[index][0].get_output_tensor(0).data
        assert np.array_equal(found, expected[index])
    runner.stage(batches[1:2])
    with pytest.raises(IndexError):
        runner.launch(1)
    for use in (runner.infer, lambda batch: runner.stage([batch])):
        with pytest.raises(InputError, match="uint8 of shape"):
            use(np.zeros((1, 8, 8, 3), np.uint8))
    runner.close()


def test_layer_times_name_the_nodes(tmp_path: Path) -> None:
    runner = OpenVinoRunner(write_contract(tmp_path), "fp32", 1)
    assert isinstance(runner, HasLayerTimes)
    layers = runner.layer_times(images(1), 5)
    assert sum(layer.kind.endswith("Convolution") for layer in layers) == 4  # one is a Group
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert 0 < sum(layer.seconds for layer in layers) < 10
    assert [layer.seconds for layer in layers] == sorted((x.seconds for x in layers), reverse=True)


def test_float_planes_in_and_logits_out(tmp_path: Path) -> None:
    path = write_raw(tmp_path)
    planes = images(1).transpose(0, 3, 1, 2).astype(np.float32)
    found = OpenVinoRunner(path, "fp32", 1).infer(planes)
    assert np.allclose(found, OnnxRuntimeRunner(path, threads=1).infer(planes), atol=1e-3)


def test_files_that_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected fp32 of fixed sides"):
        OpenVinoRunner(write_dynamic(tmp_path), "fp32", 1)
    with pytest.raises(ArtifactError, match="is fp32 of shape .*to be run as int8"):
        OpenVinoRunner(write_contract(tmp_path), "int8", 1)
    onnx.save(contract_model("fp32"), tmp_path / "bare.onnx")
    with pytest.raises(ArtifactError, match="carries no manifest"):
        OpenVinoRunner(tmp_path / "bare.onnx", "fp32", 1)
    model = contract_model("fp32")
    declared = replace(contract_manifest(), output=TensorInfo("mask", "int32", SHAPE[:3]))
    helper.set_model_props(model, {ONNX_KEY: declared.to_json()})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ArtifactError, match="has the tensors .*uint8.*as its manifest says"):
        OpenVinoRunner(tmp_path / "other.onnx", "fp32", 1)


def test_other_types_than_asked_for_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dabnet.runtime import openvino_runner

    ran = [("Convolution", "f32"), ("Convolution", "bf16")]
    monkeypatch.setattr(openvino_runner, "executed", lambda compiled: ran)
    with pytest.raises(BackendUnavailable, match="convolutions of OpenVINO are 1 f32, 1 bf16"):
        OpenVinoRunner(write_contract(tmp_path), "fp32", 1)
    monkeypatch.setattr(openvino_runner, "executed", lambda compiled: ran[:1])
    if "INT8" in OFFERED:
        with pytest.raises(BackendUnavailable, match="are 1 f32; expected int8"):
            OpenVinoRunner(write_int8(tmp_path, fuses=True), "int8", 1)


def test_without_openvino_and_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_contract(tmp_path)
    program = (
        "import sys; from dabnet.runtime.openvino_runner import OpenVinoRunner;"
        f"OpenVinoRunner({str(path)!r}, 'fp32', 1);"
        "print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "set()"
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackage, match=r"pip install '\.\[openvino\]'"):
        OpenVinoRunner(path, "fp32", 1)
