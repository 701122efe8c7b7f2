"""ONNX Runtime behind the runner protocol, on real files."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from dabnet.errors import ArtifactError, BackendUnavailable, InputError, MissingPackage
from dabnet.head import confidence_of
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import ONNX_KEY, Manifest, TensorInfo
from dabnet.runtime.ort import gpu as onnxruntime_gpu
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from export.onnx_export import export_onnx
from export.spec import ExportSpec
from tests.support.contract_graph import (
    HEIGHT,
    WIDTH,
    add_manifest,
    contract_manifest,
    contract_model,
    write_contract,
)
from tests.support.contract_variants import write_raw
from tests.support.device_double import FakeDeviceMemory
from tests.support.processes import run_python
from tests.support.seeded_checkpoint import (
    PREPROCESSING,
    SIZE,
    no_bar,
    noise,
    seeded_network,
    write_checkpoint,
)

ort = pytest.importorskip("onnxruntime")

BATCH = (2, *SIZE, 3)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded DABNet for two images a call, with an int32 mask inside."""
    folder = tmp_path_factory.mktemp("artifact")
    spec = ExportSpec(SIZE, batch=2, mask_dtype="int32", check_images=1)
    export_onnx(write_checkpoint(folder), folder / "m.onnx", spec, progress=no_bar)
    return folder / "m.onnx"


@pytest.fixture(scope="module")
def reference() -> Callable[[Any], Any]:
    module = ImageToMask(seeded_network(), PREPROCESSING).eval()

    def masks(images: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return masks


def staged_output(runner: OnnxRuntimeRunner, index: int) -> Any:
    """The mask that the last ``launch(index)`` left on the device: the protocol never copies it."""
    return runner._staged[index].slot.results[0]


def test_infer_gives_the_networks_masks(artifact: Path, reference: Callable[[Any], Any]) -> None:
    runner = OnnxRuntimeRunner(artifact, threads=1)
    first, second = noise(BATCH, 1), noise(BATCH, 2)
    kept = runner.infer(first)
    other = runner.infer(second)
    for masks, images in ((kept, first), (other, second)):  # the first is not overwritten
        assert (masks.dtype, masks.shape) == (np.uint8, (2, *SIZE))
        assert (masks == reference(images)).mean() >= 0.999
    mirrored = first[:, :, ::-1]  # a view that is not contiguous
    assert (runner.infer(mirrored) == reference(mirrored.copy())).mean() >= 0.999
    runner.close()


@pytest.mark.parametrize("mask", ["uint8", "int32"])
def test_a_confidence_is_the_probability_of_the_mask(tmp_path: Path, mask: str) -> None:
    """By its definition from the logits of the same graph, whose float input says the same."""
    path = write_contract(tmp_path, mask=mask, confidence=True)
    images = np.random.default_rng(1).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    runner = OnnxRuntimeRunner(path, threads=1)
    found = runner.infer_with_confidence(images)
    planes = images.transpose(0, 3, 1, 2).astype(np.float32)
    logits = OnnxRuntimeRunner(write_raw(tmp_path), threads=1).infer(planes)
    expected = confidence_of(logits)
    assert found.mask.dtype == found.confidence.dtype == np.uint8
    assert np.abs(found.confidence.astype(int) - expected).max() <= 1
    assert (
        np.array_equal(found.mask, runner.infer(images))
        and runner.info.head == runner.manifest.head
    )
    kept = found.confidence.copy()
    runner.infer_with_confidence(images[:, ::-1])
    assert np.array_equal(found.confidence, kept)  # the caller's own


def test_an_artifact_without_a_confidence_says_how_to_get_one(artifact: Path) -> None:
    runner = OnnxRuntimeRunner(artifact, threads=1)
    assert runner.info.head == "mask"
    with pytest.raises(InputError, match=r"no confidence; .*export it with: --head mask\+conf"):
        runner.infer_with_confidence(noise(BATCH, 1))


def test_info_says_what_runs(artifact: Path) -> None:
    info = OnnxRuntimeRunner(artifact, threads=1).info
    assert (info.backend, info.version) == ("onnxruntime", ort.__version__)
    assert (info.precision, info.shape) == ("fp32", BATCH)
    assert info.device.startswith("cpu (1 threads")
    assert info.notes == ("CPUExecutionProvider",)


def test_launch_runs_the_staged_input_of_its_index(
    artifact: Path, reference: Callable[[Any], Any]
) -> None:
    runner = OnnxRuntimeRunner(artifact, threads=1)
    batches = [noise(BATCH, seed) for seed in (3, 4, 5)]
    expected = [reference(batch) for batch in batches]
    assert (expected[0] != expected[1]).mean() > 0.1
    runner.stage(batches)
    for index in (2, 0, 1, 1):
        runner.launch(index)
        runner.synchronize()
        assert (staged_output(runner, index) == expected[index]).mean() >= 0.999
    runner.stage(batches[1:])  # in place of those before
    runner.launch(0)
    runner.synchronize()
    assert (staged_output(runner, 0) == expected[1]).mean() >= 0.999
    with pytest.raises(IndexError):
        runner.launch(2)


def test_staged_inputs_belong_to_the_runner(
    artifact: Path, reference: Callable[[Any], Any]
) -> None:
    """A caller may reuse or drop its array: on the CPU an OrtValue is only a view of it."""
    runner = OnnxRuntimeRunner(artifact, threads=1)
    batch = noise(BATCH, 6)
    expected = reference(batch)
    runner.stage([batch, noise(BATCH, 6)[:, :, ::-1]])  # one is kept, one is not even contiguous
    batch[:] = 0
    gc.collect()
    rubbish = [np.full(BATCH, 255, np.uint8) for _ in range(8)]
    runner.launch(0)
    runner.launch(1)
    runner.synchronize()
    assert (staged_output(runner, 0) == expected).mean() >= 0.999
    mirrored = reference(noise(BATCH, 6)[:, :, ::-1].copy())
    assert (staged_output(runner, 1) == mirrored).mean() >= 0.999
    assert len(rubbish) == 8


@pytest.mark.parametrize(
    "images",
    [
        np.zeros(BATCH, np.float32),
        np.zeros((1, *SIZE, 3), np.uint8),
        np.zeros((2, 3, *SIZE), np.uint8),
        np.zeros((2, SIZE[1], SIZE[0], 3), np.uint8),
    ],
    ids=["dtype", "batch", "layout", "size"],
)
def test_other_images_are_refused(artifact: Path, images: Any) -> None:
    runner = OnnxRuntimeRunner(artifact, threads=1)
    for use in (runner.infer, lambda batch: runner.stage([batch])):
        with pytest.raises(InputError, match=r"uint8 of shape \(2, 64, 96, 3\)"):
            use(images)


# --- providers --------------------------------------------------------------------------------


def without_cuda() -> bool:
    return "CUDAExecutionProvider" not in ort.get_available_providers()


@pytest.mark.skipif(not without_cuda(), reason="this onnxruntime has CUDA")
def test_cuda_without_its_provider_is_an_error(artifact: Path) -> None:
    with pytest.raises(BackendUnavailable, match="without CUDAExecutionProvider.*pip install"):
        OnnxRuntimeRunner(artifact, device="cuda")


@pytest.mark.skipif(not without_cuda(), reason="this onnxruntime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_fall_back_to_the_cpu_is_an_error(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build with CUDA on a machine without a driver: onnxruntime really falls back here."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime_gpu, "open_device_memory", FakeDeviceMemory)
    with pytest.raises(BackendUnavailable, match="would have run on the CPU"):
        OnnxRuntimeRunner(artifact, device="cuda")


def test_a_missing_package_names_its_extra(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackage, match=r"'onnxruntime'.*pip install '\.\[cpu\]'"):
        OnnxRuntimeRunner(artifact)


# --- files ------------------------------------------------------------------------------------


def with_manifest_text(folder: Path, text: str | None) -> Path:
    model = contract_model()
    if text is not None:
        helper.set_model_props(model, {ONNX_KEY: text})
    path = folder / "changed.onnx"
    onnx.save(model, str(path))
    return path


def test_a_file_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="carries no manifest.*dabnet-export onnx"):
        OnnxRuntimeRunner(with_manifest_text(tmp_path, None))


