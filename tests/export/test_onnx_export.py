"""The ONNX artifact of a checkpoint, read back from the file that was written."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dabnet.checkpoint import load_checkpoint, save_checkpoint
from dabnet.data.registry import label_set
from dabnet.errors import InputError
from dabnet.given import Given
from dabnet.metrics import confusion, mean_iou
from dabnet.runtime.manifest import Manifest
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx, manifest_of
from export.spec import ExportSpec
from tests.support.exported_artifacts import (
    FP32,
    evenly_spaced,
    expected_masks,
    layers_in_network,
    masks_of,
    producers,
)
from tests.support.seeded_checkpoint import (
    PREPROCESSING,
    SIZE,
    no_bar,
    noise,
    seeded_network,
    write_checkpoint,
)


@pytest.mark.parametrize(
    ("name", "batch", "mask"), [("fp32", 1, "UINT8"), ("batch", 2, "INT32"), ("int8", 1, "UINT8")]
)
def test_one_valid_file_with_the_contract_of_tensors(
    artifacts: dict[str, tuple[Path, Manifest]], name: str, batch: int, mask: str
) -> None:
    path, manifest = artifacts[name]
    assert list(path.parent.iterdir()) == [path]  # no file of weights beside it
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    tensors = {}
    for item in (*model.graph.input, *model.graph.output):
        shape = tuple(side.dim_value for side in item.type.tensor_type.shape.dim)
        tensors[item.name] = (
            onnx.TensorProto.DataType.Name(item.type.tensor_type.elem_type),
            shape,
        )
    assert tensors == {"image": ("UINT8", (batch, *SIZE, 3)), "mask": (mask, (batch, *SIZE))}
    assert (manifest.input.name, manifest.input.dtype, manifest.input.shape) == (
        "image",
        "uint8",
        (batch, *SIZE, 3),
    )
    assert (manifest.output.name, manifest.output.dtype, manifest.output.shape) == (
        "mask",
        mask.lower(),
        (batch, *SIZE),
    )


def test_batch_norm_behind_a_convolution_is_folded(
    artifacts: dict[str, tuple[Path, Manifest]],
) -> None:
    model = onnx.load(artifacts["fp32"][0])
    by_output = producers(model)
    kinds = [node.op_type for node in model.graph.node]
    behind = [
        by_output[node.input[0]].op_type
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
    ]
    assert "Conv" not in behind
    # What remains stands behind a Concat, an Add or a residual sum; most are gone.
    assert 0 < len(behind) < layers_in_network(torch.nn.BatchNorm2d) / 2
    assert kinds.count("Conv") == layers_in_network(torch.nn.Conv2d)  # none was split or lost


@pytest.mark.parametrize("name", ["fp32", "int8", "batch"])
def test_the_manifest_inside_is_the_one_returned(
    artifacts: dict[str, tuple[Path, Manifest]], name: str
) -> None:
    path, manifest = artifacts[name]
    inside = manifest_of(load_onnx(path), str(path))
    assert inside == manifest
    assert Manifest.from_json(inside.to_json(), "test") == manifest


def test_the_manifest_is_complete(
    checkpoint: Path, artifacts: dict[str, tuple[Path, Manifest]]
) -> None:
    manifest = artifacts["fp32"][1]
    labels = label_set("toy-street")
    assert manifest.checkpoint_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (manifest.model, manifest.dataset, manifest.precision) == (
        "dabnet",
        "toy-street",
        "fp32",
    )
    assert (manifest.classes, manifest.palette) == (labels.classes, labels.palette)
    assert (manifest.ignore, manifest.preprocessing) == (labels.ignore, PREPROCESSING)
    assert manifest.trained_on == ("toy-street train",)
    assert (manifest.opset, manifest.channel_order, manifest.size) == (17, "RGB", SIZE)
    assert manifest.libraries["onnx"] == onnx.__version__
    assert manifest.libraries["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert manifest.tool_version
    assert (manifest.engine, manifest.calibration) == (None, None)


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_the_agreement_is_the_one_recomputed_by_hand(
    artifacts: dict[str, tuple[Path, Manifest]], name: str
) -> None:
    path, manifest = artifacts[name]
    agreement = manifest.agreement
    assert agreement is not None
    count = int(agreement.images.split()[0])
    assert count == {"fp32": 8, "int8": 4}[name]
    assert agreement.images == f"{count} images of toy-street val"
    scenes = evenly_spaced("val", count)
    pairs = [(expected_masks(s.image[None]), masks_of(path, s.image[None])) for s in scenes]
    shares = [float((expected == found).mean()) for expected, found in pairs]
    matrices = sum(
        np.stack([confusion(mask[0], scene.label, 11) for mask in masks])
        for scene, masks in zip(scenes, pairs, strict=True)
    )
    scores = agreement.checkpoint_miou, agreement.artifact_miou
    assert scores == pytest.approx(mean_iou(matrices), abs=5e-4)
    assert agreement.mean == pytest.approx(np.mean(shares), abs=5e-4)
    assert agreement.worst == pytest.approx(min(shares), abs=5e-4)
    if name == "int8":  # or the check above would hold for a constant
        assert agreement.worst < agreement.mean < 0.999
        assert scores[0] != scores[1]


def test_a_check_on_images_that_trained_the_network_says_so(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path)
    save_checkpoint(replace(load_checkpoint(path), trained_on=("toy-street trainval",)), path)
    manifest = export_onnx(
        path, tmp_path / "m.onnx", replace(FP32, check_images=1), progress=no_bar
    )
    assert manifest.agreement is not None
    told = "1 images of toy-street val, seen in training (toy-street trainval)"
    assert manifest.agreement.images == told


@pytest.mark.parametrize("name", ["fp32", "batch"])
def test_masks_equal_the_networks(artifacts: dict[str, tuple[Path, Manifest]], name: str) -> None:
    path, manifest = artifacts[name]
    images = noise(manifest.input.shape, seed=11)
    masks, expected = masks_of(path, images), expected_masks(images)
    assert masks.dtype == manifest.output.dtype
    assert (masks == expected).mean() >= 0.999
    assert len(np.unique(expected)) >= 8  # an image that tells the classes apart
    if len(images) > 1:
        assert (expected[0] != expected[1]).mean() > 0.1


def test_a_public_checkpoint_gets_the_constants_of_its_dataset(tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in seeded_network(19).state_dict().items()}
    path = tmp_path / "public.pth"
    torch.save({"epoch": 7, "model": state}, path)
    output = tmp_path / "m.onnx"
    spec = ExportSpec(SIZE, check_images=1)
    manifest = export_onnx(path, output, spec, given=Given("cityscapes"), progress=no_bar)
    assert (manifest.dataset, len(manifest.classes), manifest.ignore) == ("cityscapes", 19, 255)
    assert manifest.preprocessing.mean_rgb == (73.158325, 82.90902, 72.3924)
    assert manifest.agreement is not None
    assert manifest.agreement.images == "1 images of toy-street val"  # no folder was given
    images = noise((1, *SIZE, 3), seed=5)
    centred = images.astype(np.float32) - np.array((73.158325, 82.90902, 72.3924), np.float32)
    with torch.inference_mode():
        logits = seeded_network(19)(torch.from_numpy(centred.transpose(0, 3, 1, 2).copy()))
    assert (masks_of(output, images) == logits.argmax(1).numpy()).mean() >= 0.999


def test_a_public_checkpoint_needs_a_fitting_dataset(tmp_path: Path) -> None:
    path = tmp_path / "public.pth"
    torch.save(seeded_network().state_dict(), path)
    with pytest.raises(InputError, match="add --dataset camvid"):
        export_onnx(path, tmp_path / "m.onnx", FP32, progress=no_bar)
    with pytest.raises(InputError, match="predicts 11 classes; expected 19"):
        export_onnx(path, tmp_path / "m.onnx", FP32, given=Given("cityscapes"), progress=no_bar)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [(60, 96), (64, 4), (0, 0)])
def test_an_impossible_size_names_a_possible_one(
    checkpoint: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    with pytest.raises(InputError, match="multiples of 8; the nearest is") as caught:
        export_onnx(checkpoint, tmp_path / "m.onnx", ExportSpec(size), progress=no_bar)
    height, width = (int(side) for side in str(caught.value).rsplit(" ", 1)[1].split("x"))
    assert height % 8 == width % 8 == 0
    assert height > 0 and width > 0
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_is_the_one_that_was_seeded(checkpoint: Path) -> None:
    """The reference of these tests and the file are the same network."""
    saved = load_checkpoint(checkpoint).network().state_dict()
    for name, value in seeded_network().state_dict().items():
        assert torch.equal(saved[name], value), name
