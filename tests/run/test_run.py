"""``dabnet-run`` from the artifact to the file: what is drawn, what is printed, what is refused."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from dabnet.artifact import open_artifact
from dabnet.data.cityscapes import CITYSCAPES, CITYSCAPES_ID_TO_TRAIN_ID
from dabnet.run import video
from dabnet.run.cli import main
from export.cli.main import export_group
from tests.support import ROOT
from tests.support.contract_graph import add_manifest, contract_manifest, write_contract
from tests.support.contract_variants import write_dynamic, write_raw
from tests.support.processes import environment
from tests.support.videos import SIZE, Sender, read_video, scenes, write_video

pytest.importorskip("onnxruntime")

WEIGHTS = ROOT / "weights" / "dabnet_toy_street.pth"
INPUT = "64x128"
SCENES = scenes(5)
TIMES = [0, 1, 4, 5, 9]
"""Of a video of variable rate, in twentieths of a second."""
OPACITY = 0.6

Said = tuple[int, str, str]


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "street.onnx"
    words = ["onnx", str(WEIGHTS), "--size", INPUT, "-o", str(path)]
    done = CliRunner().invoke(export_group, words, catch_exceptions=False)
    assert done.exit_code == 0
    return path


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    path = tmp_path / "drive.mkv"
    return write_video(path, SCENES, times=TIMES)


@pytest.fixture
def dabnet_run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Exit code, stdout and stderr."""

    def called(*words: object) -> Said:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["dabnet-run", *map(str, words), "--threads", "1"])
            with pytest.raises(SystemExit) as stop:
                main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return called


def masks(artifact: Path, images: list[Any]) -> list[np.ndarray]:
    """Of the artifact, computed here, at the sizes of the images."""
    runner = open_artifact(artifact, threads=1)
    height, width = runner.manifest.size
    found = []
    for image in images:
        frame = Image.fromarray(image)
        small = np.asarray(frame.resize((width, height), Image.Resampling.BILINEAR))
        mask = Image.fromarray(runner.infer(small[None])[0])
        found.append(np.asarray(mask.resize(frame.size, Image.Resampling.NEAREST)))
    runner.close()
    return found


def overlays(artifact: Path, images: list[Any], palette: Any = None) -> list[np.ndarray]:
    runner = open_artifact(artifact, threads=1)
    colours = np.array(palette or runner.manifest.palette, float)
    found = masks(artifact, images)
    return [(1 - OPACITY) * i + OPACITY * colours[m] for i, m in zip(images, found, strict=True)]


def far(found: Any, wanted: np.ndarray) -> float:
    picture = found.convert("RGB") if isinstance(found, Image.Image) else found
    return float(np.abs(np.asarray(picture, float) - wanted).mean())


