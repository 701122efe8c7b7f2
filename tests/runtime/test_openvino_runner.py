"""OpenVINO behind the runner protocol, on real files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dabnet.errors import ArtifactError, BackendUnavailable, InputError, MissingPackage
from dabnet.precision import PRECISIONS
from dabnet.runtime.manifest import TensorInfo
from dabnet.runtime.ort.arithmetic import products_saturate
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import HasLayerTimes
from tests.support.contract_graph import (
    HEIGHT,
    WIDTH,
    add_manifest,
    contract_manifest,
    contract_model,
    write_contract,
)
from tests.support.contract_variants import write_dynamic, write_raw
from tests.support.int8_graph import write_int8

openvino = pytest.importorskip("openvino")
onnxruntime = pytest.importorskip("onnxruntime")

from dabnet.runtime.openvino_runner import OpenVinoRunner  # noqa: E402
from tests.support.openvino_double import Processor, make_double  # noqa: E402
from tests.support.processes import run_python  # noqa: E402

SHAPE = (1, HEIGHT, WIDTH, 3)


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


def test_a_confidence_beside_the_mask(tmp_path: Path) -> None:
    path = write_contract(tmp_path, confidence=True)
    runner, reference = OpenVinoRunner(path, "fp32", 1), OnnxRuntimeRunner(path, threads=1)
    found, expected = (r.infer_with_confidence(images(1)) for r in (runner, reference))
    assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 1
    assert (found.mask == expected.mask).mean() > 0.999
    assert np.array_equal(found.mask, runner.infer(images(1)))
    assert found.confidence.dtype == np.uint8 and runner.info.head == "mask+confidence"


def test_info_is_what_was_compiled(tmp_path: Path) -> None:
    info = OpenVinoRunner(write_contract(tmp_path), "fp32", 1).info
    assert (info.backend, info.precision, info.shape) == ("openvino", "fp32", SHAPE)
    assert openvino.__version__.startswith(info.version)
    assert info.device.startswith("cpu (1 threads")
    assert info.notes == ("convolutions: 4 f32",)
    assert info.arithmetic == ""


def test_int8_runs_in_integers_and_keeps_the_masks_of_its_file(tmp_path: Path) -> None:
    try:
        OpenVinoRunner(write_int8(tmp_path, fuses=False), "int8", 1)
    except BackendUnavailable as error:
        pytest.skip(str(error))  # doubles cover such a processor below
    path = write_int8(tmp_path, fuses=False)
    runner = OpenVinoRunner(path, "int8", 1)
    assert runner.info.arithmetic.startswith("int8 kernels of OpenVINO (Convolution ")
    exact = OnnxRuntimeRunner(path, threads=1, exact_qdq=True)
    same = [(runner.infer(images(i)) == exact.infer(images(i))).mean() for i in range(4)]
    # Where products of bytes saturate at 16 bits (no VNNI), masks may differ in more places.
    assert np.mean(same) > (0.8 if products_saturate(onnxruntime) else 0.97)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_this_processor(tmp_path: Path, precision: str) -> None:
    """Whatever the processor offers: it computes as it was told, or the runner says why not."""
    try:
        info = OpenVinoRunner(write_contract(tmp_path), precision, 1).info
    except BackendUnavailable as error:
        assert "OpenVINO computes in fp32" in str(error) or "convolutions of Open" in str(error)
    else:
        assert info.precision == precision
        assert any(kind in info.notes[0] for kind in PRECISIONS[precision].openvino_types)


# --- on doubles of other processors -----------------------------------------------------------


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Processor]:
    def install(**told: Any) -> Processor:
        processor = Processor(**told)
        monkeypatch.setitem(sys.modules, "openvino", make_double(processor))
        return processor

    return install


@pytest.mark.parametrize(("precision", "kind"), [("fp16", "f16"), ("bf16", "bf16")])
def test_a_processor_with_half_precision(
    on: Callable[..., Processor], tmp_path: Path, precision: str, kind: str
) -> None:
    processor = on(computes=(kind, kind, kind, "f32"))  # some may stay in FP32
    info = OpenVinoRunner(write_contract(tmp_path), precision, 1).info
    assert processor.options[0]["INFERENCE_PRECISION_HINT"] == kind
    assert (info.precision, info.arithmetic) == (precision, "")
    assert info.notes == (f"convolutions: 3 {kind}, 1 f32",)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_processor_without_it(
    on: Callable[..., Processor], tmp_path: Path, precision: str
) -> None:
    processor = on(offered=("FP32",))
    with pytest.raises(BackendUnavailable, match=f"computes in fp32 on .*, not in {precision}"):
        OpenVinoRunner(write_contract(tmp_path), precision, 1)
    assert processor.options == []


@pytest.mark.parametrize(
    ("precision", "computes", "message"),
    [
        ("fp32", ("f32", "bf16"), "are 3 bf16, 1 f32; expected fp32"),
        ("fp16", ("f32",), "are 4 f32; expected fp16"),
        ("bf16", ("f32", "f16"), "are 3 f16, 1 f32; expected bf16"),
        ("int8", ("f32",), "are 4 f32; expected int8"),
    ],
)
def test_other_types_than_asked_for_are_an_error(
    on: Callable[..., Processor],
    tmp_path: Path,
    precision: str,
    computes: tuple[str, ...],
    message: str,
) -> None:
    on(computes=computes)
    path = write_int8(tmp_path, fuses=True) if precision == "int8" else write_contract(tmp_path)
    with pytest.raises(BackendUnavailable, match=f"the convolutions of OpenVINO {message}"):
        OpenVinoRunner(path, precision, 1)


def test_int8_says_how_many_convolutions_are_in_integers(
    on: Callable[..., Processor], tmp_path: Path
) -> None:
    on(computes=("u8", "i8", "f32"))
    info = OpenVinoRunner(write_int8(tmp_path, fuses=True), "int8", 1).info
    assert info.precision == "int8"
    assert info.arithmetic == "int8 kernels of OpenVINO (Convolution 2)"


def test_another_hint_than_asked_for_is_an_error(
    on: Callable[..., Processor], tmp_path: Path
) -> None:
    on(hint="f32", computes=("f16",))
    with pytest.raises(BackendUnavailable, match="for f32 on CPU with 1 threads; expected f16"):
        OpenVinoRunner(write_contract(tmp_path), "fp16", 1)


# --- staging, layers and files ----------------------------------------------------------------


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
    add_manifest(model, declared)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ArtifactError, match="has the tensors .*uint8.*as its manifest says"):
        OpenVinoRunner(tmp_path / "other.onnx", "fp32", 1)


def test_without_openvino_and_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_contract(tmp_path)
    program = (
        "import sys; from dabnet.runtime.openvino_runner import OpenVinoRunner;"
        f"OpenVinoRunner({str(path)!r}, 'fp32', 1);"
        "print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    ran = run_python(program)
    assert (ran.returncode, ran.stdout.strip()) == (0, "set()")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackage, match=r"pip install '\.\[openvino\]'"):
        OpenVinoRunner(path, "fp32", 1)
