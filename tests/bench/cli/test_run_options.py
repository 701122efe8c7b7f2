"""Options of ``dabnet-bench run`` that would have no effect beside others are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from PIL import Image

from bench.cli.main import bench_command
from dabnet.checkpoint import load_checkpoint, save_checkpoint
from dabnet.errors import InputError
from tests.support.contract_graph import HEIGHT, WIDTH, write_contract
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


REFUSED = {
    "no frames": (["--fps", "0"], "0.1<=x<=10000"),
    "no cameras": (["--cameras", "0"], "1<=x<=64"),
    "frames of calls that follow each other": (
        ["--fps", "15"],
        "--fps for the scenario latency; expected the scenario camera; add --scenario camera",
    ),
    "cameras of concurrent calls": (
        ["--scenario", "throughput", "--cameras", "2"],
        "--cameras for the scenario throughput",
    ),
    "several frames per call": (
        ["--scenario", "camera", "--batch", "2"],
        "--batch 2 in the scenario camera; expected one frame per call",
    ),
    "several calls": (
        ["--scenario", "camera", "--streams", "2"],
        "--streams 2 in the scenario camera; expected one call at a time",
    ),
    "a width of nothing": (["--target-width", "0"], "a percentage from 0.1% to 50%"),
    "a width of all": (["--target-width", "100%"], "a percentage from 0.1% to 50%"),
    "a width in another unit": (["--target-width", "2ms"], "'2ms' is not a percentage"),
    "minutes without a width": (["--max-minutes", "5"], "--max-minutes for a number of rounds"),
    "a width of few rounds": (
        ["--target-width", "2 %", "--rounds", "9"],
        "--rounds 9 with --target-width; expected at least 10",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_scenario_or_a_width_does_not_take_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, expected = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, click.UsageError)) as refused:
        bench_command.main(["no.pth", "--size", "64x96", *words], "b", standalone_mode=False)
    error = refused.value
    text = error.format_message() if isinstance(error, click.UsageError) else str(error)
    assert expected in text
    assert not list(tmp_path.iterdir())


def test_a_head_of_files_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They give what they have."""
    monkeypatch.chdir(tmp_path)
    path = write_contract(tmp_path)
    words = [path.name, "--size", f"{HEIGHT}x{WIDTH}", "--head", "mask+confidence"]
    with pytest.raises(InputError, match="--head for files, which have their own"):
        bench_command.main(words, "b", standalone_mode=False)
    assert list(tmp_path.iterdir()) == [path]


def test_a_score_on_images_that_trained_the_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint(tmp_path)
    seen = ("toy-street trainval", "toy-street train")
    save_checkpoint(replace(load_checkpoint(path), trained_on=seen), path)
    message = "seeded.pth' was trained on toy-street trainval, which holds images of the 50 "
    with pytest.raises(InputError, match=message):
        bench_command.main([path.name, "--size", "64x64"], "b", standalone_mode=False)
    assert list(tmp_path.iterdir()) == [path]


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
