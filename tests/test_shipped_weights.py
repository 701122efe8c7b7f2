"""The weights under weights/ load, are what their card says, and make sense of a street."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dabnet.checkpoint import load_checkpoint
from dabnet.data.toy_street import ToyStreet
from dabnet.metrics import confusion, mean_iou
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from tests.support import ROOT
from tests.support.processes import DABNET_EXPORT, run_python

WEIGHTS = ROOT / "weights"


@pytest.mark.parametrize(
    ("name", "epochs", "size"), [("camvid", 90, [240, 320]), ("toy-street", 40, [192, 384])]
)
def test_weights_are_those_of_the_card(name: str, epochs: int, size: list[int]) -> None:
    file = WEIGHTS / f"dabnet_{name.replace('-', '_')}.pth"
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8").split(f"## {file.name}")[1]
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    checkpoint = load_checkpoint(file)
    assert (checkpoint.dataset, checkpoint.epoch) == (name, epochs)
    assert f"**{100 * checkpoint.metrics['val_miou']:.2f} %**" in card
    assert f"accuracy {100 * checkpoint.metrics['val_pixel_accuracy']:.2f} %" in card
    assert checkpoint.recipe["input_size"] == size
    with (WEIGHTS / f"{file.stem}_log.csv").open(newline="") as stream:
        scores = [float(row["val_miou"]) for row in csv.DictReader(stream) if row["val_miou"]]
    assert max(scores) == checkpoint.metrics["val_miou"]


def test_weights_of_train_and_val_claim_no_accuracy() -> None:
    file = WEIGHTS / "dabnet_camvid_trainval.pth"
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8").split(f"## {file.name}")[1]
    card = card.partition("\n## ")[0]
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    checkpoint = load_checkpoint(file)
    assert (checkpoint.trained_on, checkpoint.epoch) == (("camvid trainval",), 90)
    assert f"{100 * checkpoint.metrics['val_miou']:.2f}" not in card and " %" not in card
    with (WEIGHTS / f"{file.stem}_log.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 90


def test_every_page_with_the_score_on_val_says_that_val_flatters() -> None:
    score = load_checkpoint(WEIGHTS / "dabnet_camvid.pth").metrics["val_miou"]
    pages = [ROOT / "README.md", WEIGHTS / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    stating = {page for page, text in texts.items() if f"{100 * score:.2f}" in text}
    assert WEIGHTS / "README.md" in stating and len(stating) > 1
    assert not [page for page in stating if "flatters" not in texts[page]]


@pytest.mark.slow
def test_toy_street_weights_keep_their_score_and_survive_int8(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(WEIGHTS / "dabnet_toy_street.pth")
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing)
    artifact = tmp_path / "int8.onnx"
    words = ["onnx", WEIGHTS / "dabnet_toy_street.pth", "--size", "256x512", "--precision", "int8"]
    words += ["--calibration-images", "16", "-o", artifact]
    done = run_python(DABNET_EXPORT, *words)
    assert done.returncode == 0, done.stderr
    int8 = OnnxRuntimeRunner(artifact)
    scenes = ToyStreet("val", (256, 512), length=12)
    counts = np.zeros((2, 11, 11), np.int64)
    agrees = []
    for index in range(len(scenes)):
        image, truth = scenes[index].image, scenes[index].label
        with torch.inference_mode():
            seen = module(torch.tensor(image[None]))[0].numpy()
        quantised = int8.infer(image[None])[0]
        counts += [confusion(mask, truth, 11) for mask in (seen, quantised)]
        agrees.append(float((seen == quantised).mean()))
    whole, rounded = (float(mean_iou(matrix)) for matrix in counts)
    # At half of the size that they were trained at, where 75.31 % were measured.
    assert whole > 0.65
    assert rounded > whole - 0.01
    assert np.mean(agrees) > 0.98


def test_camvid_weights_find_the_road_in_drawn_streets() -> None:
    """They never saw a drawn scene, yet know a road: random or garbled weights do not."""
    checkpoint = load_checkpoint(WEIGHTS / "dabnet_camvid.pth")
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing)
    scenes = ToyStreet("val", (360, 480), length=8)
    road = checkpoint.labels.classes.index("road")
    seen_and_there = seen_or_there = 0
    for index in range(len(scenes)):
        with torch.inference_mode():
            seen = module(torch.from_numpy(scenes[index].image.copy())[None])[0].numpy() == road
        there = scenes[index].label == road
        seen_and_there += int((seen & there).sum())
        seen_or_there += int((seen | there).sum())
    assert seen_and_there > 0.5 * seen_or_there