def folder_of(scenes: list[Any], root: Path) -> Path:
    for index, scene in enumerate(scenes):
        (root / f"town{index % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene).save(root / f"town{index % 2}" / f"{index}.png")
    (root / "notes.txt").write_text("no image")
    return root


def test_a_folder_of_images(
    artifact: Path, tmp_path: Path, dabnet_run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --output and a display, into a folder in the working directory."""
    photos = folder_of(SCENES, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    code, out, err = dabnet_run(artifact, photos)
    assert (code, err) == (0, "")
    found = sorted(p.relative_to("photos-overlay") for p in Path("photos-overlay").rglob("*.*"))
    assert found == sorted(Path(f"town{i % 2}/{i}.png") for i in range(5))
    for index, wanted in enumerate(overlays(artifact, SCENES)):
        assert far(Image.open(f"photos-overlay/town{index % 2}/{index}.png"), wanted) < 0.6
    assert out.startswith("onnxruntime ")
    shares = re.findall(r"#[0-9a-f]{6} +([\d.]+) %  \w+", out)
    assert len(shares) == 11
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.6)
    assert re.search(r"^5 frames in [\d.]+ s: [\d.]+ FPS; 0 dropped$", out, re.M)
    assert re.search(r"^latency of a frame, .*: p50 [\d.]+ ms, p95 [\d.]+ ms$", out, re.M)
    assert f"infer 1x{INPUT} " in out
    assert out.endswith("wrote photos-overlay\n")


def test_masks(
    artifact: Path, drive: Path, tmp_path: Path, dabnet_run: Callable[..., Said]
) -> None:
    """In a folder within that of the images, whose own masks are no images of the next run."""
    photos = folder_of(SCENES, tmp_path / "photos")
    wanted = masks(artifact, SCENES)
    for _ in range(2):
        assert dabnet_run(artifact, photos, "-o", photos / "m", "--write", "indices")[0] == 0
    assert len(list((photos / "m").rglob("*.png"))) == len(SCENES)
    for index, mask in enumerate(wanted):
        found = Image.open(photos / "m" / f"town{index % 2}" / f"{index}.png")
        assert found.mode == "L"
        assert (np.asarray(found) == mask).all()
    assert dabnet_run(artifact, drive, "-o", tmp_path / "f", "--write", "indices")[0] == 0
    for index, mask in enumerate(wanted):
        assert (np.asarray(Image.open(tmp_path / "f" / f"{index:06}.png")) == mask).all()


@pytest.mark.parametrize("kind", ["artifact", "checkpoint"])
def test_pixels_of_little_confidence_are_grey(
    kind: str, tmp_path: Path, dabnet_run: Callable[..., Said]
) -> None:
    path = tmp_path / "sure.onnx"
    words = ["onnx", str(WEIGHTS), "--size", INPUT, "-o", str(path), "--head", "mask+confidence"]
    assert CliRunner().invoke(export_group, words, catch_exceptions=False).exit_code == 0
    height, width = map(int, INPUT.split("x"))
    scene = np.asarray(Image.fromarray(SCENES[0]).resize((width, height)))
    photo, least = tmp_path / "photo.png", 0.8
    Image.fromarray(scene).save(photo)
    with contextlib.closing(open_artifact(path, threads=1)) as runner:
        (mask,), (confidence,) = runner.infer_with_confidence(scene[None])
        colours = np.array(runner.manifest.palette, float)[mask]
    unsure = confidence < 255 * least
    assert 0.02 < unsure.mean() < 0.9
    given = [path if kind == "artifact" else WEIGHTS, photo, "--min-confidence", least]
    given += [] if kind == "artifact" else ["--size", INPUT]
    code, out, err = dabnet_run(*given, "-o", tmp_path / "overlay.png")
    assert (code, err) == (0, "")
    wanted = (1 - OPACITY) * scene + OPACITY * colours
    wanted[unsure] = np.asarray(Image.fromarray(scene).convert("L"))[unsure, None]
    assert far(Image.open(tmp_path / "overlay.png"), wanted) < 1
    grey = re.search(r"in grey +([\d.]+) %  too little confidence", out)
    assert grey and float(grey[1]) == pytest.approx(100 * unsure.mean(), abs=0.5)
    code, out, err = dabnet_run(*given, "--write", "indices", "-o", tmp_path / "mask.png")
    found = np.asarray(Image.open(tmp_path / "mask.png"))
    assert (found != np.where(unsure, 255, mask)).mean() < 0.01


def test_the_ids_of_cityscapes(tmp_path: Path, dabnet_run: Callable[..., Said]) -> None:
    path = write_contract(tmp_path)
    model = onnx.load(str(path))
    manifest = contract_manifest()
    named = {"classes": CITYSCAPES.classes, "palette": CITYSCAPES.palette}
    add_manifest(model, type(manifest)(**{**_fields(manifest), **named}))
    onnx.save(model, str(path))
    Image.fromarray(SCENES[0]).save(tmp_path / "a.png")
    for write in ("indices", "label-ids"):
        words = (path, tmp_path / "a.png", "-o", tmp_path / f"{write}.png", "--write", write)
        assert dabnet_run(*words)[0] == 0
    trained, sent = (
        np.asarray(Image.open(tmp_path / f"{w}.png")) for w in ("indices", "label-ids")
    )
    assert (np.array(CITYSCAPES_ID_TO_TRAIN_ID)[sent] == trained).all()


def _fields(manifest: Any) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}


@pytest.mark.parametrize(
    ("name", "codecs"),
    [("a.mp4", ("h264",)), ("a.mkv", ("h264",)), ("a.mov", ("mpeg4",))],
)
def test_a_video(
    name: str,
    codecs: tuple[str, ...],
    artifact: Path,
    tmp_path: Path,
    dabnet_run: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of variable rate and odd sides; it can be replaced, what others made cannot."""
    odd = [scene[:65, :131] for scene in SCENES]
    source = write_video(tmp_path / "drive.mkv", odd, times=TIMES)
    if codecs == ("mpeg4",):
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    target = tmp_path / name
    for _ in range(2):
        code, _, err = dabnet_run(artifact, source, "-o", target)
        assert (code, err) == (0, "")
    found = read_video(target)
    assert [time for time, _ in found] == pytest.approx([time / 20 for time in TIMES], abs=1e-3)
    for (_, image), wanted in zip(found, overlays(artifact, odd), strict=True):
        assert image.shape == (66, 132, 3)
        assert far(image[:65, :131], wanted) < 12  # compressed, half the colour
    with av.open(str(target)) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == (codecs[0], "yuv420p")
        assert file.duration / av.time_base == pytest.approx((9 + 4) / 20, abs=0.1)
    write_video(target, SCENES, "mpeg4", "yuv420p")
    code, _, err = dabnet_run(artifact, source, "-o", target)
    assert code == 2
    assert "is not a picture drawn by dabnet-toolkit" in err


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_an_animation(
    name: str, artifact: Path, drive: Path, tmp_path: Path, dabnet_run: Callable[..., Said]
) -> None:
    for _ in range(2):
        assert dabnet_run(artifact, drive, "-o", tmp_path / name)[0] == 0
    with Image.open(tmp_path / name) as found:
        assert found.n_frames == len(SCENES)
        durations = []
        for number, wanted in enumerate(overlays(artifact, SCENES)):
            found.seek(number)
            found.load()
            durations.append(found.info["duration"])
            assert far(found, wanted) < 15
    assert durations == [50, 150, 50, 200, 200]


def test_every_kind_of_artifact_and_source_give_one_picture(
    artifact: Path, tmp_path: Path, dabnet_run: Callable[..., Said]
) -> None:
    """A checkpoint and its ONNX file, on the drawn drive."""
    words = ("--every", 20, "--max-frames", 2)
    assert dabnet_run(artifact, "toy-street", "-o", tmp_path / "a", *words)[0] == 0
    size = ("--size", INPUT)
    assert dabnet_run(WEIGHTS, "toy-street", "-o", tmp_path / "b", *words, *size)[0] == 0
    for name in ("000000.jpg", "000020.jpg"):
        a, b = (np.asarray(Image.open(tmp_path / x / name), float) for x in "ab")
        assert a.shape == (64, 128, 3)
        assert np.abs(a - b).mean() < 0.5
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_a_network_of_another_tool(tmp_path: Path, dabnet_run: Callable[..., Said]) -> None:
    """Floats in, logits out, no manifest: the overlay is that of the artifact with its mask."""
    model = onnx.load(str(write_raw(tmp_path)))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "raw.onnx"))
    colours = [(128, 64, 128), (70, 70, 70), (107, 142, 35), (70, 130, 180), (220, 20, 60)]
    lines = [f"{r} {g} {b} class {i}" for i, (r, g, b) in enumerate(colours)]
    (tmp_path / "classes.txt").write_text("\n".join(lines), encoding="utf-8")
    Image.fromarray(SCENES[0]).save(tmp_path / "a.png")
    described = ("--classes", tmp_path / "classes.txt", "--mean", "0,0,0", "--scale", "1,1,1")
    words = (tmp_path / "raw.onnx", tmp_path / "a.png", "-o", tmp_path / "b.png")
    code, out, _ = dabnet_run(*words, *described)
    assert code == 0
    assert "#804080" in out
    (wanted,) = overlays(write_contract(tmp_path), SCENES[:1], colours)
    assert far(Image.open(tmp_path / "b.png"), wanted) < 1


