"""Videos, cameras and streams, decoded by PyAV (https://pyav.basswood.io)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from threading import Event
from typing import Any

import numpy as np

from dabnet.data.dataset import Uint8Array
from dabnet.errors import InputError, MissingPackage
from dabnet.run.frames import Frame

TIMEOUT_S = 10.0
"""For a source to open, and between two packets of it."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0
"""Before an attempt to reconnect: doubled from one to the next."""
DEFAULT_RATE = Fraction(25)
"""Frames per second where neither they nor their file tell when they are to be shown."""
CUT_SHORT = 0.9
"""A file whose frames end before this share of its duration is said to be cut short."""

LIVE = ("rtsp", "rtsps", "rtp", "srtp", "udp", "tcp", "srt", "rtmp", "rtmps")
SCHEMES = (*LIVE, "http", "https")
"""Of URLs; FFmpeg knows others, some of which read files."""

_PICTURE_OF_TEXT = ("tty", "bin", "xbin", "adf", "idf")
"""Formats that FFmpeg finds in texts."""


def import_av() -> Any:
    """PyAV, or MissingPackage, which names the extra."""
    try:
        import av
    except ImportError as error:
        raise MissingPackage("av", "video") from error
    return av


def without_password(location: str) -> str:
    """A URL as it may be shown: ``rtsp://…@host/path``."""
    return re.sub(r"(?<=://)[^/?#]*@", "…@", location)


def reason_of(error: BaseException) -> str:
    """Why FFmpeg refused, without the location, which may hold a password."""
    if type(error).__name__ == "ExitError":  # PyAV's of a timeout
        return f"nothing came for {TIMEOUT_S:g} s"
    return getattr(error, "strerror", None) or type(error).__name__


