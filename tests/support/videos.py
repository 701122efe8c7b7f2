"""Videos that PyAV writes of drawn streets, and what their frames are."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from dabnet.data.toy_street import draw_scene

SIZE = (66, 132)
"""(height, width) of the frames."""

Image = NDArray[np.uint8]


def scenes(count: int, size: tuple[int, int] = SIZE) -> list[Image]:
    """Drawn streets, uint8 (H, W, 3), RGB."""
    return [draw_scene((5, i), size)[0] for i in range(count)]


def write_video(
    path: Path,
    images: Sequence[NDArray[Any]],
    codec: str = "ffv1",
    stored: str = "bgr0",
    given: str = "rgb24",
    times: Sequence[int] | None = None,
    tick: Fraction = Fraction(1, 20),
    **container: Any,
) -> Path:
    """Write images whose pixels are ``given``, as ``stored`` (both of FFmpeg's pixel formats).

    ``times`` are in ticks, by default one after the other.
    """
    height, width = images[0].shape[:2]
    with av.open(str(path), "w", **container) as file:
        stream = file.add_stream(codec, rate=1 / tick)
        stream.width, stream.height, stream.pix_fmt = width, height, stored
        stream.codec_context.time_base = stream.time_base = tick
        for image, time in zip(images, times or range(len(images)), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=given)
            frame.pts, frame.time_base = time, tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def read_video(path: Path) -> list[tuple[float, Image]]:
    """The frames of a video: when they are shown, in seconds, and their pixels."""
    with av.open(str(path)) as file:
        return [(f.time, f.to_ndarray(format="rgb24")) for f in file.decode(video=0)]


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Ask for a turn in the header of a track of an MP4 file (ISO/IEC 14496-12, ``tkhd``)."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes
    one = 1 << 16
    content[at : at + 36] = struct.pack(
        ">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30
    )
    path.write_bytes(content)
    return path


class Sender:
    """A TCP server that sends a video to each of its first callers, and closes.

    Args:
        holds: whether it keeps the connection of the last caller, until ``join``.
    """

    def __init__(self, content: bytes, callers: int = 1, holds: bool = False) -> None:
        self._content, self._callers = content, callers
        self._leaving = threading.Event()
        if not holds:
            self._leaving.set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for number in range(self._callers):
            called, _ = self._listening.accept()
            with called:
                called.sendall(self._content)
                if number == self._callers - 1:
                    self._leaving.wait(60)
        self._listening.close()

    def join(self) -> None:
        self._leaving.set()
        self._thread.join(10)
