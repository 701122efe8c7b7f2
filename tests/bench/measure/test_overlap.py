"""Scores on images that calibrated: found by pixels, refused, or marked. Real files, real runs."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bench.measure.overlap import calibrated_on, overlapping, refuse
from bench.record import UNKNOWN
from dabnet.checkpoint import load_checkpoint, save_checkpoint
from dabnet.data.camvid import CamVid
from dabnet.data.image_files import image_sha256
from dabnet.data.images import SizedImages
from dabnet.data.registry import label_set
from dabnet.data.toy_street.dataset import write_camvid_tree
from dabnet.errors import InputError
from dabnet.runtime.manifest import CalibrationInfo
from tests.support.fake_dataset import FakeDataset
from tests.support.processes import DABNET_BENCH, run_python, write_known_peaks
from tests.support.seeded_checkpoint import SIZE, write_checkpoint


def calibration(*hashes: str, method: str = "mse") -> CalibrationInfo:
    return CalibrationInfo(method, "camvid", "train", len(hashes), hashes)


def test_an_overlap_is_one_of_pixels() -> None:
    dataset = FakeDataset([(8, 8), (8, 12), (10, 8), (8, 8)])
    hashes = [image_sha256(item.image) for item in dataset.items]
    seen = {
        "none": ("0" * 64,),
        "two": (hashes[1], "0" * 64, hashes[0]),
        "last": (hashes[3],),
        "unknown": (),
    }
    steps: list[None] = []
    found = overlapping(seen, SizedImages.first(dataset, (8, 8), 3), lambda: steps.append(None))
    # Of three images scored, the fourth is none; the hash is of the native size, not the scored.
    assert found == {"none": (), "two": ("image 0", "image 1"), "last": (), "unknown": ()}
    assert len(steps) == 3 and sorted(dataset.read) == [0, 1, 2]
    assert overlapping(seen, SizedImages.first(dataset, (8, 8)))["last"] == ("image 3",)


def test_a_refusal_names_the_row_how_many_and_one() -> None:
    images = SizedImages.first(FakeDataset([(8, 8)] * 9), (8, 8))
    refuse({"a": (), "b": ()}, images)
    with pytest.raises(InputError) as caught:
        refuse({"a": (), "b": ("x", "y")}, images)
    assert str(caught.value) == (
        "b was calibrated on 2 of the 9 images of fake val that would be scored, such as 'x'; "
        "expected images that it has not seen; "
        "calibrate on the training split alone, or mark the row with --allow-overlap"
    )


def test_what_it_was_calibrated_on_in_words() -> None:
    def words(precision: str, calibration: CalibrationInfo | None) -> str:
        manifest: Any = SimpleNamespace(precision=precision, calibration=calibration)
        return calibrated_on(manifest)

    assert words("fp32", None) == words("fp16", None) == ""
    assert words("int8", calibration("0" * 64)) == "1 images of camvid train"
    assert words("int8", calibration(method="trained")) == ""
    cache = CalibrationInfo("tensorrt-entropy", "camvid", "unknown", 0)
    assert words("int8", cache) == words("int8", None) == UNKNOWN


def dabnet_bench(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = (
        *("seeded.pth", "--data-dir", "data", "--size", "64x96"),
        *("--backend", "pytorch-fp32", "--backend", "onnxruntime-int8", "--device", "cpu"),
        *("--rounds", "2", "--min-time", "0.1", "--threads", "1", "--calibration-images"),
    )
    return run_python(DABNET_BENCH, *words, "4", *more, folder=folder)


@pytest.fixture(scope="module")
def overlapping_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CamVid]:
    """Two of the images to score are training images: one listed twice, one a copy as BMP."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("overlap")
    drawn = load_checkpoint(write_checkpoint(folder, decisive=True))
    ours = replace(drawn, dataset="camvid", labels=label_set("camvid"))
    save_checkpoint(ours, folder / "seeded.pth")
    data = write_camvid_tree(folder / "data", SIZE, {"train": 4, "val": 3})
    train = CamVid(data, "train")
    Image.fromarray(train[2].image).save(data / "val" / "copy.bmp")
    with (data / "camvid_val_list.txt").open("a", encoding="utf-8") as stream:
        lines = (data / "camvid_train_list.txt").read_text(encoding="utf-8").splitlines()
        stream.write(f"{lines[1]}\nval/copy.bmp {lines[2].split()[1]}\n")
    write_known_peaks(folder / ".dabnet-cache")
    return folder, train


def accuracies(folder: Path, output: str) -> list[dict[str, Any]]:
    record = json.loads((folder / output / "bench.json").read_text(encoding="utf-8"))
    return [row["accuracy"] for row in record["rows"]]


@pytest.mark.slow
def test_bench_refuses_an_overlap(overlapping_folder: tuple[Path, CamVid]) -> None:
    folder, train = overlapping_folder
    refused = dabnet_bench(folder, "--output", "refused")
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = (line for line in refused.stderr.splitlines() if line.startswith("error: "))
    assert "onnxruntime-int8 was calibrated on 2 of the 5 images of camvid val" in line
    assert repr(train[1].name) in line and "--allow-overlap" in line
    assert not (folder / "refused/bench.json").exists()


@pytest.mark.slow
def test_bench_marks_an_overlap_on_request(overlapping_folder: tuple[Path, CamVid]) -> None:
    """The copy is the fifth image, which is not scored here: it is no overlap."""
    folder, train = overlapping_folder
    words = ("--output", "marked", "--allow-overlap", "--max-images", "4")
    marked = dabnet_bench(folder, *words)
    assert marked.returncode == 0, marked.stderr
    reference, int8 = accuracies(folder, "marked")
    assert reference["overlap"] == [] and int8["overlap"] == [train[1].name]
    assert (reference["calibrated_on"], int8["calibrated_on"]) == ("", "4 images of camvid train")
    table = (folder / "marked/bench.md").read_text(encoding="utf-8")
    rows: dict[str, list[str]] = {}
    for cells in (line.split("|") for line in table.splitlines() if "|" in line):
        rows.setdefault(cells[1].strip(), cells)  # of the first table
    assert rows["onnxruntime-int8"][2].strip() == f"{100 * int8['score']['miou']['value']:.2f} †"
    assert "†" not in rows["pytorch-fp32"][2]
    note = "† onnxruntime-int8: calibrated on 1 of the 4 images that it is scored on"
    assert note in table and note in " ".join(marked.stdout.split())
