"""Options of ``dabnet-bench run`` that would have no effect beside others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.support.processes import DABNET_BENCH, run_python
from tests.support.seeded_checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    state = torch.load(write_checkpoint(folder), weights_only=True)["model"]
    torch.save({"epoch": 1, "model": state}, folder / "public.pth")
    (folder / "frames").mkdir()
    Image.new("RGB", (96, 64)).save(folder / "frames" / "0.png")
    return folder


UNUSED = {
    "a split": (
        ["seeded.pth", "--images", "frames", "--split", "val"],
        "--split for --images; expected a data set; leave one of them out",
    ),
    "a folder of drawn scenes": (
        ["seeded.pth", "--images", "frames", "--data-dir", "frames"],
        "--data-dir frames with --images and a checkpoint of toy-street; expected no folder",
    ),
}


@pytest.mark.parametrize("case", UNUSED)
def test_what_images_replace_is_refused(workplace: Path, case: str) -> None:
    words, expected = UNUSED[case]
    before = sorted(workplace.rglob("*"))
    result = run_python(DABNET_BENCH, *words, "--size", "64x96", folder=workplace)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and expected in line
    assert sorted(workplace.rglob("*")) == before


def test_training_images_beside_a_folder_are_of_use(workplace: Path) -> None:
    """They calibrate INT8: what is wrong is found after the options."""
    words = ["public.pth", "--dataset", "camvid", "--images", "none", "--data-dir", "frames"]
    result = run_python(DABNET_BENCH, *words, "--size", "64x96", folder=workplace)
    assert "no directory at 'none'" in result.stderr
