"""What runs ahead keeps its order, its bounds and its errors; a live source loses old frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from dabnet.errors import InputError
from dabnet.run.ahead import Ahead
from dabnet.run.drawing import Drawing
from dabnet.run.frames import Frame, Source
from dabnet.run.pipeline import Timings, run_frames

PALETTE = ((10, 20, 30), (200, 100, 0), (0, 0, 250))


class Counted(Source):
    """Frames whose pixels all are their number; ``gate`` lets the next one come."""

    def __init__(self, count: int, live: bool = False, fault_at: int = -1) -> None:
        self.live, self.total, self.fault = live, count, None
        self.shown = "counted"
        self._fault_at = fault_at
        self.closed = threading.Event()

    def frames(self) -> Iterator[Frame]:
        for number in range(self.total):
            if number == self._fault_at:
                raise InputError("no more")
            pixels = np.full((8, 16, 3), number, np.uint8)
            yield Frame(number, str(number), Fraction(number), lambda p=pixels: p)

    def close(self) -> None:
        self.closed.set()


class Thirds:
    """A network of three images per call: class is the image's number modulo 3."""

    size, batch = (4, 8), 3

    def __init__(self) -> None:
        self.calls = 0

    def masks(self, images: np.ndarray) -> np.ndarray:
        assert images.shape == (3, 4, 8, 3)
        self.calls += 1
        return images[..., 0] % 3


def run(source: Source, most: int | None = None) -> tuple[list[Frame], list[Image.Image], Timings]:
    frames, pictures = [], []
    timings = Timings(np.zeros(3, np.int64))

    def write(frame: Frame, drawn: Image.Image) -> None:
        frames.append(frame)
        pictures.append(drawn)

    drawing = Drawing(("a", "b", "c"), PALETTE, "indices")
    run_frames(source, Thirds(), drawing, write, lambda: True, timings, most)
    return frames, pictures, timings


def test_each_frame_gets_its_own_mask_also_in_batches() -> None:
    frames, pictures, timings = run(Counted(7))
    assert [frame.number for frame in frames] == list(range(7))
    assert [np.asarray(p)[0, 0] for p in pictures] == [0, 1, 2, 0, 1, 2, 0]
    assert pictures[0].size == (16, 8)
    assert list(timings.pixels) == [3 * 32, 2 * 32, 2 * 32]
    assert (timings.frames, timings.dropped, len(timings.infer)) == (7, 0, 3)
    assert len(timings.latency) == len(timings.draw) == 7
    assert min(timings.latency) > 0


def test_it_ends_after_so_many_frames_and_closes_the_source() -> None:
    source = Counted(100)
    frames, _, timings = run(source, most=4)
    assert (len(frames), timings.frames) == (4, 4)
    assert source.closed.is_set()


def test_the_rate_ends_with_the_last_frame() -> None:
    """A lost stream is waited for, and a camera closed, after it."""
    drawn = threading.Event()

    class Lingering(Counted):
        def frames(self) -> Iterator[Frame]:
            yield from super().frames()
            drawn.wait(30)
            time.sleep(0.5)

    timings = Timings(np.zeros(3, np.int64))
    drawing = Drawing(("a", "b", "c"), PALETTE)
    start = time.perf_counter()
    run_frames(
        *(Lingering(3), Thirds(), drawing),
        *(lambda frame, _: drawn.set() if frame.number == 2 else None, lambda: True, timings),
    )
    assert 0 < timings.total < time.perf_counter() - start - 0.25


def test_an_error_of_the_source_comes_after_its_frames() -> None:
    frames: list[Frame] = []
    timings = Timings(np.zeros(3, np.int64))
    drawing = Drawing(("a", "b", "c"), PALETTE)
    with pytest.raises(InputError, match="no more"):
        run_frames(
            *(Counted(9, fault_at=6), Thirds(), drawing),
            *(lambda frame, _: frames.append(frame), lambda: True, timings),
        )
    assert len(frames) == 6


def test_what_may_wait_is_bounded() -> None:
    given: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            given.append(number)
            yield number

    ahead = Ahead(items(), room=2)
    deadline = time.monotonic() + 10
    while len(given) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert ahead.take() == 0
    assert len(given) <= 4
    assert list(ahead) == list(range(1, 50))
    ahead.close()


def test_old_items_give_way_and_are_counted() -> None:
    """The newest is what is taken, and nothing is lost without a count."""
    taken = threading.Semaphore(0)
    all_given = threading.Event()

    def items() -> Iterator[int]:
        yield from range(10)
        all_given.set()
        taken.acquire()
        yield from range(10, 15)

    newest = Ahead(items(), drops=True)
    assert all_given.wait(10)
    assert newest.take() == 9
    taken.release()
    rest = list(newest)
    assert rest[-1] == 14
    assert newest.dropped == 15 - 1 - len(rest)
    newest.close()


def test_nothing_waits_for_a_source_that_is_stuck() -> None:
    stuck = threading.Event()

    def items() -> Iterator[int]:
        stuck.wait(30)
        yield 1

    ahead = Ahead(items())
    assert ahead.take(0.01) is None
    ahead.close(0.01)
    with pytest.raises(StopIteration):
        ahead.take()
    stuck.set()


def test_a_value_of_no_class_is_drawn_grey() -> None:
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    frame = np.full((4, 4, 3), (100, 0, 0), np.uint8)
    drawn = np.asarray(Drawing(("a", "b", "c"), PALETTE).draw(frame, mask))
    wanted = np.array([*(0.6 * np.array(PALETTE) + 0.4 * frame[0, 0]), [29.9] * 3])
    assert np.abs(drawn - wanted.reshape(2, 2, 3).repeat(2, 0).repeat(2, 1)).max() <= 1
