"""Three commands take a folder of photos and masks of four classes to a benchmarked artifact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dabnet.artifact import open_artifact
from dabnet.data.camvid import CAMVID
from dabnet.data.toy_street import draw_scene
from tests.support.processes import DABNET_BENCH, DABNET_EXPORT, run_python, write_known_peaks

CLASSES = ("road", "building", "plant", "other")
OF_SCENE = {"road": 0, "building": 1, "tree": 2}


def draw_photos(folder: Path, count: int = 30) -> None:
    """Write photos, masks of class indices with 255 for what has no label, and the class names."""
    of_value = np.full(256, 3, np.uint8)
    for name, index in OF_SCENE.items():
        of_value[CAMVID.classes.index(name)] = index
    of_value[CAMVID.ignore] = 255
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, label = draw_scene((number,), (64, 96))
        Image.fromarray(image).save(folder / "images" / f"{number:02}.jpg")
        Image.fromarray(of_value[label]).save(folder / "masks" / f"{number:02}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")


@pytest.mark.slow
def test_from_photos_to_a_benchmarked_artifact(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos")
    write_known_peaks(tmp_path / ".dabnet-cache")

    def run(program: str, *words: object) -> str:
        done = run_python(program, *words, "--data-dir", "photos", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    short = ("--max-epochs", 2, "--no-tensorboard")
    said = run("from dabnet.cli import main; main()", "--dataset", "folder", *short)
    assert "25 training images, 5 validation images" in said
    checkpoint = "runs/folder/best.pth"

    size = ("--size", "64x96")
    said = run(DABNET_EXPORT, "onnx", checkpoint, *size, "--precision", "int8", "-o", "net.onnx")
    assert "mIoU on 5 images of folder val: checkpoint" in said
    runner = open_artifact(tmp_path / "net.onnx", threads=1)
    assert runner.manifest.classes == CLASSES
    image = np.asarray(Image.open(tmp_path / "photos" / "images" / "00.jpg"))
    mask = runner.infer(image[None])[0]
    assert set(np.unique(mask)) <= set(range(4))

    brief = ("--rounds", 2, "--min-time", 0.05, "--threads", 1, "--pictures", 0)
    run(DABNET_BENCH, checkpoint, "net.onnx", *size, "--backend", "pytorch-fp32", *brief)
    record = json.loads((tmp_path / "runs" / "bench" / "bench.json").read_text("utf-8"))
    assert record["classes"] == list(CLASSES)
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["dabnet/pytorch-fp32", "net/onnxruntime-file"]
    assert [row["reason"] for row in rows.values()] == ["", ""]
    assert all(0 < row["accuracy"]["score"]["miou"]["value"] <= 1 for row in rows.values())
    # Speed has one reference, in the same rounds.
    ratios = [row["timings"][0]["speed_ratio"] for row in rows.values()]
    assert ratios[0] is None and ratios[1]["value"] > 0