def of_size(manifest: Manifest, batch: int, width: int) -> Manifest:
    image = TensorInfo("image", "uint8", (batch, HEIGHT, width, 3))
    mask = TensorInfo("mask", "uint8", (batch, HEIGHT, width))
    return replace(manifest, input=image, output=mask, example=(batch, HEIGHT, width))


CONTRADICTIONS: dict[str, Callable[[Manifest], Manifest]] = {
    "size": lambda m: of_size(m, 1, WIDTH + 8),
    "batch": lambda m: of_size(m, 2, WIDTH),
    "name": lambda m: replace(m, input=TensorInfo("picture", "uint8", m.input.shape)),
    "input type": lambda m: replace(m, input=TensorInfo("image", "float32", (1, 3, HEIGHT, WIDTH))),
    "mask type": lambda m: replace(m, output=TensorInfo("mask", "int32", m.output.shape)),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_manifest_that_contradicts_its_graph(tmp_path: Path, case: str) -> None:
    manifest = CONTRADICTIONS[case](contract_manifest())
    path = tmp_path / "changed.onnx"
    onnx.save(add_manifest(contract_model(), manifest), path)
    with pytest.raises(ArtifactError, match="as its manifest says.*export it again"):
        OnnxRuntimeRunner(path)


def test_a_graph_with_a_second_output(tmp_path: Path) -> None:
    model = contract_model()
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    model.graph.output.append(logits)
    add_manifest(model, contract_manifest())
    path = tmp_path / "two.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ArtifactError, match="mask uint8 .*, logits float32 .*; expected image"):
        OnnxRuntimeRunner(path)


def test_a_damaged_manifest_and_a_damaged_file(tmp_path: Path) -> None:
    text = contract_manifest().to_json()
    with pytest.raises(ArtifactError, match="holds no valid manifest"):
        OnnxRuntimeRunner(with_manifest_text(tmp_path, text[: len(text) // 2]))
    whole = write_contract(tmp_path)
    part = tmp_path / "part.onnx"
    part.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(ArtifactError, match="cannot be read as ONNX") as caught:
        OnnxRuntimeRunner(part)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no file at"):
        OnnxRuntimeRunner(tmp_path / "nowhere.onnx")


def test_an_engine_room_without_torch(artifact: Path, tmp_path: Path) -> None:
    """What ships needs numpy and onnxruntime: torch and onnx cannot be imported in this process."""
    images, masks = tmp_path / "images.npy", tmp_path / "masks.npy"
    np.save(images, noise(BATCH, 9))
    program = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "click", "PIL"):
            raise ImportError(name + " is not there")

sys.meta_path.insert(0, Blocker())
import numpy
from dabnet.runtime.ort import gpu as onnxruntime_gpu
from dabnet.runtime.ort.runner import OnnxRuntimeRunner

runner = OnnxRuntimeRunner(sys.argv[1], threads=1)
numpy.save(sys.argv[3], runner.infer(numpy.load(sys.argv[2])))
try:
    import torch
except ImportError as error:
    print(error)
"""
    done = run_python(program, artifact, images, masks)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch is not there"
    expected = OnnxRuntimeRunner(artifact, threads=1).infer(np.load(images))
    assert np.array_equal(np.load(masks), expected)
