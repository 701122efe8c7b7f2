"""The head ``mask+confidence``: exported, run, compared with the network's own probabilities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor

from dabnet.artifact import open_artifact
from dabnet.errors import BuildError
from dabnet.head import confidence_of
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import DYNAMIC, ConfidenceDifference, Manifest
from dabnet.runtime.runner import Prediction
from export.cli.main import export_group
from export.engine.engine import build_engine
from export.engine.spec import BuildSpec
from export.onnx_export import export_onnx
from export.spec import ExportSpec
from tests.support import ROOT
from tests.support.contract_graph import write_contract
from tests.support.engine_builds import install, scenario_of
from tests.support.exported_artifacts import evenly_spaced
from tests.support.seeded_checkpoint import PREPROCESSING, SIZE, no_bar, noise, seeded_network

HEAD = "mask+confidence"


def exported(checkpoint: Path, folder: Path, **changes: Any) -> tuple[Path, Manifest]:
    """The masks of drawn weights are close calls, which the rounding of int8 turns."""
    spec = ExportSpec(SIZE, head=HEAD, check_images=1, minimum_agreement=0.5, **changes)
    path = folder / "model.onnx"
    return path, export_onnx(checkpoint, path, spec, progress=no_bar)


def expected(images: NDArray[np.uint8]) -> Prediction:
    """From the network alone: mean, argmax and softmax in numpy."""
    centred = images.astype(np.float32) - np.array(PREPROCESSING.mean_rgb, np.float32)
    with torch.inference_mode():
        logits = seeded_network()(torch.from_numpy(centred.transpose(0, 3, 1, 2).copy())).numpy()
    return Prediction(logits.argmax(axis=1).astype(np.uint8), confidence_of(logits))


def apart(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.abs(a.astype(np.int64) - b)


@pytest.mark.parametrize(
    ("target", "step", "changes"),
    [
        ("portable", "scale_image", {"mask_dtype": "int32", "batch": 2}),
        ("ort-cpu", "argmax_by_cell", {"dynamic_batch": True, "dynamic_size": True}),
        ("tensorrt-rtx", "argmax_by_class", {"dynamic_batch": True}),
    ],
)
def test_fp32_is_within_two_of_255_everywhere(
    checkpoint: Path, tmp_path: Path, target: str, step: str, changes: dict[str, Any]
) -> None:
    path, manifest = exported(checkpoint, tmp_path, optimize_for=target, **changes)
    assert step in {applied.name for applied in manifest.passes}
    assert manifest.head == HEAD and manifest.confidence is not None
    kind = changes.get("mask_dtype", "uint8")
    assert (manifest.confidence.name, manifest.confidence.dtype) == ("confidence", kind)
    assert manifest.confidence.shape == manifest.output.shape
    assert manifest.agreement is not None and manifest.agreement.confidence is not None
    assert manifest.agreement.confidence.largest <= 2
    runner, sides = open_artifact(path, threads=1), manifest.input.sides
    for batch, *size in ((2, *SIZE), (1, *SIZE), (3, 40, 56)):
        if all(own in (DYNAMIC, side) for own, side in zip(sides, (batch, *size), strict=True)):
            images = noise((batch, *size, 3), batch)
            found, wanted = runner.infer_with_confidence(images), expected(images)
            assert (found.mask == wanted.mask).mean() > 0.999
            assert apart(found.confidence, wanted.confidence).max() <= 2
            assert np.ptp(found.confidence) > 50


@pytest.mark.parametrize(
    ("precision", "target", "share"), [("int8", "portable", 0.0), ("fp16", "tensorrt", 0.99)]
)
def test_the_difference_of_other_precisions_is_recorded(
    checkpoint: Path, tmp_path: Path, precision: str, target: str, share: float
) -> None:
    path, manifest = exported(
        checkpoint, tmp_path, precision=precision, optimize_for=target, calibration_images=2
    )
    assert manifest.agreement is not None and manifest.agreement.confidence is not None
    recorded = manifest.agreement.confidence
    assert share <= recorded.within_2 < 1 or recorded.largest <= 2
    if precision == "int8":  # of the one image of the check, in the file's own arithmetic
        runner = open_artifact(path, threads=1, exact_qdq=True)
        (scene,) = evenly_spaced("val", 1)
        found, wanted = runner.infer_with_confidence(scene.image[None]), expected(scene.image[None])
        pixels = np.bincount(apart(found.confidence, wanted.confidence).ravel())
        assert recorded.largest > 2 and recorded == ConfidenceDifference.of(pixels.tolist())


class Overconfident(ImageToMask):
    def _confidence(self, logits: Tensor) -> Tensor:
        return super()._confidence(1.05 * logits)


def test_another_confidence_than_pytorchs_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.onnx_export.ImageToMask", Overconfident)
    with pytest.raises(BuildError, match=r"differs from PyTorch's by up to \d+ of 255.*at most 2"):
        exported(checkpoint, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_commands_say_it_and_the_example_of_the_page_runs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, size = tmp_path / "street.onnx", "{}x{}".format(*SIZE)
    words = ["onnx", str(checkpoint), "-o", str(path), "--size", size, "--head", HEAD]
    said = CliRunner().invoke(export_group, words).output
    assert "  confidence differs by up to " in said and "; by up to 2 on 100.000 %\n" in said
    said = CliRunner().invoke(export_group, ["inspect", str(path)]).output
    assert "confidence" in said and "agreement.confidence.largest" in said
    words = ["verify", str(checkpoint), str(path), "--limit", "2"]
    said = CliRunner().invoke(export_group, words).output
    assert "confidence differs by up to " in said and " of 255" in said
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import numpy[^`]*UNKNOWN[^`]*)```", page)
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = {"images": noise((1, *SIZE, 3), 5)}
    exec(re.sub(r"images = .*\n", "", example), values)
    found = expected(values["images"])
    on_road = np.isin(found.mask, (3, 4))  # road and pavement of toy street
    unknown = found.confidence < 0.6 * 255
    wanted = np.where(unknown, 255, np.where(on_road, 0, 254))
    assert values["cost"].dtype == np.uint8 and unknown.any() and not unknown.all()
    assert (values["cost"] == wanted).mean() > 0.999


@pytest.mark.parametrize(("version", "kind"), [("8.6.1", "int32"), ("10.16.1", "uint8")])
def test_an_engine_keeps_both_outputs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, kind: str
) -> None:
    install(monkeypatch, version, scenario_of("fp32"))
    source = write_contract(tmp_path, mask=kind, confidence=True)
    manifest = build_engine(source, tmp_path / "model.engine", BuildSpec("fp32"))
    assert [(tensor.name, tensor.dtype) for tensor in manifest.outputs] == [
        ("mask", kind),
        ("confidence", kind),
    ]
    if version == "8.6.1":
        other = write_contract(tmp_path, confidence=True)
        with pytest.raises(BuildError, match="cannot emit uint8; expected an int32 mask"):
            build_engine(other, tmp_path / "other.engine", BuildSpec("fp32"))
