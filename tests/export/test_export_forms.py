"""Any batch, any size, raw tensors, FP16: forms of the artifact other than the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from dabnet.artifact import open_artifact
from dabnet.data.registry import open_dataset
from dabnet.errors import InputError
from dabnet.runtime.manifest import DYNAMIC, Manifest
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx, manifest_of
from export.spec import ExportSpec
from tests.support import ROOT
from tests.support.exported_artifacts import expected_masks
from tests.support.protobuf_graphs import stepwise
from tests.support.seeded_checkpoint import PREPROCESSING, SIZE, no_bar, noise

WEIGHTS = ROOT / "weights" / "dabnet_toy_street.pth"


def exported(checkpoint: Path, folder: Path, **spec: Any) -> tuple[Path, Manifest]:
    path = folder / "m.onnx"
    spec = {"size": SIZE, "check_images": 1, **spec}
    manifest = export_onnx(checkpoint, path, ExportSpec(**spec), progress=no_bar)
    assert manifest_of(load_onnx(path), "m.onnx") == manifest
    return path, manifest


@pytest.mark.parametrize("target", ["portable", "ort-cpu", "tensorrt"])
def test_each_call_chooses_batch_and_size(checkpoint: Path, tmp_path: Path, target: str) -> None:
    path, manifest = exported(
        checkpoint, tmp_path, dynamic_batch=True, dynamic_size=True, optimize_for=target
    )
    assert manifest.input.shape == (DYNAMIC, DYNAMIC, DYNAMIC, 3)
    assert manifest.output.shape == (DYNAMIC,) * 3 and manifest.is_dynamic
    assert (manifest.example, manifest.size) == ((1, *SIZE), SIZE)
    runner = open_artifact(path)
    for batch, height, width in ((1, *SIZE), (3, 32, 40), (2, 104, 56), (1, 8, 8)):
        images = noise((batch, height, width, 3), seed=batch)
        masks = runner.infer(images)
        assert masks.shape == (batch, height, width) and masks.dtype == np.uint8
        assert (masks == expected_masks(images)).mean() >= 0.999
    with pytest.raises(InputError, match="any multiple of 8"):
        runner.infer(noise((1, 32, 40, 3), 0)[:, :30])


def test_only_the_batch_may_be_free(checkpoint: Path, tmp_path: Path) -> None:
    """The size is known, so that Winograd's rows are."""
    path, manifest = exported(
        checkpoint, tmp_path, batch=2, dynamic_batch=True, optimize_for="ort-cpu"
    )
    assert manifest.input.shape == (DYNAMIC, *SIZE, 3)
    assert manifest.example == (2, *SIZE)
    assert "winograd" in {applied.name for applied in manifest.passes}
    dims = onnx.load(path).graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", *SIZE]
    images = noise((5, *SIZE, 3), seed=1)
    assert (open_artifact(path).infer(images) == expected_masks(images)).mean() >= 0.999


@pytest.mark.parametrize("head", ["mask", "logits"])
def test_raw_tensors(checkpoint: Path, tmp_path: Path, head: str) -> None:
    path, manifest = exported(checkpoint, tmp_path, input="float", head=head)
    images = noise((1, *SIZE, 3), seed=4)
    centred = images.astype(np.float32) - np.array(PREPROCESSING.mean_rgb, np.float32)
    session = ort.InferenceSession(path)
    (result,) = session.run(None, {"image": centred.transpose(0, 3, 1, 2)})
    if head == "logits":
        assert (manifest.output.dtype, result.shape) == ("float32", (1, 11, *SIZE))
        result = result.argmax(1)
    assert (manifest.input.dtype, manifest.input.shape) == ("float32", (1, 3, *SIZE))
    assert (result == expected_masks(images)).mean() >= 0.999


def test_the_logits_are_named(checkpoint: Path, tmp_path: Path) -> None:
    """So that ``verify`` can compare them: float (N, K, H/8, W/8), also after the passes."""
    path, manifest = exported(checkpoint, tmp_path, optimize_for="ort-cpu")
    model = onnx.load(path)
    model.graph.output.append(onnx.ValueInfoProto(name=manifest.logits))
    session = ort.InferenceSession(model.SerializeToString())
    logits = session.run([manifest.logits], {"image": noise((1, *SIZE, 3), 0)})[0]
    assert logits.shape == (1, 11, SIZE[0] // 8, SIZE[1] // 8) and logits.dtype == np.float32


def test_fp16_keeps_the_contract_and_the_mask(tmp_path: Path) -> None:
    size = (128, 256)
    path, manifest = exported(WEIGHTS, tmp_path, size=size, precision="fp16", check_images=2)
    assert (manifest.precision, manifest.input.dtype, manifest.output.dtype) == (
        "fp16",
        "uint8",
        "uint8",
    )
    assert manifest.agreement is not None and 0.999 <= manifest.agreement.mean < 1
    (halved,) = manifest.passes
    assert halved.name == "float16" and halved.note.startswith(f"{halved.changed} nodes in FP16")
    model = onnx.load(path)
    weights = [i for i in model.graph.initializer if len(i.dims) == 4]
    assert {i.data_type for i in weights} == {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}
    assert path.stat().st_size < 2e6  # half of the FP32 file's 3.1 MB
    image = open_dataset("toy-street", "val", size=size)[3].image[None]
    names = [name for node in model.graph.node for name in node.output]
    values = stepwise(model, {"image": image}, names).values()
    assert all(np.isfinite(value).all() for value in values)
