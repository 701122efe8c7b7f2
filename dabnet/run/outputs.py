"""Where overlays go: a folder of pictures, a picture, an animation or a video."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dabnet.data.image_files import SUFFIXES
from dabnet.errors import InputError
from dabnet.files import (
    file_identity,
    left_only_if_written,
    replacing,
    writable_directory,
    writable_target,
)
from dabnet.outputs import MARK, PICTURE
from dabnet.pictures import save_picture
from dabnet.run import OVERLAY
from dabnet.run.frames import Frame
from dabnet.run.sources import IMAGES, Asked
from dabnet.run.video import import_av

Write = Callable[[Frame, Image.Image], None]
"""Take a frame and what was drawn of it."""

VIDEOS = (".mp4", ".mkv", ".mov", ".m4v")
ANIMATIONS = (".gif", ".webp")
_NOT_WRITTEN = (".avi", ".webm", ".wmv", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".3gp", ".apng")
"""Names that nobody gives a folder."""
MOST_ANIMATED = 600
"""Frames of an animation, which is in memory until it is written."""

_QUALITY = {"quality": 92}  # of JPEG and WebP pictures
_WEBP = {"quality": 60, "method": 4}  # of animations
_H264 = {"crf": "20", "preset": "veryfast"}
_MPEG4 = {"flags": "+qscale", "global_quality": str(3 * 118)}  # FF_QP2LAMBDA
_TICKS = {"libx264": Fraction(1, 120_000), "mpeg4": Fraction(1, 60_000)}
"""In seconds; a multiple of the usual frame rates, 24000/1001 too; MPEG-4 has 65,535 at most."""

_FIRST_S = Fraction(1, 25)
"""How long a single frame is shown."""
_SLOWEST = Fraction(1, 1000)
"""The lowest rate of frames that a file is told, per second."""


def default_output(asked: Asked, write: str) -> Path:
    """The name of an output in the working directory that the user did not name."""
    what = "overlay" if write == OVERLAY else write
    if asked.kind == IMAGES and Path(asked.location).is_dir():
        return Path(f"{asked.stem}-{what}")
    if asked.kind == IMAGES:
        return Path(f"{asked.stem}-{what}.png")
    return Path(f"{asked.stem}-{what}.mp4" if write == OVERLAY else f"{asked.stem}-{what}")


class Output:
    """A place that was checked before work starts.

    By its suffix a file is a video (``VIDEOS``), an animation (``ANIMATIONS``) or the picture of a
    single image (``SUFFIXES``); any other name is a folder of pictures. Masks go to PNG alone.

    Args:
        read: the files that are read meanwhile; none of them may be overwritten.

    Attributes:
        most: frames that it takes; None for any number.
        timed: it shows frames one after another.

    Raises:
        InputError: nothing can be written there, or it does not fit the source.
        MissingPackage: it is a video, and PyAV is not installed.
    """

    def __init__(self, path: Path, asked: Asked, write: str, read: tuple[Path, ...]) -> None:
        self.path, self._masks = path, write != OVERLAY
        self._asked = asked
        self._read = {file_identity(file): file for file in (*read, *asked.files)}
        suffix = path.suffix.lower()
        single = asked.kind == IMAGES and not Path(asked.location).is_dir()
        self.most: int | None = None
        self.timed = suffix in (*ANIMATIONS, *VIDEOS)
        self._open: Callable[[], AbstractContextManager[Write]]
        if single and suffix in SUFFIXES:
            self._open = self._picture
        elif suffix in ANIMATIONS:
            self._open, self.most = self._animation, MOST_ANIMATED
        elif suffix in VIDEOS:
            import_av()
            self._open = self._video
        elif suffix in SUFFIXES:
            given = f"--output {str(path)!r} for {asked.location!r}"
            raise InputError(given, "a folder or a video; a picture holds a single image")
        elif suffix in _NOT_WRITTEN:
            expected = f"a folder, or a name that ends in {', '.join(VIDEOS + ANIMATIONS)}"
            raise InputError(f"--output {str(path)!r}", expected)
        else:
            self._open = self._folder
            self._check_folder()
            return
        if self._masks and not (self._open == self._picture and suffix == ".png"):
            given = f"--write {write} to {str(path)!r}"
            raise InputError(given, "a folder, or a .png of one image")
        self._check(path)

    def open(self) -> AbstractContextManager[Write]:
        """Open it for the block, at whose end it is whole; after an exception nothing is left."""
        return self._open()

    def _target(self, name: str) -> Path:
        path = self.path / name
        return path.with_suffix(".png") if self._masks else path

    def _check(self, target: Path) -> None:
        same = self._read.get(file_identity(target))
        writable_target(target, *([same] if same else []), kind=PICTURE)

    def _check_folder(self) -> None:
        if os.path.lexists(self.path) and not self.path.is_dir():
            expected = f"a folder, or a name that ends in {', '.join(VIDEOS + ANIMATIONS)}"
            raise InputError(f"--output {str(self.path)!r} is a file", expected)
        if self._asked.kind != IMAGES:
            return
        root = Path(self._asked.location)
        root = root if root.is_dir() else root.parent
        names = [path.relative_to(root).as_posix() for path in self._asked.files]
        targets = [self._target(name) for name in names]
        if twice := [path for path, times in Counter(targets).items() if times > 1]:
            given = f"two images for {str(twice[0])!r}"
            raise InputError(given, "one name for each mask", "rename one of them")
        for path in filter(os.path.lexists, targets):
            self._check(path)

    @contextmanager
    def _folder(self) -> Iterator[Write]:
        with left_only_if_written(self.path):
            writable_directory(self.path)
            yield self._write_into_folder

    def _write_into_folder(self, frame: Frame, drawn: Image.Image) -> None:
        target = self._target(frame.name)
        writable_directory(target.parent)
        self._check(target)
        with replacing(target) as temporary:
            save_picture(drawn, temporary, **_QUALITY)

    @contextmanager
    def _picture(self) -> Iterator[Write]:
        with replacing(self.path) as temporary:
            yield lambda _, drawn: save_picture(drawn, temporary, **_QUALITY)

    @contextmanager
    def _animation(self) -> Iterator[Write]:
        pictures: list[Image.Image] = []
        times: list[Fraction] = []

        def write(frame: Frame, drawn: Image.Image) -> None:
            pictures.append(drawn)
            times.append(frame.seconds)

        with replacing(self.path) as temporary:
            yield write
            shown = [round(1000 * (after - at)) for at, after in pairwise(times)]
            shown = [max(20, milliseconds) for milliseconds in shown] or [1000]
            shown += shown[-1:] if len(pictures) > 1 else []
            options: dict[str, Any] = {"duration": shown, "loop": 0, "save_all": True}
            if self.path.suffix.lower() == ".webp":
                options |= _WEBP
            size = pictures[0].size
            first, *others = (p if p.size == size else p.resize(size) for p in pictures)
            save_picture(first, temporary, append_images=others, **options)

    @contextmanager
    def _video(self) -> Iterator[Write]:
        with replacing(self.path) as temporary:
            video = _Encoder(temporary)
            try:
                yield video.write
                video.finish()
            finally:
                video.close()


class _Encoder:
    """H.264 as yuv420p, or MPEG-4 where FFmpeg has no libx264, with the frames' own times."""

    def __init__(self, path: Path) -> None:
        self._av = import_av()
        self._container = self._av.open(str(path), "w")
        self._container.metadata["comment"] = MARK
        self._stream: Any = None
        # A frame waits for the next one, which tells how long it is shown.
        self._waiting: tuple[Frame, Image.Image] | None = None
        self._shown = _FIRST_S
        self._durations: dict[int, int] = {}  # in ticks, by the time of a frame
        self._last = -1

    def write(self, frame: Frame, drawn: Image.Image) -> None:
        if self._waiting is not None:
            self._shown = frame.seconds - self._waiting[0].seconds
            self._encode(*self._waiting)
        self._waiting = frame, drawn

    def finish(self) -> None:
        if self._waiting is not None:
            self._encode(*self._waiting)
            self._mux(None)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._durations.pop(packet.pts)  # of the last one it matters
            self._container.mux(packet)

    def close(self) -> None:
        self._container.close()

    def _encode(self, frame: Frame, drawn: Image.Image) -> None:
        if self._stream is None:
            self._start(frame, drawn)
        if drawn.size != self._size:
            drawn = drawn.resize(self._size)
        pixels = np.asarray(drawn)
        height, width = pixels.shape[:2]
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        made = self._av.VideoFrame.from_ndarray(even, format="rgb24")
        self._last = max(self._last + 1, round(frame.seconds / self._tick))
        made.pts, made.time_base = self._last, self._tick
        self._durations[self._last] = round(self._shown / self._tick)
        self._mux(made)

    def _start(self, frame: Frame, drawn: Image.Image) -> None:
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        options = dict(_H264 if codec == "libx264" else _MPEG4)
        rate = max(_SLOWEST, (1 / self._shown).limit_denominator(1001))
        self._stream = self._container.add_stream(codec, rate, options=options)
        self._size, self._tick = drawn.size, _TICKS[codec]
        width, height = drawn.size
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.sample_aspect_ratio = frame.pixel_aspect
        self._stream.codec_context.time_base = self._stream.time_base = self._tick
