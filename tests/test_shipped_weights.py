"""The weights under weights/ load, are what their card says, and make sense of a street."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from dabnet.checkpoint import load_checkpoint
from dabnet.data.toy_street import ToyStreet
from dabnet.models.image_to_mask import ImageToMask

WEIGHTS = Path(__file__).parents[1] / "weights"


def test_camvid_weights_are_those_of_the_card() -> None:
    file = WEIGHTS / "dabnet_camvid.pth"
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    checkpoint = load_checkpoint(file)
    assert (checkpoint.dataset, checkpoint.epoch) == ("camvid", 70)
    assert f"**{100 * checkpoint.metrics['val_miou']:.2f} %**" in card
    assert f"accuracy {100 * checkpoint.metrics['val_pixel_accuracy']:.2f} %" in card
    assert checkpoint.recipe["input_size"] == [240, 320]


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