class Video:
    """A video file, a camera or a stream.

    A file waits for whoever takes its frames. A camera or a stream does not; where it is lost, it
    is opened again, at most ``reconnects`` times in a row. A URL is live unless it is an HTTP file
    of a known duration.

    Args:
        location: a path, a URL of ``SCHEMES``, or ``/dev/video0``.
        every: give every n-th frame.

    Raises:
        InputError: it cannot be opened or holds no video.
        MissingPackage: PyAV is not installed.
    """

    def __init__(
        self, location: str, camera: bool = False, every: int = 1, reconnects: int = 5
    ) -> None:
        self._av = import_av()
        self._location, self._camera = location, camera
        self.shown = without_password(location)
        self._every, self._reconnects = every, reconnects
        self._closed = Event()
        self._damaged = self._reconnected = self._tries = 0
        self._cut_short = ""
        self.fault: InputError | None = None
        self._scheme = location.partition("://")[0].lower() if "://" in location else ""
        self.live = camera or self._scheme in LIVE
        self._open()
        self.total = None if self.live else self._estimated()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that can be decoded."""
        try:
            yield from self._frames()
        finally:
            self._container.close()

    def _frames(self) -> Iterator[Frame]:
        number, clock = 0, _Clock(self._stream, self.live)
        while not self._closed.is_set():
            reason = "it ended"
            try:
                for decoded in self._decoded():
                    if self._closed.is_set():
                        return
                    self._tries = 0
                    seconds = clock.seconds(decoded)
                    if number % self._every == 0:
                        yield self._frame(number, seconds, decoded)
                    number += 1
            except (self._av.FFmpegError, OSError) as error:
                reason = reason_of(error)
                if not self.live:
                    self._broke_off(clock.last, reason)
                    break
            if not self.live:
                self._check_duration(clock.last)
                break
            if not self._reopened(reason):
                break

    def notes(self) -> list[str]:
        notes = [self._cut_short] if self._cut_short else []
        if self._damaged:
            notes.append(f"damaged packets left out: {self._damaged}")
        if self._reconnected:
            notes.append(f"times reconnected: {self._reconnected}")
        return notes

    def close(self) -> None:
        self._closed.set()

    def _open(self) -> None:
        try:
            self._container = self._av.open(
                self._location,
                format="v4l2" if self._camera else None,
                options={"rtsp_flags": "prefer_tcp"},
                timeout=(TIMEOUT_S, TIMEOUT_S),
                metadata_errors="replace",
            )
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise self._unusable(f"cannot be opened ({reason_of(error)})") from error
        streams = self._container.streams.video
        if self._container.format.name in _PICTURE_OF_TEXT or not streams:
            self._container.close()
            raise self._unusable("has no video stream")
        self._stream = streams[0]
        if self._scheme and self._container.duration is None:
            self.live = True
        # Frame threads would keep a live frame back for each thread.
        self._stream.thread_type = "SLICE" if self.live else "AUTO"

    def _unusable(self, why: str) -> InputError:
        if self._camera:
            fix = "list the cameras with: ls /dev/video*"
            return InputError(f"the camera {self.shown} {why}", "a camera of V4L2", fix)
        expected = "a stream of video at an address that answers" if self._scheme else "a video"
        return InputError(f"{self.shown!r} {why}", expected, "check it with: ffprobe")

    def _decoded(self) -> Iterator[Any]:
        """Yield decoded frames; packets that cannot be decoded are counted."""
        for packet in self._container.demux(self._stream):
            try:
                yield from packet.decode()
            except self._av.FFmpegError:
                self._damaged += 1

    def _frame(self, number: int, seconds: Fraction, decoded: Any) -> Frame:
        turn = display_matrix(decoded)
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        if turn and turn[0] == 0:
            aspect = 1 / aspect
        return Frame(number, f"{number:06}.jpg", seconds, partial(self._rgb, decoded, turn), aspect)

    def _rgb(self, decoded: Any, turn: tuple[int, ...]) -> Uint8Array:
        try:
            image: Uint8Array = decoded.to_ndarray(format="rgb24")
        except (self._av.FFmpegError, ValueError) as error:
            given = f"{self.shown!r} has frames of {decoded.format.name} ({reason_of(error)})"
            raise InputError(given, "a format that FFmpeg turns into RGB") from error
        return turned(image, turn)

    def _estimated(self) -> int | None:
        stream, rate = self._stream, self._stream.average_rate
        count = stream.frames
        if not count and rate and self._container.duration:
            count = round(self._container.duration / self._av.time_base * rate)
        return -(-count // self._every) if count else None

    def _broke_off(self, last: Fraction, reason: str) -> None:
        when = f"after {float(last):.1f} s" if last >= 0 else "before its first frame"
        given = f"{self.shown!r} broke off {when} ({reason})"
        self.fault = InputError(given, "a whole video", "copy it again")

    def _check_duration(self, last: Fraction) -> None:
        duration = (self._container.duration or 0) / self._av.time_base
        if last >= 0 and float(last) + 1 < CUT_SHORT * duration:
            ends = f"its frames end after {float(last):.1f} s of {duration:.1f} s"
            self._cut_short = f"{self.shown} seems to be cut short: {ends}"

    def _reopened(self, reason: str) -> bool:
        """Try to open a lost stream again; False, and a fault, where that failed too often."""
        self._container.close()
        while self._tries < self._reconnects:
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._tries)
            self._tries += 1
            if self._closed.wait(wait):
                return False
            try:
                self._open()
            except InputError:
                continue
            self._reconnected += 1
            return True
        tried = f"{self._tries} attempt{'s' if self._tries != 1 else ''} to reconnect failed"
        given = f"{self.shown!r} was lost ({reason}), and {tried}"
        self.fault = InputError(given, "a stream that goes on", "see that it is sent")
        return False


class _Clock:
    """When each frame is to be shown, from 0 and always later than the one before.

    Of a file, that is what its frames say; of a live source, when they came.
    """

    def __init__(self, stream: Any, live: bool) -> None:
        self._live = live
        rate = stream.average_rate or stream.base_rate or DEFAULT_RATE
        self._step = 1 / Fraction(rate)
        self._start: Fraction | None = None
        self.last = Fraction(-1)

    def seconds(self, decoded: Any) -> Fraction:
        found = self._said(decoded)
        if self._start is None:
            self._start = found if found is not None else Fraction(0)
        after = self.last + self._step if self.last >= 0 else Fraction(0)
        seconds = after if found is None else found - self._start
        self.last = seconds if seconds > self.last else after
        return self.last

    def _said(self, decoded: Any) -> Fraction | None:
        if self._live:
            return Fraction(time.monotonic_ns() // 1_000_000, 1000)
        if decoded.pts is None or not decoded.time_base:
            return None
        return Fraction(decoded.pts) * Fraction(decoded.time_base)


def display_matrix(decoded: Any) -> tuple[int, ...]:
    """The turn that a frame asks for as (a, b, c, d), each -1, 0 or 1; () for none.

    A pixel at (x, y) is shown at (a x + c y, b x + d y), up to a shift: the upper left of the
    display matrix (libavutil/display.h), which holds numbers of 16.16 bits. An angle that is no
    multiple of 90° is left out.
    """
    from av.sidedata.sidedata import Type

    data = decoded.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return ()
    matrix = np.frombuffer(bytes(data), "<i4")
    a, b, c, d = (int(np.sign(v)) if abs(v) > 1 << 15 else 0 for v in matrix[[0, 1, 3, 4]])
    return (a, b, c, d) if abs(a * d - b * c) == 1 and a * b == 0 and c * d == 0 else ()


def turned(image: Uint8Array, turn: tuple[int, ...]) -> Uint8Array:
    """Turn and mirror an image (H, W, 3) as ``display_matrix`` says."""
    if not turn:
        return image
    a, b, c, d = turn
    if a == 0:
        image = image.transpose(1, 0, 2)
    if a + c < 0:
        image = image[:, ::-1]
    if b + d < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)
