"""Which data path a run takes, and that it may have to take the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import dabnet.training.loop
from dabnet.checkpoint import load_checkpoint
from dabnet.data.batches import choose_data_path
from dabnet.data.toy_street import ToyStreet, write_camvid_tree
from dabnet.errors import InputError
from tests.support.training_runs import command, log_of, run, spec_for

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "before", "device", "free", "chosen"),
    [
        ("auto", None, CPU, 0, "workers"),
        ("auto", None, GPU, 100, "device"),
        ("auto", None, GPU, 2, "workers"),  # it would leave too little to train in
        ("auto", "workers", GPU, 100, "workers"),  # as the run was started
        ("auto", "device", CPU, 0, "device"),
        ("auto", "device", GPU, 2, "workers"),  # on a smaller GPU than before
        ("device", "workers", GPU, 2, "device"),
        ("workers", None, GPU, 100, "workers"),
    ],
)
def test_the_data_path(
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    before: str | None,
    device: torch.device,
    free: int,
    chosen: str,
) -> None:
    dataset = ToyStreet("val", (48, 64), 4)
    size = 4 * 48 * 64 * 4
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free * size, 1000 * size))
    assert choose_data_path(asked, before, dataset, device) == chosen


def test_images_of_several_sizes_go_by_workers_unless_the_device_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_camvid_tree(tmp_path / "data", (48, 64), {"train": 4, "val": 2})
    for folder in ("train", "trainannot"):
        victim = sorted((tree / folder).iterdir())[2]
        with Image.open(victim) as picture:
            picture.crop((0, 0, 56, 48)).save(victim)
    with pytest.raises(InputError, match="is 48x56 and the first image 48x64; .* workers"):
        run(tree, spec_for(tmp_path / "asked", data_path="device"))
    # As on a GPU, whose memory "auto" takes.
    monkeypatch.setattr(dabnet.training.loop, "choose_data_path", lambda *_: "device")
    assert run(tree, spec_for(tmp_path / "auto")).finished
    assert load_checkpoint(tmp_path / "auto" / "last.pth").training["data_path"] == "workers"


def test_a_run_on_the_device_is_that_by_workers_but_for_rounding(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data-dir", tree, "--input-size", "32x32", "--batch-size", 2, "--max-epochs", 1]
    for path in ("device", "workers"):
        given = ["--data-path", path, "--output", tmp_path / path]
        assert command(monkeypatch, *words, *given) == 0
    losses = [float(log_of(tmp_path / path)[0]["loss"]) for path in ("device", "workers")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
