"""The deployment example as a program of its own, in a process that cannot import torch."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from dabnet.data.cityscapes import CITYSCAPES, CITYSCAPES_ID_TO_TRAIN_ID
from dabnet.data.toy_street import draw_scene
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from tests.support import ROOT
from tests.support.contract_graph import (
    HEIGHT,
    WIDTH,
    add_manifest,
    contract_manifest,
    write_contract,
)
from tests.support.contract_variants import write_dynamic, write_raw

pytest.importorskip("onnxruntime")

PALETTE = ((128, 64, 128), (70, 70, 70), (107, 142, 35), (70, 130, 180), (220, 20, 60))
PROGRAM = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "matplotlib", "click", "rich"):
            raise ImportError(name + " is not there")

sys.meta_path.insert(0, Blocker())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
COMMAND = [sys.executable, "-c", PROGRAM, str(ROOT / "examples" / "segment.py")]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def segment(*arguments: Any, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments), "--threads", "1"],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def recoloured(path: Path) -> Path:
    """Give the artifact colours that can be told apart."""
    model = onnx.load(str(path))
    manifest = replace(contract_manifest(), palette=PALETTE)
    add_manifest(model, manifest)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recoloured(write_contract(tmp_path_factory.mktemp("artifact")))


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [Image.fromarray(draw_scene((i,), (60, 90))[0]) for i in range(3)]


def expected(artifact: Path, frame: Image.Image) -> np.ndarray:
    """The overlay, computed here: half the frame, half the colour of the class."""
    small = np.asarray(frame.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))[None]
    (mask,) = OnnxRuntimeRunner(artifact, threads=1).infer(small)
    large = np.asarray(Image.fromarray(mask).resize(frame.size, Image.Resampling.NEAREST))
    return (np.asarray(frame, np.float64) + np.array(PALETTE)[large]) / 2


def difference(found: Image.Image, wanted: np.ndarray) -> float:
    return float(np.abs(np.asarray(found.convert("RGB"), np.float64) - wanted).mean())


@pytest.fixture(scope="module")
def folder_run(
    artifact: Path, scenes: list[Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of overlays of a folder of images, and what was printed."""
    folder = tmp_path_factory.mktemp("folder")
    photos, overlays = folder / "photos", folder / "overlays"
    photos.mkdir()
    for index, scene in enumerate(scenes):
        scene.save(photos / f"{index}.png")
    scenes[0].save(photos / "photo.JPG", quality=95)
    (photos / "notes.txt").write_text("no image")
    done = segment(artifact, photos, overlays)
    assert done.returncode == 0, done.stderr
    return overlays, done.stdout


def test_a_folder_of_images(
    artifact: Path, scenes: list[Image.Image], folder_run: tuple[Path, str]
) -> None:
    overlays, _ = folder_run
    names = sorted(path.name for path in overlays.iterdir())
    assert names == ["0.png", "1.png", "2.png", "photo.JPG"]
    for index, scene in enumerate(scenes):
        with Image.open(overlays / f"{index}.png") as found:
            assert found.size == scene.size
            assert difference(found, expected(artifact, scene)) <= 1


def test_the_legend_and_the_rates_are_printed(folder_run: tuple[Path, str]) -> None:
    _, printed = folder_run
    lines = printed.splitlines()
    assert lines[0].startswith("onnxruntime ")
    shares = [float(s) for s in re.findall(r"#[0-9a-f]{6} +([\d.]+) %  class \d", printed)]
    assert len(shares) == len(PALETTE)
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert "#804080" in lines[1]
    fps = [float(number) for number in re.findall(r": ([\d.]+) FPS", printed)]
    assert len(fps) == 2
    assert min(fps) > 0
    assert "1 of 32x64" in printed
    assert "4 frames" in printed


def test_an_animated_gif(artifact: Path, scenes: list[Image.Image], tmp_path: Path) -> None:
    source, target = tmp_path / "loop.gif", tmp_path / "overlay.gif"
    scenes[0].save(source, save_all=True, append_images=scenes[1:], duration=[100, 200, 300])
    done = segment(artifact, source, target)
    assert done.returncode == 0, done.stderr
    with Image.open(source) as given, Image.open(target) as found:
        assert found.n_frames == 3
        for index, shown in enumerate((100, 200, 300)):
            given.seek(index)
            found.seek(index)
            assert found.info["duration"] == shown
            # A GIF has 256 colours.
            assert difference(found, expected(artifact, given.convert("RGB"))) < 6


