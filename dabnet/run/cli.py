"""The command ``dabnet-run``."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dabnet import __version__
from dabnet.command_help import Command, under
from dabnet.console import (
    CONTEXT,
    FILE,
    MOST_THREADS,
    FileName,
    Finite,
    Size,
    device_option,
    progress_columns,
    refuse_typed,
    run,
    say,
    trust_option,
)
from dabnet.device import AUTO
from dabnet.errors import InputError
from dabnet.given_options import GIVEN, OF_CHECKPOINTS, description_of, given_of, source_options
from dabnet.interrupt import EXIT_INTERRUPTED, stop_on_signal
from dabnet.run import OVERLAY, WRITTEN

if TYPE_CHECKING:
    from PIL import Image

    from dabnet.run.drawing import Drawing
    from dabnet.run.frames import Frame, Source
    from dabnet.run.outputs import Output, Write
    from dabnet.run.pipeline import Timings
    from dabnet.run.segmenter import Segmenter
    from dabnet.run.sources import Asked
    from dabnet.run.window import Window

MOST_FRAMES = 1_000_000_000
MOST_FPS = 1000
MOST_RECONNECTS = 1_000_000


class SourceName(FileName):
    """A path, the number of a camera, or a URL."""

    name = "source"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value if "://" in value else os.fspath(super().convert(value, param, ctx))


@click.command(cls=Command, context_settings=CONTEXT)
@click.argument("artifact", metavar="ARTIFACT", type=FILE)
@click.argument("source", metavar="SOURCE", type=SourceName())
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE",
    help="Video, animation, or folder of pictures.",
    show_default="a window, or a name after SOURCE",
)
@click.option("--window", is_flag=True, help="Show the overlay also where it is written.")
@click.option(
    "--write",
    type=click.Choice(WRITTEN),
    default=OVERLAY,
    show_default=True,
    help="Colours over the frames, or PNGs of class indices or Cityscapes ids",
)
@click.option("--max-frames", type=click.IntRange(1, MOST_FRAMES), help="End after N frames.")
@click.option(
    "--every", type=click.IntRange(1, MOST_FRAMES), default=1, help="Take each N-th frame."
)
@click.option(
    "--size",
    type=Size(),
    help="Of the network.",
    show_default="the artifact's, or 512x1024",
)
@device_option("a GPU for engines, else the CPU")
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), help="CPU threads of inference.")
@trust_option
@click.version_option(__version__)
@under(
    "Source and colours",
    click.option("--class-map", type=FILE, help="Colours, a line 'R G B name' each."),
    click.option(
        "--min-confidence",
        "least",
        type=Finite(0, 1, min_open=True),
        help="Grey below this probability of the class.",
    ),
    click.option(
        "--fps",
        type=Finite(0.01, MOST_FPS),
        default=10.0,
        show_default=True,
        help="Frame rate of a folder or toy-street, in a video.",
    ),
    click.option(
        "--reconnect",
        "reconnects",
        type=click.IntRange(0, MOST_RECONNECTS),
        default=5,
        show_default=True,
        help="Attempts in a row at a lost stream.",
    ),
)
@source_options
def run_command(
    artifact: Path,
    source: str,
    output: Path | None,
    window: bool,
    write: str,
    every: int,
    max_frames: int | None,
    class_map: Path | None,
    least: float | None,
    fps: float,
    reconnects: int,
    size: tuple[int, int] | None,
    device: str,
    threads: int | None,
    trust: bool,
    **values: Any,
) -> int:
    """Run ARTIFACT on SOURCE and draw the classes over each frame.

    ARTIFACT is an ONNX file, an engine or a checkpoint. SOURCE is an image, a folder of images, a
    video, the number of a camera, a URL (rtsp://, http://, …), or toy-street: a drawn drive.

    Exit code: 0; 2 for bad input, or a source that broke off; 130 after Ctrl-C. What was written
    until then is whole.
    """
    from dabnet.artifact import CHECKPOINT, ENGINE, Artifact
    from dabnet.run.drawing import Drawing, read_class_map
    from dabnet.run.outputs import Output, default_output
    from dabnet.run.segmenter import Segmenter
    from dabnet.run.sources import IMAGES, look_at, open_source

    asked = look_at(source)
    opened = Artifact.open(artifact)
    if opened.kind != CHECKPOINT:
        expected, fix = "a public checkpoint", "leave them out"
        refuse_typed(OF_CHECKPOINTS, "an ONNX file or an engine", expected, fix)
    if opened.kind == ENGINE:
        refuse_typed(["threads"], "an engine", "an ONNX file or a checkpoint", "leave it out")
    shown = _window(source, write, output, window)
    place = None
    if output is not None or shown is None:
        read = (*opened.files, *([class_map] if class_map else []))
        path = output or default_output(asked, write)
        asked = asked.outside(path)
        place = Output(path, asked, write, read)
    _refuse_unused(asked, write, place)
    given = given_of(values)
    chosen = None if device == AUTO else device
    description = None if opened.kind == CHECKPOINT else description_of(size, given)
    segmenter = Segmenter(artifact, given, description, size, chosen, threads, trust, least)
    try:
        if not segmenter.is_described:
            what, fix = "an artifact that carries its description", "leave them out"
            refuse_typed(GIVEN, what, "a file without a manifest", fix)
        palette = segmenter.palette
        if class_map is not None:
            palette = read_class_map(class_map, segmenter.classes, palette)
        drawing = Drawing(segmenter.classes, palette, write)
        frames = open_source(asked, segmenter.size, fps, every, reconnects)
        status = _run(frames, segmenter, drawing, place, shown, max_frames)
        if asked.kind == IMAGES and shown is not None:
            shown.wait()  # else a single image would be gone at once
        return status
    finally:
        segmenter.close()
        if shown is not None:
            shown.destroy()


def _refuse_unused(asked: Asked, write: str, place: Output | None) -> None:
    """Raise for options that have no effect on this source or this output."""
    from dabnet.run.sources import CAMERA, DRIVE, IMAGES, STREAM

    fix = "leave it out"
    if asked.kind not in (IMAGES, DRIVE):
        refuse_typed(["fps"], f"a {asked.kind}", "images, which have no times of their own", fix)
    elif place is None or not place.timed:
        refuse_typed(["fps"], "frames that nothing times", "a video or an animation", fix)
    if asked.kind not in (CAMERA, STREAM):
        refuse_typed(["reconnects"], repr(asked.location), "a camera or a stream", fix)
    if write != OVERLAY:
        refuse_typed(["class_map"], f"--write {write}", "an overlay, which has colours", fix)


def _window(source: str, write: str, output: Path | None, asked: bool) -> Window | None:
    from dabnet.run.video import without_password
    from dabnet.run.window import open_window

    if write != OVERLAY and asked:
        raise InputError(f"--window with --write {write}", f"--write {OVERLAY}")
    if not asked and (output is not None or write != OVERLAY):
        return None
    shown = without_password(source).partition("?")[0].rpartition("/")[2]
    opened = open_window(f"dabnet-run {shown}")
    if opened is None and asked:
        fix = "set DISPLAY, install python3-tk, or leave --window out"
        raise InputError("--window without a display", "a display and tkinter", fix)
    return opened


def _run(
    source: Source,
    segmenter: Segmenter,
    drawing: Drawing,
    place: Output | None,
    window: Window | None,
    most: int | None,
) -> int:
    import numpy as np

    from dabnet.run.pipeline import Timings, run_frames

    limits = [limit for limit in (most, place.most if place else None) if limit is not None]
    last = min(limits, default=None)
    timings = Timings(np.zeros(len(segmenter.classes), np.int64))
    # Also a terminal that is closed ends a recording, unless nohup has it go on.
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    signals = [number for number in ending if signal.getsignal(number) != signal.SIG_IGN]
    opened: AbstractContextManager[Write | None] = place.open() if place else nullcontext()
    with stop_on_signal(*signals) as stop, opened as write:

        def goes_on() -> bool:
            if window is not None:
                window.poll()
            return not stop.asked and not (window is not None and window.closed)

        with progress_columns("frames") as bar:
            total = min((n for n in (source.total, last) if n is not None), default=None)
            task = bar.add_task("running", total=total, text="")
            began = time.perf_counter()

            def take(frame: Frame, drawn: Image.Image) -> None:
                if write is not None:
                    write(frame, drawn)
                if window is not None:
                    window.show(drawn)
                rate = (timings.frames + 1) / (time.perf_counter() - began)
                bar.update(task, advance=1, text=f"{rate:.1f} FPS")

            run_frames(source, segmenter, drawing, take, goes_on, timings, last)
        if not timings.frames:
            if stop.asked or (window is not None and window.closed):
                raise KeyboardInterrupt
            given = f"{source.shown!r} has no frame that can be decoded"
            raise source.fault or InputError(given, "a video")
    _report(source, segmenter, drawing, timings)
    return _ending(source, place, timings, most, stop.asked)


def _ending(
    source: Source, place: Output | None, timings: Timings, most: int | None, stopped: bool
) -> int:
    """Tell what was written, and how it ended; return the exit code, or raise the fault."""
    if place is not None:
        say(f"wrote {place.path}")
    for note in source.notes():
        say(f"warning: {note}", err=True)
    if place is not None and timings.frames == place.most and _is_cut(source, timings.frames, most):
        say(f"warning: an animation ends after {place.most} frames", err=True)
    if source.fault is not None:
        raise source.fault
    if stopped:
        say("interrupted", err=True)
        return EXIT_INTERRUPTED
    return 0


def _is_cut(source: Source, held: int, asked: int | None) -> bool:
    """Whether a full output, of ``held`` frames, may lack some that were asked for."""
    return all(wanted is None or wanted > held for wanted in (source.total, asked))


def _report(source: Source, segmenter: Segmenter, drawing: Drawing, timings: Timings) -> None:
    """Print what ran, the legend, and what was timed."""
    info, sides = segmenter.info, "{}x{}".format(*segmenter.size)
    say(f"{info.backend} {info.version} on {info.device}, {info.precision}")
    seen = max(1, int(timings.pixels.sum()) + timings.grey)
    for name, colour, pixels in zip(
        segmenter.classes, drawing.palette, timings.pixels, strict=True
    ):
        say(f"  #{bytes(colour).hex()}  {100 * pixels / seen:5.1f} %  {name}")
    if timings.grey:
        say(f"  {drawing.none:>7}  {100 * timings.grey / seen:5.1f} %  too little confidence")
    frames = f"{timings.frames} frame" + ("" if timings.frames == 1 else "s")
    rate = timings.frames / timings.total
    say(f"{frames} in {timings.total:.2f} s: {rate:.1f} FPS; {timings.dropped} dropped")
    from_when = "its arrival" if source.live else "its decoding"
    p50, p95 = (_percentile(timings.latency, share) for share in (0.50, 0.95))
    say(f"latency of a frame, from {from_when} to its overlay: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    steps = {
        "convert and resize": timings.convert,
        f"infer {segmenter.batch}x{sides}": timings.infer,
        "draw": timings.draw,
        "write or show": timings.write,
    }
    medians = (f"{name} {1e3 * statistics.median(times):.1f}" for name, times in steps.items())
    say("median ms of the steps, which overlap: " + ", ".join(medians))


def _percentile(seconds: Any, share: float) -> float:
    """In milliseconds."""
    import numpy as np

    return 1e3 * float(np.percentile(np.asarray(seconds), 100 * share))


def main() -> None:
    """Entry point of ``dabnet-run``."""
    from dabnet.run.ahead import is_left

    try:
        run(run_command)
    except SystemExit as stop:
        if not is_left():
            raise
        # Python would end a thread that waits within a library, which aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code if isinstance(stop.code, int) else 1)
