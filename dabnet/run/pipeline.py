"""Decoding, inference and drawing at the same time, and what is timed of them.

A file: one thread decodes, converts and resizes, one infers, the main thread draws and writes; at
most one frame (or one batch) waits between two of them. A live source: one thread decodes, and of
the frames that wait for the next one it keeps the newest alone.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from threading import Condition, Thread
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dabnet.data.dataset import Uint8Array
from dabnet.data.images import resize_image
from dabnet.run.drawing import Drawing
from dabnet.run.frames import Frame, Source
from dabnet.run.network import Network

Item = TypeVar("Item")

POLL_S = 0.05
"""How long to wait for a frame before looking whether the user wants to stop."""
END_S = 2.0
"""How long to wait for a source that is closed; it may be waiting for a network."""


class Ahead(Generic[Item]):
    """Takes items in a thread of its own before they are asked for.

    Args:
        room: how many may wait.
        drops: whether an item that has waited gives way to a newer one.

    Attributes:
        dropped: how many gave way.
    """

    def __init__(self, items: Iterable[Item], room: int = 1, drops: bool = False) -> None:
        self._items, self._room, self._drops = items, room, drops
        self._changed = Condition()
        self._waiting: deque[Item] = deque()
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self.dropped = 0
        self._thread = Thread(target=self._fill, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while True:
            try:
                item = self.take()
            except StopIteration:
                return
            if item is not None:
                yield item

    def take(self, seconds: float | None = None) -> Item | None:
        """Return the next item, or None after so many seconds.

        Raises:
            StopIteration: there is none left, or it is closed.
            Exception: that of the items.
        """
        with self._changed:
            self._changed.wait_for(self._has_news, seconds)
            if self._closed:
                raise StopIteration
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            if not self._ended:
                return None
            if self._error is not None:
                raise self._error
            raise StopIteration

    def close(self, seconds: float | None = None) -> None:
        """End the thread after its present item; wait for it, at most so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _has_news(self) -> bool:
        return bool(self._waiting) or self._ended or self._closed

    def _has_room(self) -> bool:
        return len(self._waiting) < self._room or self._closed

    def _fill(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    while self._drops and len(self._waiting) >= self._room:
                        self._waiting.popleft()
                        self.dropped += 1
                    self._changed.wait_for(self._has_room)
                    if self._closed:
                        return
                    self._waiting.append(item)
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


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
    network: Network,
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
            small = resize_image(image, network.size)
            timings.convert.append(time.perf_counter() - start)
            yield Ready(frame, image, small)

    def inferred(frames: Iterable[Ready]) -> Iterator[tuple[Ready, Uint8Array]]:
        waiting = iter(frames)
        while group := list(islice(waiting, network.batch)):
            images = [ready.small for ready in group]
            images += images[-1:] * (network.batch - len(images))  # fills the last batch
            batch = np.stack(images)
            start = time.perf_counter()
            masks = network.masks(batch)
            timings.infer.append(time.perf_counter() - start)
            yield from zip(group, masks, strict=False)

    start = time.perf_counter()
    given = source.frames()
    first: Ahead[Frame] | Ahead[Ready]
    if source.live:
        first = newest = Ahead(given, drops=True)
        ready = converted(newest)
    else:
        first = ahead = Ahead(converted(given), network.batch)
        ready = iter(ahead)
    found = Ahead(inferred(islice(ready, most)), network.batch)
    try:
        while goes_on():
            try:
                item = found.take(POLL_S)
            except StopIteration:
                break
            if item is not None:
                _finish(*item, drawing, write, timings)
    finally:
        timings.dropped = first.dropped
        timings.total = time.perf_counter() - start
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
