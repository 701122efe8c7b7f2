"""Calibration files from the command line, and the INT8 artifacts and caches made of them."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from calibration.calibration_file import graph_sha256, load_calibration
from dabnet.data.image_files import image_sha256
from export.engine.caches import CalibrationCache
from export.onnx_file import load_onnx, manifest_of
from tests.support.exported_artifacts import evenly_spaced
from tests.support.forked_commands import run_commands
from tests.support.seeded_checkpoint import SIZE, noise, write_checkpoint

SMALL = ["--size", f"{SIZE[0]}x{SIZE[1]}"]
INT8 = ["--precision", "int8", "--min-agreement", "0.5", *SMALL]
ORT_CPU = ["--optimize-for", "ort-cpu"]

Results = dict[str, subprocess.CompletedProcess[str]]

COMMANDS = {
    "collect": ["calibration", "m.pth", "-o", "c.json", "--count", "3", *SMALL],
    "again": ["calibration", "m.pth", "-o", "again.json", "--count", "3", *SMALL],
    "folder": [
        *["calibration", "m.pth", "-o", "f.json", "--images", "pictures"],
        *["--skip-unreadable", "1", *SMALL],
    ],
    "one folder": ["calibration", "m.pth", "-o", "1.json", "--images", "one", *SMALL],
    "other folder": ["calibration", "m.pth", "-o", "2.json", "--images", "two/one", *SMALL],
    "merge": ["calibration", "1.json", "2.json", "-o", "merged.json"],
    "fp32 for tensorrt": ["onnx", "m.pth", "-o", "t.onnx", *SMALL],
    "cache": [
        *["calibration", "c.json", "-o", "t.cache", "--tensorrt", "8.6.1"],
        *["--calibration-method", "minmax"],
    ],
    "cache at once": [
        *["calibration", "m.pth", "-o", "at-once.cache", "--count", "3", *SMALL],
        *["--tensorrt", "10.0.1", "--calibration-method", "minmax", "--calibrator", "minmax"],
    ],
    "from the file": ["onnx", "m.pth", "-o", "file.onnx", "--calibration", "c.json", *INT8],
    "calibrated": ["onnx", "m.pth", "-o", "now.onnx", "--calibration-images", "3", *INT8],
    "entropy": [
        *["onnx", "m.pth", "-o", "entropy.onnx", "--calibration", "c.json", *INT8],
        *["--calibration-method", "entropy", "--placement", "all", "--rest", "fp16"],
    ],
    "refined": [
        *["onnx", "m.pth", "-o", "refined.onnx", "--calibration-images", "3", *INT8],
        "--fit-weights",
    ],
    "within a budget": [
        *["onnx", "m.pth", "-o", "budget.onnx", "--calibration", "c.json", *INT8],
        *["--max-disagreement", "3", "--budget-images", "2", "--card", "gtx-1080-ti"],
        *["--placement", "dense-only"],
    ],
}

BAD = {
    "another network": (
        ["onnx", "other.pth", "-o", "x", "--calibration", "c.json", *INT8],
        "a calibration of another network .*expected one of this export",
    ),
    "another size": (
        ["onnx", "m.pth", "-o", "x", "--calibration", "c.json", *INT8[:-1], "32x64"],
        r"another graph \(portable, 64x96, graph .*this export is portable, 32x64",
    ),
    "another target": (
        ["onnx", "m.pth", "-o", "x", "--calibration", "c.json", *INT8, *ORT_CPU],
        r"another graph \(portable, 64x96, .*this export is ort-cpu",
    ),
    "no file": (["onnx", "m.pth", "-o", "x", "--calibration", "no.json", *INT8], "no file at"),
    "no calibration": (
        ["onnx", "m.pth", "-o", "x", "--calibration", "pictures/1.png", *INT8],
        "pictures/1.png' holds no valid calibration: not JSON",
    ),
    "unreadable": (
        ["calibration", "m.pth", "-o", "x", "--images", "pictures", *SMALL],
        "broken.png' cannot be read as an image",
    ),
    "floats": (
        ["calibration", "m.pth", "-o", "x", "--images", "deep", *SMALL],
        "deep/1.tif' has mode F; expected 8 or 16 bits per channel",
    ),
    "too many unreadable": (
        [
            *["calibration", "m.pth", "-o", "x", "--images", "broken"],
            *["--skip-unreadable", "1", *SMALL],
        ],
        "more than 1 images cannot be read, the last because .*2.png'",
    ),
    "no images": (
        ["calibration", "m.pth", "-o", "x", "--images", "empty", *SMALL],
        "no image in 'empty'",
    ),
    "merged twice": (
        ["calibration", "c.json", "again.json", "-o", "x"],
        "3 images are in both calibrations",
    ),
    "merged with a checkpoint": (
        ["calibration", "c.json", "m.pth", "-o", "x"],
        "m.pth' holds no valid calibration: not JSON",
    ),
    "merged with an option": (
        ["calibration", "c.json", "f.json", "-o", "x", "--count", "3", "--batch", "2"],
        "--batch, --count for calibration files; expected a checkpoint",
    ),
    "merged into itself": (
        ["calibration", "c.json", "-o", "c.json"],
        "the output 'c.json' is the input itself",
    ),
    "images and data": (
        ["calibration", "m.pth", "-o", "x", "--images", "pictures", "--data-dir", ".", *SMALL],
        "--images and --data-dir",
    ),
    "another size to collect": (
        ["calibration", "m.pth", "-o", "x", "--size", "60x96"],
        "multiples of 8; the nearest is",
    ),
    "cache of another target": (
        ["calibration", "m.pth", "-o", "x.cache", "--tensorrt", "8.6.1", *SMALL, *ORT_CPU],
        "graph for ort-cpu; expected one collected with --optimize-for portable",
    ),
    "no images to collect on": (
        ["calibration", "m.pth", "-o", "x", "--count", "0", *SMALL],
        "Invalid value for '--count': 0",
    ),
    "cache by another method": (
        [
            *["calibration", "c.json", "-o", "x.cache", "--tensorrt", "8.6.1"],
            *["--calibration-method", "best"],
        ],
        "unknown calibration method 'best'",
    ),
    "cache of no version": (
        ["calibration", "c.json", "-o", "x.cache"],
        "no TensorRT version .*add --tensorrt VERSION",
    ),
    "a version for a file": (
        ["calibration", "c.json", "-o", "x", "--tensorrt", "8.6.1", "--calibrator", "minmax"],
        "--tensorrt, --calibrator for the output 'x'; expected a calibration cache; .* in .cache",
    ),
    "cache for TensorRT 11": (
        ["calibration", "c.json", "-o", "x.cache", "--tensorrt", "11.4.0"],
        "'11.4.0'; expected 8.x.y or 10.x.y",
    ),
    "unknown method": (
        ["onnx", "m.pth", "-o", "x", "--calibration-method", "best", *INT8],
        "calibration method 'best'",
    ),
    "unknown layer": (
        ["onnx", "m.pth", "-o", "x", "--calibration", "c.json", "--float-layer", "conv9", *INT8],
        "no convolution is called 'conv9'; expected one of init_conv.0, ",
    ),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    write_checkpoint(folder).rename(folder / "m.pth")
    write_checkpoint(folder, decisive=True).rename(folder / "other.pth")
    for name in ("pictures", "broken", "empty", "deep", "one", "two/one"):
        (folder / name).mkdir(parents=True)
    for number, image in enumerate(noise((2, 80, 120, 3), 5), start=1):
        Image.fromarray(image).save(folder / "pictures" / f"{number}.png")
        Image.fromarray(image).save(folder / ("one", "two/one")[number - 1] / f"{number}.png")
        (folder / "broken" / f"{number}.png").write_bytes(b"no picture")
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "deep" / "1.tif")
    return folder


@pytest.fixture(scope="module")
def results(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    said = tmp_path_factory.mktemp("said")
    done = dict(zip(COMMANDS, run_commands([*COMMANDS.values()], workplace, said), strict=True))
    for name, result in done.items():
        assert result.returncode == 0, (name, result.stderr)
    return done


def test_a_calibration_file_is_repeatable(workplace: Path, results: Results) -> None:
    first, again = (workplace / name for name in ("c.json", "again.json"))
    assert first.read_bytes() == again.read_bytes()
    calibration = load_calibration(first)
    assert list(calibration.images.values()) == [
        image_sha256(scene.image) for scene in evenly_spaced("train", 3)
    ]
    assert len(calibration.histograms) == 180
    assert not list(workplace.glob("*.partial"))
    assert "3 images of toy-street train, 180 tensors" in results["collect"].stdout


def test_files_of_one_graph_add_up(workplace: Path, results: Results) -> None:
    """What one run over both pictures gave; each folder is called "one"."""
    merged, whole = (load_calibration(workplace / name) for name in ("merged.json", "f.json"))
    assert merged.histograms == whole.histograms
    assert merged.images == whole.images
    assert "2 images of one folder, 180 tensors" in results["merge"].stdout


def test_any_folder_of_pictures(workplace: Path, results: Results) -> None:
    """Of another size than the graph; what cannot be read is named."""
    calibration = load_calibration(workplace / "f.json")
    assert (calibration.dataset, calibration.split) == ("pictures", "folder")
    hashes = [image_sha256(image) for image in noise((2, 80, 120, 3), 5)]
    assert calibration.images == dict(zip(("1.png", "2.png"), hashes, strict=True))
    assert "passed over: 'pictures/broken.png' cannot be read" in results["folder"].stderr


def test_the_file_gives_the_artifact_that_calibrating_gives(
    workplace: Path, results: Results
) -> None:
    graphs = [onnx.load(workplace / name).graph for name in ("file.onnx", "now.onnx")]
    assert graphs[0] == graphs[1]
    calibration = manifest_of(load_onnx(workplace / "file.onnx"), "").calibration
    assert calibration is not None
    assert (calibration.method, calibration.placement) == ("mse", "conv-inputs")
    assert calibration.images == 3
    images = load_calibration(workplace / "c.json").images
    assert calibration.image_sha256 == tuple(images.values())


def test_other_methods_and_placements(workplace: Path, results: Results) -> None:
    manifest = manifest_of(load_onnx(workplace / "entropy.onnx"), "")
    model = onnx.load(workplace / "entropy.onnx")
    assert manifest.opset == 19
    assert manifest.calibration is not None
    assert (manifest.calibration.method, manifest.calibration.placement) == ("entropy", "all")
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    scales = [n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    single = [name for name in scales if kinds[name] != onnx.TensorProto.FLOAT16]
    assert single == ["/Sub_output_0_scale"]  # the normalised image is FP32, and rounded from that


def test_fitted_weights_are_written_and_recorded(workplace: Path, results: Results) -> None:
    now, refined = (onnx.load(workplace / f"{name}.onnx") for name in ("now", "refined"))
    weights = [
        {
            i.name: i.raw_data
            for i in model.graph.initializer
            if i.data_type == onnx.TensorProto.INT8
        }
        for model in (now, refined)
    ]
    assert weights[0].keys() == weights[1].keys()
    changed = [name for name in weights[0] if weights[0][name] != weights[1][name]]
    assert len(changed) > 50  # of 60 convolutions
    manifest = manifest_of(load_onnx(workplace / "refined.onnx"), "")
    assert manifest.calibration is not None
    assert manifest.calibration.method == "mse, fitted weights"
    # What weights were fitted to is on record as well, so that no score is taken on it.
    seen = {image_sha256(scene.image) for n in (3, 16) for scene in evenly_spaced("train", n)}
    assert set(manifest.calibration.image_sha256) == seen
    assert manifest.calibration.images == len(seen) == len(manifest.calibration.image_sha256)


def test_layers_in_float_keep_the_budget(workplace: Path, results: Results) -> None:
    manifest = manifest_of(load_onnx(workplace / "budget.onnx"), "")
    assert manifest.calibration is not None
    layers = manifest.calibration.float_layers
    assert 0 < len(layers) < 22  # the dense convolutions
    table = (workplace / "budget.onnx.budget.md").read_text(encoding="utf-8")
    chosen = next(line for line in table.splitlines() if "**chosen**" in line)
    count, disagreement = (chosen.split("|")[column].strip() for column in (1, 3))
    assert int(count) == len(layers)
    assert float(disagreement) <= 3
    first = next(line for line in table.splitlines() if line.startswith("| 0 |"))
    assert float(first.split("|")[3]) > 3  # all in int8 would not keep it
    assert f"In float: {', '.join(layers)}." in table
    with Image.open(workplace / "budget.onnx.budget.png") as plot:
        assert plot.size[0] > 1000
    measured = json.loads((workplace / "budget.onnx.budget.json").read_text(encoding="utf-8"))
    assert sum(what.startswith("int8: ") for what in measured["measured"]) == 22


def test_the_cache_is_what_tensorrt_reads(workplace: Path, results: Results) -> None:
    """Header, names and scales; and the FP32 file for TensorRT takes it for its own."""
    header, *lines = (workplace / "t.cache").read_text(encoding="ascii").splitlines()
    assert header == "TRT-8601-EntropyCalibration2"
    calibration = load_calibration(workplace / "c.json")
    scales = {}
    for line in lines:
        name, _, bits = line.rpartition(": ")
        (scales[name],) = struct.unpack(">f", bytes.fromhex(bits))
    assert scales == {
        name: np.float32(histogram.absolute_maximum / 127)
        for name, histogram in calibration.histograms.items()
    }
    model = onnx.load(workplace / "t.onnx")
    computed = {name for node in model.graph.node for name in node.output}
    assert scales.keys() <= computed
    sha256 = graph_sha256(load_onnx(workplace / "t.onnx"))
    read = CalibrationCache(workplace / "t.cache", sha256).read()
    assert read is not None
    assert read[1] is not None
    assert (read[1].split, read[1].images, len(read[1].image_sha256)) == ("train", 3, 3)


def test_a_cache_of_a_checkpoint_is_that_of_its_file(workplace: Path, results: Results) -> None:
    header, *lines = (workplace / "at-once.cache").read_text(encoding="ascii").splitlines()
    assert header == "TRT-100001-MinMaxCalibration"
    assert lines == (workplace / "t.cache").read_text(encoding="ascii").splitlines()[1:]
    assert results["cache at once"].stdout.startswith("at-once.cache  (")


def test_bad_input_is_one_line(
    workplace: Path, results: Results, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = sorted(workplace.rglob("*"))
    orders = [arguments for arguments, _ in BAD.values()]
    done = run_commands(orders, workplace, tmp_path_factory.mktemp("said"))
    for (case, (_, expected)), result in zip(BAD.items(), done, strict=True):
        assert result.returncode == 2, (case, result.stderr)
        lines = result.stderr.splitlines()
        assert lines[-1].startswith("error: "), (case, lines)
        assert len(lines) == 1, (case, lines)
        assert re.search(expected, lines[-1]), (case, lines[-1])
        assert result.stdout == "", case
    assert sorted(workplace.rglob("*")) == before