def test_a_size_is_chosen_where_the_artifact_lets(
    tmp_path: Path, dabnet_run: Callable[..., Said]
) -> None:
    words = ("toy-street", "-o", tmp_path / "a", "--max-frames", 1)
    code, out, _ = dabnet_run(write_dynamic(tmp_path), *words, "--size", "48x96")
    assert code == 0
    assert "infer 1x48x96 " in out
    code, _, err = dabnet_run(write_contract(tmp_path), *words, "--size", "48x96")
    assert code == 2
    assert "expected 32x64, the only size that" in err


def test_colours_of_a_file(
    artifact: Path, drive: Path, tmp_path: Path, dabnet_run: Callable[..., Said]
) -> None:
    colours = tmp_path / "colours.txt"
    colours.write_text("# mine\n1 2 3 road\n250 0 0  car\n", encoding="utf-8")
    words = (artifact, drive, "-o", tmp_path / "f", "--class-map", colours, "--max-frames", 1)
    code, out, _ = dabnet_run(*words)
    assert code == 0
    assert re.search(r"#010203 .* road$", out, re.M)
    assert re.search(r"#fa0000 .* car$", out, re.M)
    for line, told in (
        ("1 2 3 raod", "'1 2 3 raod' in line 1 of"),
        ("1 2 300 road", "expected 'R G B name' per line"),
        ("road", "expected 'R G B name' per line"),
        ("1 2 3 road\n1 2 4 road", "each class once"),
    ):
        colours.write_text(line)
        code, _, err = dabnet_run(*words)
        assert code == 2
        assert told in err