def test_one_image_through_a_dynamic_artifact(scenes: list[Image.Image], tmp_path: Path) -> None:
    turned = scenes[0].getexif()
    turned[0x0112] = 6  # the camera was held upright
    scenes[0].save(tmp_path / "in.png", exif=turned)
    done = segment(write_dynamic(tmp_path), tmp_path / "in.png", tmp_path / "out.webp")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.webp") as found:
        assert found.size == scenes[0].size[::-1]


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    """Run the program in this process, for speed."""
    import runpy

    monkeypatch.setattr(sys, "argv", ["segment.py", *map(str, arguments), "--threads", "1"])
    status: int = runpy.run_path(str(ROOT / "examples" / "segment.py"))["main"]()
    return status


def test_masks_of_a_folder(
    artifact: Path, scenes: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Indices for a program, and ids for the Cityscapes server, in the folders of the images."""
    photos = tmp_path / "photos"
    for index, scene in enumerate(scenes):
        (photos / f"town{index}").mkdir(parents=True)
        scene.save(photos / f"town{index}" / "a.jpg")
    masks = photos / "masks"  # within: a second run must not take its own masks for images
    for _ in range(2):
        assert run_here(monkeypatch, artifact, photos, masks, "--write", "indices") == 0
    assert len(list(masks.rglob("*.png"))) == len(scenes)
    for index, scene in enumerate(scenes):
        jpeg = Image.open(photos / f"town{index}" / "a.jpg")
        colours = np.array(PALETTE)[np.asarray(Image.open(masks / f"town{index}" / "a.png"))]
        assert difference(jpeg, 2 * expected(artifact, jpeg) - colours) < 1e-6
        assert jpeg.size == scene.size

    assert run_here(monkeypatch, artifact, photos, masks, "--write", "label-ids") == 2
    model = onnx.load(str(artifact))
    manifest = replace(contract_manifest(), classes=CITYSCAPES.classes, palette=CITYSCAPES.palette)
    add_manifest(model, manifest)
    onnx.save(model, str(tmp_path / "city.onnx"))
    ids = tmp_path / "ids"
    assert run_here(monkeypatch, tmp_path / "city.onnx", photos, ids, "--write", "label-ids") == 0
    trained = np.asarray(Image.open(masks / "town0" / "a.png"))
    sent = np.asarray(Image.open(ids / "town0" / "a.png"))
    assert (np.array(CITYSCAPES_ID_TO_TRAIN_ID)[sent] == trained).all()


def without_manifest(path: Path) -> Path:
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.save(model, str(path))
    return path


def test_a_network_of_another_tool(
    artifact: Path,
    scenes: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """Floats in, logits out, no manifest: the overlay is that of the artifact with its mask."""
    import runpy

    raw, classes = without_manifest(write_raw(tmp_path)), tmp_path / "classes.txt"
    lines = [f"{r} {g} {b} class {i}" for i, (r, g, b) in enumerate(PALETTE)]
    classes.write_text("\n".join(lines), encoding="utf-8")
    scenes[0].save(tmp_path / "in.png")
    paths = map(str, (raw, tmp_path / "in.png", tmp_path / "out.png"))
    options = ("--classes", str(classes), "--mean", "0,0,0", "--scale", "1,1,1", "--threads", "1")
    monkeypatch.setattr(sys, "argv", ["segment.py", *paths, *options])
    program = runpy.run_path(str(ROOT / "examples" / "segment.py"))
    assert program["main"]() == 0, capsys.readouterr().err
    with Image.open(tmp_path / "out.png") as found:
        assert difference(found, expected(artifact, scenes[0])) <= 1
    assert "#804080" in capsys.readouterr().out


def test_a_network_of_another_tool_without_onnx(tmp_path: Path) -> None:
    raw = without_manifest(write_raw(tmp_path))
    Image.new("RGB", (16, 16)).save(tmp_path / "in.png")
    options = ("--dataset", "camvid")
    done = segment(raw, tmp_path / "in.png", tmp_path / "out.png", *options)
    assert done.returncode == 2
    told = "error: the package 'onnx' is not installed; install it with: pip install onnx onnx-ir\n"
    assert done.stderr == told


def bad_inputs(folder: Path, artifact: Path) -> list[tuple[list[Any], str]]:
    image, empty, broken = folder / "a.png", folder / "empty", folder / "broken.png"
    Image.new("RGB", (16, 16)).save(image)
    whole = image.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    empty.mkdir()
    (folder / "a.mp4").write_bytes(b"no video")
    (folder / "a.txt").write_text("no image")
    (folder / "link.png").symlink_to("broken.png")
    photos, pictures = folder / "photos", folder / "pictures"
    for made in (photos, pictures):
        made.mkdir()
        shutil.copy(image, made / "a.png")
    (folder / "m.pth").write_text("no artifact")
    bare, out = without_manifest(write_raw(folder)), folder / "out.png"
    return [
        ([folder / "none.onnx", image, out], "no file at"),
        ([folder / "m.pth", image, out], "dabnet-export onnx"),
        ([bare, image, out], "describe it with --dataset or --classes, and --mean"),
        ([bare, image, out, "--dataset", "camvid"], "expected logits of 11 classes"),
        ([artifact, folder / "none.png", out], "no file at"),
        ([artifact, empty, folder / "o"], "no images in"),
        ([artifact, broken, out], "cannot be read as an image"),
        ([artifact, folder / "a.txt", out], "two images"),
        ([artifact, image, folder / "out.mp4"], "two images"),
        ([artifact, image, image], "is the input itself"),
        ([artifact, image, folder / "no" / "out.png"], "does not exist"),
        ([artifact, image, photos / "a.png"], "is not a picture drawn by dabnet-toolkit"),
        ([artifact, pictures, photos], "is not a picture drawn by dabnet-toolkit"),
        ([artifact, image, folder / "link.png"], "is a link to"),
        ([artifact, image, out, "--device", "cuda"], "CUDAExecutionProvider"),
    ]


def test_bad_inputs_are_one_line(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In this process, for speed; what the process does with the status is tested above."""
    import runpy

    program = runpy.run_path(str(ROOT / "examples" / "segment.py"))
    for arguments, message in bad_inputs(tmp_path, artifact):
        monkeypatch.setattr(sys, "argv", ["segment.py", *map(str, arguments)])
        before = sorted(tmp_path.rglob("*"))
        assert program["main"]() == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert message in error
        assert [p for p in sorted(tmp_path.rglob("*")) if p not in before and p.is_file()] == []


def test_a_video_without_ffmpeg(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a video")
    done = segment(artifact, tmp_path / "a.mp4", tmp_path / "b.mp4", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: a video needs the program ffmpeg; install it, or use a GIF\n"


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_a_video(artifact: Path, scenes: list[Image.Image], tmp_path: Path) -> None:
    source, target = tmp_path / "drive.avi", tmp_path / "overlay.mkv"
    size, frames = "{}x{}".format(*scenes[0].size), 12
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", "12.5", "-i", "-"]
    pixels = b"".join(scene.tobytes() for scene in scenes * (frames // 3))
    lossless = ["ffmpeg", "-loglevel", "error", *raw, "-c:v", "ffv1", str(source)]
    subprocess.run(lossless, input=pixels, check=True)
    done = segment(artifact, source, target)
    assert done.returncode == 0, done.stderr
    assert f"{frames} frames" in done.stdout
    about = subprocess.run(["ffmpeg", "-i", str(target)], capture_output=True, text=True).stderr
    assert re.search(r"12\.50? fps", about)
    assert re.search(r"\b90x60\b", about)
    first = ["ffmpeg", "-loglevel", "error", "-i", str(target), "-frames:v", "1"]
    subprocess.run([*first, str(tmp_path / "first.png")], check=True)
    with Image.open(tmp_path / "first.png") as found:
        assert difference(found, expected(artifact, scenes[0])) < 12  # compressed, half the colour
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    done = segment(artifact, tmp_path / "broken.mp4", tmp_path / "o.mp4")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ffmpeg failed on")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o.mp4").exists()


def test_interrupted(artifact: Path, tmp_path: Path) -> None:
    photos, overlays = tmp_path / "photos", tmp_path / "overlays"
    photos.mkdir()
    Image.new("RGB", (640, 480), (90, 90, 90)).save(photos / "000.png")
    for index in range(1, 400):
        (photos / f"{index:03}.png").hardlink_to(photos / "000.png")
    process = subprocess.Popen(
        [*COMMAND, str(artifact), str(photos), str(overlays), "--threads", "1"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (overlays / "002.png").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "interrupted; finished files are kept\n")
    finished = list(overlays.iterdir())
    assert 3 <= len(finished) < 400
    for path in finished:
        assert not path.name.startswith(".")
        with Image.open(path) as image:
            image.load()
