"""Decoding, inference and drawing at the same time, and what is timed of them.

A file: one thread decodes, converts and resizes, one infers, the main thread draws and writes; at
most one frame (or one batch) waits between two of them. A live source: one thread decodes, and of
the frames that wait for the next one it keeps the newest alone.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dabnet.data.dataset import Uint8Array
from dabnet.data.images import resize_image
from dabnet.run.ahead import POLL_S, Ahead
from dabnet.run.drawing import Drawing
from dabnet.run.frames import Frame, Source
from dabnet.run.segmenter import Segmenter

END_S = 2.0
"""How long to wait for a source that is closed; it may be waiting for a network."""


@dataclass(slots=True)
class Timings:
    """What was timed, in seconds; four bytes each, for runs of days.

    Attributes:
        frames: that were drawn.
        total: from the start of the first thread until the last frame was written.
        latency: of each frame, from its decoding to its overlay.
        convert: of each frame to RGB, and to the size of the network.
        infer: of each call, from host memory to host memory.
        draw, write: of each frame.
        pixels: of each class in all masks.
        grey: pixels of no class.
    """

    pixels: NDArray[np.int64]
    grey: int = 0
    frames: int = 0
    dropped: int = 0
    total: float = 0.0
    latency: array[float] = field(default_factory=lambda: array("f"))
    convert: array[float] = field(default_factory=lambda: array("f"))
    infer: array[float] = field(default_factory=lambda: array("f"))
    draw: array[float] = field(default_factory=lambda: array("f"))
    write: array[float] = field(default_factory=lambda: array("f"))


@dataclass(frozen=True, slots=True)
class Ready:
    """A frame with its image, and that at the size of the network."""

    frame: Frame
    image: Uint8Array
    small: Uint8Array


def run_frames(
    source: Source,
    segmenter: Segmenter,
    drawing: Drawing,
    write: Callable[[Frame, Image.Image], None],
    goes_on: Callable[[], bool],
    timings: Timings,
    most: int | None = None,
) -> None:
    """Draw the frames of ``source`` and hand them to ``write``, in the calling thread.

    Args:
        goes_on: asked before each frame, and at least every ``POLL_S`` seconds.
        timings: is filled.
        most: end after so many frames.

    Raises:
        Exception: of any of the parts.
    """

    def converted(frames: Iterable[Frame]) -> Iterator[Ready]:
        for frame in frames:
            start = time.perf_counter()
            image = frame.pixels()
            small = resize_image(image, segmenter.size)
            timings.convert.append(time.perf_counter() - start)
            yield Ready(frame, image, small)

    def inferred(frames: Iterable[Ready]) -> Iterator[tuple[Ready, Uint8Array]]:
        waiting = iter(frames)
        while group := list(islice(waiting, segmenter.batch)):
            images = [ready.small for ready in group]
            images += images[-1:] * (segmenter.batch - len(images))  # fills the last batch
            batch = np.stack(images)
            start = time.perf_counter()
            masks = segmenter.masks(batch)
            timings.infer.append(time.perf_counter() - start)
            yield from zip(group, masks, strict=False)

    start = time.perf_counter()
    given = source.frames()
    first: Ahead[Frame] | Ahead[Ready]
    if source.live:
        first = newest = Ahead(given, drops=True)
        ready = converted(newest)
    else:
        first = ahead = Ahead(converted(given), segmenter.batch)
        ready = iter(ahead)
    found = Ahead(inferred(islice(ready, most)), segmenter.batch)
    try:
        while goes_on():
            try:
                item = found.take(POLL_S)
            except StopIteration:
                break
            if item is not None:
                _finish(*item, drawing, write, timings)
                timings.total = time.perf_counter() - start
    finally:
        timings.dropped = first.dropped
        source.close()
        first.close(END_S)
        found.close()


def _finish(
    ready: Ready,
    mask: Uint8Array,
    drawing: Drawing,
    write: Callable[[Frame, Image.Image], None],
    timings: Timings,
) -> None:
    start = time.perf_counter()
    drawn = drawing.draw(ready.image, mask)
    end = time.perf_counter()
    write(ready.frame, drawn)
    timings.write.append(time.perf_counter() - end)
    timings.draw.append(end - start)
    timings.latency.append(end - ready.frame.arrived)
    classes = len(timings.pixels)
    pixels = np.bincount(mask.ravel(), minlength=classes)
    timings.pixels += pixels[:classes]
    timings.grey += int(pixels[classes:].sum())
    timings.frames += 1