class Shown:
    """A window that its user closes after so many pictures."""

    def __init__(self, pictures: int) -> None:
        self.pictures: list[Image.Image] = []
        self.closed, self.destroyed, self._most = False, False, pictures

    def show(self, picture: Image.Image) -> None:
        self.pictures.append(picture)
        self.closed = len(self.pictures) == self._most

    def poll(self) -> None:
        pass

    def destroy(self) -> None:
        self.destroyed = True


def test_a_window_where_there_is_a_display(
    artifact: Path,
    drive: Path,
    tmp_path: Path,
    dabnet_run: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is closed after three frames; with --window the file holds those that were shown."""
    monkeypatch.chdir(tmp_path)
    for words in ((), ("--window", "-o", "a.mp4")):
        window = Shown(3)
        monkeypatch.setattr("dabnet.run.window.open_window", lambda _, w=window: w)
        code, out, _ = dabnet_run(artifact, drive, *words)
        assert (code, len(window.pictures), window.destroyed) == (0, 3, True)
        assert "3 frames in " in out
    assert len(read_video(Path("a.mp4"))) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "drive.mkv"]


def bad_inputs(folder: Path, artifact: Path) -> list[tuple[list[Any], str]]:
    image, empty, broken = folder / "a.png", folder / "empty", folder / "broken.png"
    Image.new("RGB", (16, 16)).save(image)
    whole = image.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    empty.mkdir()
    (folder / "photos").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (16, 16)).save(folder / "photos" / name)
    (folder / "frameless.mp4").write_bytes(b"no video" * 100)
    clip, out = write_video(folder / "clip.mkv", SCENES[:2]), folder / "o.mp4"
    (folder / "file").write_text("no folder")
    engine = folder / "street.engine"
    engine.write_bytes(b"ftrt" + bytes(99))
    contract = write_contract(folder)
    no_class = ("--write", "label-ids")
    return [
        ([folder / "none.onnx", clip, "-o", out], "no file at"),
        ([folder / "file", clip, "-o", out], "error: "),
        ([artifact, folder / "none.mp4", "-o", out], "no file at"),
        ([artifact, empty, "-o", out], "no images in"),
        ([artifact, broken, "-o", folder / "o.png"], "cannot be read as an image"),
        ([artifact, folder / "frameless.mp4", "-o", out], "cannot be opened"),
        ([artifact, "999", "-o", out], "the camera /dev/video999 cannot be opened"),
        ([artifact, "tcp://127.0.0.1:9", "-o", out], "Connection refused"),
        ([artifact, "file:///etc/passwd", "-o", out], "expected one of rtsp://"),
        ([artifact, clip, "-o", clip], "is the input itself"),
        ([artifact, clip, "-o", artifact], "is a file"),
        ([artifact, image, "-o", image], "is the input itself"),
        ([artifact, clip, "-o", folder / "no" / "o.mp4"], "does not exist"),
        ([artifact, clip, "-o", folder / "o.png"], "a picture holds a single image"),
        ([artifact, clip, "-o", out, "--write", "indices"], "expected a folder"),
        ([artifact, clip, "-o", folder / "o.avi"], "a name that ends in .mp4"),
        ([artifact, clip, "-o", folder / "f", *no_class], "Cityscapes' 19 classes"),
        ([artifact, folder / "photos", "-o", folder / "photos"], "is the input itself"),
        ([artifact, folder / "photos", "-o", folder / "m", "--write", "indices"], "two images for"),
        ([artifact, clip, "-o", out, "--class-map", folder / "none"], "no file at"),
        ([artifact, clip, "-o", out, "--class-map", clip], "is not UTF-8 text"),
        ([artifact, clip, "-o", out, "--window"], "--window without a display"),
        ([artifact, clip, "-o", out, "--every", "0"], "--every"),
        ([artifact, clip, "-o", out, "--device", "cuda"], "CUDAExecutionProvider"),
        ([artifact, clip, "-o", out, "--min-confidence", "0.5"], "gives no confidence"),
        ([artifact, clip, "-o", out, "--min-confidence", "60"], "--min-confidence"),
        ([artifact, clip, "-o", out, "--fps", "5"], "--fps for a video; expected images"),
        (
            [artifact, image, "-o", folder / "o.png", "--fps", "5"],
            "expected a video or an animation",
        ),
        ([engine, clip, "-o", out, "--threads", "2"], "--threads for an engine; expected an ONNX"),
        ([artifact, clip, "-o", out, "--reconnect", "3"], "expected a camera or a stream"),
        (
            [artifact, image, "-o", folder / "o.png", "--class-map", clip, "--write", "indices"],
            "--class-map for --write indices; expected an overlay",
        ),
        (
            [artifact, clip, "-o", folder / "file" / "o.mp4"],
            "file' is a file; expected a directory",
        ),
        ([artifact, clip, "-o", out, "--void", "last"], "--void for an ONNX file or an engine"),
        ([contract, clip, "-o", out, "--dataset", "camvid"], "--dataset for an artifact that"),
        ([WEIGHTS, clip, "-o", out, "--size", "50x50"], "50x50"),
    ]


def test_bad_inputs_are_one_line(
    artifact: Path, tmp_path: Path, dabnet_run: Callable[..., Said]
) -> None:
    for words, told in bad_inputs(tmp_path, artifact):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = dabnet_run(*words)
        assert (code, out) == (2, ""), words
        assert err.startswith(("error: ", "Usage"))
        assert err.count("\n") == 1
        assert told in err
        assert sorted(tmp_path.rglob("*")) == before


def test_without_pyav_images_run_and_videos_name_the_command(
    artifact: Path,
    drive: Path,
    tmp_path: Path,
    dabnet_run: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Image.fromarray(SCENES[0]).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "av", None)
    assert dabnet_run(artifact, tmp_path / "a.png", "-o", tmp_path / "b.png")[0] == 0
    told = "error: the package 'av' is not installed; install it with: pip install '.[video]'\n"
    for words in ((drive, "-o", tmp_path / "f"), ("0",), (tmp_path / "a.png", "-o", "a.mp4")):
        assert dabnet_run(artifact, *words) == (2, "", told)


def test_a_lost_stream_ends_in_one_line_and_a_whole_file(
    artifact: Path, tmp_path: Path, dabnet_run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "FIRST_WAIT_S", 0.01)
    ts = write_video(tmp_path / "a.ts", SCENES, "mpeg2video", "yuv420p", tick=Fraction(1, 25))
    sender = Sender(ts.read_bytes(), 2)
    code, out, err = dabnet_run(artifact, sender.url, "-o", tmp_path / "a.mp4", "--reconnect", 2)
    sender.join()
    assert code == 2
    assert err.splitlines()[0] == "warning: times reconnected: 1"
    assert re.fullmatch(r"error: .* was lost \(.*\), and 2 attempts .*", err.splitlines()[1])
    drawn, dropped = re.search(r"^(\d+) frames? in .* FPS; (\d+) dropped$", out, re.M).groups()
    assert int(drawn) + int(dropped) == 2 * len(SCENES)
    assert len(read_video(tmp_path / "a.mp4")) == int(drawn)


PROGRAM = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "matplotlib", "scipy"):
            raise ImportError(name + " is not there")

sys.meta_path.insert(0, Blocker())
from dabnet.run.cli import main
main()
"""


def interrupted(folder: Path, begun: str, *words: object) -> tuple[str, str]:
    """Send Ctrl-C to ``dabnet-run`` when a file of this pattern holds something.

    In a process that cannot import torch. Returns what was printed.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words), "--threads", "1"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in folder.glob(begun)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "interrupted\n"), out
    assert [path.name for path in folder.rglob(".*")] == []
    return out, err


def test_ctrl_c_finishes_the_file(artifact: Path, tmp_path: Path) -> None:
    source = write_video(tmp_path / "long.mkv", SCENES * 400, "mpeg4", "yuv420p")
    target = tmp_path / "a.mp4"
    out, _ = interrupted(tmp_path, ".a.*.mp4", artifact, source, "-o", target)
    found = read_video(target)
    assert 1 <= len(found) < 2000
    assert f"{len(found)} frame" in out
    assert found[0][1].shape == (*SIZE, 3)


def test_ctrl_c_does_not_wait_for_a_stream_that_has_stopped(artifact: Path, tmp_path: Path) -> None:
    # Longer than what FFmpeg looks at first.
    ts = write_video(tmp_path / "a.ts", SCENES * 30, "mpeg2video", "yuv420p")
    sender = Sender(ts.read_bytes(), holds=True)
    out, _ = interrupted(tmp_path, "f/*.jpg", artifact, sender.url, "-o", tmp_path / "f")
    sender.join()
    found = list((tmp_path / "f").iterdir())
    assert f"{len(found)} frame" in out
    for path in found:
        assert Image.open(path).convert("RGB").size == SIZE[::-1]


def test_ctrl_c_ends_a_stream_that_does_not_open(artifact: Path, tmp_path: Path) -> None:
    """FFmpeg waits for it for ten seconds; PyAV swallows the exception of a signal meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        words = [str(artifact), url, "-o", str(tmp_path / "a.mp4")]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.accept()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=8)
    assert (process.returncode, out, err.strip()) == (130, "", "interrupted")
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_drops_the_file_and_aborts_nothing(artifact: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(artifact), "toy-street", "-o", str(tmp_path / "a.mp4")],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob(".a.*.mp4")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT) and "terminate" not in err
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_an_image_that_cannot_be_read_keeps_what_was_drawn_before_it(
    artifact: Path, tmp_path: Path, dabnet_run: Callable[..., Said]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        Image.fromarray(SCENES[0]).save(photos / f"{name}.png")
    (photos / "c.png").write_bytes((photos / "a.png").read_bytes()[:-500])
    for output in ("a.mp4", "folder"):
        code, out, err = dabnet_run(artifact, photos, "-o", tmp_path / output)
        assert code == 2 and "2 frames in " in out and out.endswith(f"{output}\n")
        assert re.fullmatch(r"error: .*c\.png' cannot be read as an image.*\n", err)
    assert len(read_video(tmp_path / "a.mp4")) == 2
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["a.png", "b.png"]
