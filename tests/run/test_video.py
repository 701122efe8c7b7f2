"""Frames of every kind of video are the pixels that were drawn, upright, RGB, in time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from dabnet.errors import InputError
from dabnet.run import video
from dabnet.run.frames import Frame
from dabnet.run.sources import look_at, open_source
from dabnet.run.video import Video, without_password
from tests.support.videos import Image, Sender, scenes, with_matrix, write_video

SCENES = scenes(6)
"""Sides of 66 and 132 pixels."""


def opened(path: Path, every: int = 1) -> Video:
    found = open_source(look_at(str(path)), (64, 128), 10.0, every)
    assert isinstance(found, Video)
    return found


def images_of(path: Path) -> list[Image]:
    return [frame.pixels() for frame in opened(path).frames()]


def far(found: Image, wanted: Image) -> float:
    """Mean difference of pixels, 0…255."""
    assert found.shape == wanted.shape
    assert found.dtype == np.uint8
    return float(np.abs(found.astype(int) - wanted.astype(int)).mean())


@pytest.mark.parametrize(
    ("name", "codec", "stored", "most"),
    [
        ("a.mkv", "ffv1", "bgr0", 0.0),
        ("a.mov", "png", "rgb24", 0.0),
        ("a.mov", "png", "rgb48be", 0.01),
        ("a.mkv", "ffv1", "yuv444p", 1.5),
        ("a.mkv", "ffv1", "yuv444p10le", 1.5),
        ("a.mkv", "ffv1", "yuv420p10le", 6.0),
        ("a.mkv", "ffv1", "yuv444p16le", 1.5),
        ("a.avi", "mjpeg", "yuvj420p", 8.0),
        ("a.mp4", "mpeg4", "yuv420p", 12.0),
    ],
)
def test_bits_and_codecs(name: str, codec: str, stored: str, most: float, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, SCENES, codec, stored)
    found = images_of(path)
    assert len(found) == len(SCENES)
    assert max(map(far, found, SCENES)) <= most


def test_grey_of_8_and_16_bits(tmp_path: Path) -> None:
    """Of 16 bits the upper 8 are kept, as of images."""
    ramp = np.linspace(0, 0xFFFF, 66 * 132).reshape(66, 132).astype(np.uint16)
    wanted = (ramp >> 8).astype(np.uint8)[..., None].repeat(3, 2)
    deep = write_video(tmp_path / "a.mkv", [ramp], stored="gray16le", given="gray16le")
    assert np.abs(images_of(deep)[0].astype(int) - wanted).max() <= 1
    flat = write_video(tmp_path / "b.mkv", [wanted[..., 0]], stored="gray", given="gray")
    assert (images_of(flat)[0] == wanted).all()


def test_transparency_is_left_out(tmp_path: Path) -> None:
    alpha = np.arange(66 * 132).reshape(66, 132, 1).astype(np.uint8)
    images = [np.concatenate([scene, alpha], axis=2) for scene in SCENES[:2]]
    path = write_video(tmp_path / "a.mov", images, "png", "rgba", "rgba")
    assert max(map(far, images_of(path), SCENES)) == 0


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # of a phone that is held upright
        ((0, -1, 1, 0), lambda image: np.rot90(image)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((1, 0, 0, 1), lambda image: image),
    ],
)
def test_a_turn_that_the_header_asks_for(
    matrix: tuple[int, int, int, int], turn: Callable[[Image], Image], tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mov", SCENES[:2], "png", "rgb24")
    found = images_of(with_matrix(path, *matrix))
    assert all((image == turn(scene)).all() for image, scene in zip(found, SCENES, strict=False))


def test_times_are_the_files_own(tmp_path: Path) -> None:
    """Of variable rate, not from 0; every second frame keeps its time and number."""
    times = [7, 8, 10, 15, 16, 30]
    path = write_video(tmp_path / "a.mp4", SCENES, "mpeg4", "yuv420p", times=times)
    wanted = [Fraction(time - 7, 20) for time in times]
    assert [frame.seconds for frame in opened(path).frames()] == wanted
    found = [(frame.number, frame.seconds) for frame in opened(path, every=2).frames()]
    assert found == [(number, wanted[number]) for number in (0, 2, 4)]
    assert opened(path, every=4).total == 2


def test_frames_without_times_follow_each_other(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mjpeg", SCENES, "mjpeg", "yuvj420p")
    found = [frame.seconds for frame in opened(path).frames()]
    assert len(found) == len(SCENES)
    assert all(after > before for before, after in pairwise(found))


def test_a_truncated_file_gives_its_frames_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", SCENES * 10, "ffv1", "yuv420p")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    source = opened(path)
    found = [frame.pixels() for frame in source.frames()]
    assert 20 <= len(found) <= 32
    said = " ".join([*source.notes(), str(source.fault)])
    assert "cut short" in said or "broke off" in said


def test_damaged_packets_are_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mov", SCENES, "png", "rgb24")
    content = bytearray(path.read_bytes())
    at = content.index(b"\x89PNG", content.index(b"\x89PNG") + 1)
    content[at : at + 100] = bytes(100)
    path.write_bytes(content)
    source = opened(path)
    assert len(list(source.frames())) == len(SCENES) - 1
    assert source.notes() == ["damaged packets left out: 1"]
    ended = opened(path)
    frames = ended.frames()
    assert [next(frames).number for _ in range(2)] == [0, 1]
    ended.close()
    assert list(frames) == []
    assert ended.notes() == ["damaged packets left out: 1"]


def test_a_file_that_breaks_off_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Video) -> Iterator[object]:
        raise av.error.InvalidDataError(1, "Invalid data")

    monkeypatch.setattr(Video, "_decoded", broken)
    source = opened(write_video(tmp_path / "a.mkv", SCENES))
    assert list(source.frames()) == [] and source.notes() == []
    assert "broke off before its first frame (Invalid data)" in str(source.fault)


def header_cut(path: Path) -> None:
    """The index of an MP4 file is at its end."""
    write_video(path, SCENES, "mpeg4", "yuv420p")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def sound(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("none.mp4", lambda path: None, "no file at"),
        ("empty.mp4", lambda path: path.touch(), "is empty"),
        ("text.mp4", lambda path: path.write_text("no video\n" * 99), "cannot be opened"),
        ("text.txt", lambda path: path.write_text("no video\n" * 99), "has no video stream"),
        ("cut.mp4", header_cut, "cannot be opened"),
        ("sound.wav", sound, "has no video stream"),
        ("folder", Path.mkdir, "no images in"),
        ("rtmfp://host/x", lambda path: None, "expected one of rtsp://"),
        ("http://127.0.0.1:9/x", lambda path: None, "cannot be opened (Connection refused)"),
        ("rtsp://me:secret@127.0.0.1:9/x", lambda path: None, "'rtsp://…@127.0.0.1:9/x' cannot"),
        ("999", lambda path: None, "the camera /dev/video999 cannot be opened (No such file"),
    ],
)
def test_what_cannot_be_a_source(
    name: str, make: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if "/" not in name:
        make(path)
    with pytest.raises(InputError) as caught:
        open_source(look_at(name if "/" in name or name.isdigit() else str(path)), (64, 128), 10.0)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_name_of_a_file_is_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mkv", SCENES[:1])
    (tmp_path / "a.mkv").rename(tmp_path / "concat:a|b")
    assert len(images_of(Path("concat:a|b"))) == 1


@pytest.fixture
def sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sender]:
    monkeypatch.setattr(video, "FIRST_WAIT_S", 0.01)
    stream = write_video(tmp_path / "a.ts", SCENES, "mpeg2video", "yuv420p", tick=Fraction(1, 25))
    made = Sender(stream.read_bytes(), 2)
    yield made
    made.join()


def test_a_lost_stream_is_opened_again_so_many_times(sender: Sender) -> None:
    source = Video(sender.url, reconnects=3)
    assert source.live
    found: list[Frame] = list(source.frames())
    assert len(found) == 2 * len(SCENES)
    assert far(found[0].pixels(), SCENES[0]) < 12
    assert [frame.number for frame in found] == list(range(len(found)))
    assert source.notes() == ["times reconnected: 1"]
    assert "was lost (" in str(source.fault)
    assert "and 3 attempts to reconnect failed" in str(source.fault)


def test_a_source_that_is_closed_does_not_reconnect(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "FIRST_WAIT_S", 60)
    source = Video(sender.url, reconnects=3)
    threading.Timer(0.3, source.close).start()
    assert len(list(source.frames())) <= len(SCENES)
    assert source.fault is None
    host, port = sender.url[6:].split(":")
    socket.create_connection((host, int(port))).close()  # the second caller


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("rtsp://user:pw@host/live", "rtsp://…@host/live"),
        ("rtsp://user:p@ss@host/live", "rtsp://…@host/live"),
        ("http://host/a@b", "http://host/a@b"),
        ("drive@home.mp4", "drive@home.mp4"),
    ],
)
def test_a_password_is_not_shown(location: str, shown: str) -> None:
    assert without_password(location) == shown
