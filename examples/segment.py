"""Segment images, an animated GIF or a video with an exported artifact, and report its speed.

    python segment.py model.onnx photos/ overlays/
    python segment.py model.onnx photos/ masks/ --write indices
    python segment.py model.engine drive.mp4 overlay.mp4

The deployment itself is three lines: ``open_artifact``, ``predict``, ``close``. A file of another
tool, such as an engine of trtexec, is described: --dataset cityscapes, or --classes FILE.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from PIL import Image, ImageSequence

from dabnet.artifact import describe, open_artifact, predict
from dabnet.data.cityscapes import CITYSCAPES, CITYSCAPES_ID_TO_TRAIN_ID
from dabnet.data.image_files import SUFFIXES, is_image, read_image
from dabnet.errors import BackendUnavailable, DabnetError, InputError
from dabnet.files import existing_file, replacing, writable_directory, writable_target
from dabnet.outputs import MARK, PICTURE
from dabnet.pictures import save_picture

OVERLAY, INDICES, LABEL_IDS = "overlay", "indices", "label-ids"
"""What is written: classes over the frame, class indices, or the ids of Cityscapes."""
BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")


class Segmenter:
    """Draws the classes of each frame over it, or gives its mask, and times the inference."""

    def __init__(self, options: argparse.Namespace) -> None:
        names = ("dataset", "classes", "size", "mean", "scale")
        given = {name: getattr(options, name) for name in names}
        described = describe(**given) if any(given.values()) else None
        runs = {"threads": options.threads, "description": described, "trust": options.trust}
        self.runner = open_artifact(options.artifact, options.device, **runs)
        self.manifest = self.runner.manifest
        self.batch = max(1, self.manifest.input.shape[0])  # -1 is any: one frame at a time
        self.size = self.manifest.size  # if each call chooses its own: that of the example
        self.palette = np.array(self.manifest.palette, np.uint8)
        self.write = options.write
        self.values = np.arange(len(self.palette), dtype=np.uint8)
        if self.write == LABEL_IDS:
            self.values = label_ids(self.manifest.classes)
        self.pixels = np.zeros(len(self.palette), np.int64)
        self.frames = 0
        self.milliseconds: list[float] = []
        predict(self.runner, np.zeros((self.batch, *self.size, 3), np.uint8))  # not counted

    def pictures(self, frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
        """Yield what is written of each frame, at its own size."""
        waiting, (height, width) = iter(frames), self.size
        while group := list(islice(waiting, self.batch)):
            small = [np.asarray(f.resize((width, height), BILINEAR)) for f in group]
            small += small[-1:] * (self.batch - len(small))  # fills the last batch
            images = np.stack(small)
            start = time.perf_counter()
            masks = predict(self.runner, images)
            self.milliseconds.append(1e3 * (time.perf_counter() - start))
            for frame, mask in zip(group, masks, strict=False):
                self.frames += 1
                self.pixels += np.bincount(mask.ravel(), minlength=len(self.palette))
                large = np.asarray(Image.fromarray(mask).resize(frame.size, NEAREST))
                if self.write == OVERLAY:
                    yield Image.blend(frame, Image.fromarray(self.palette[large]), 0.5)
                else:
                    yield Image.fromarray(self.values[large])

    def report(self, seconds: float) -> None:
        """Print the legend, and what was timed."""
        info, shares = self.runner.info, 100 * self.pixels / self.pixels.sum()
        print(f"{info.backend} {info.version} on {info.device}, {info.precision}")
        for name, colour, share in zip(self.manifest.classes, self.palette, shares, strict=True):
            print(f"  #{bytes(colour).hex()}  {share:5.1f} %  {name}")
        median, size = statistics.median(self.milliseconds), "{}x{}".format(*self.size)
        alone, whole = 1e3 * self.batch / median, self.frames / seconds
        print(f"inference: {alone:.1f} FPS; median {median:.2f} ms for {self.batch} of {size}")
        print("  from host memory to host memory, the first call not counted")
        print(f"end to end: {whole:.1f} FPS; {self.frames} frames read, drawn and written")


def label_ids(classes: tuple[str, ...]) -> np.ndarray:
    """The id of each class that the Cityscapes server takes, uint8 (K,)."""
    if classes != CITYSCAPES.classes:
        given = f"--write {LABEL_IDS} for {len(classes)} classes ({classes[0]}, …)"
        raise InputError(given, "an artifact of Cityscapes' 19 classes", f"use --write {INDICES}")
    return np.array([CITYSCAPES_ID_TO_TRAIN_ID.index(k) for k in range(len(classes))], np.uint8)


def read_animation(path: Path) -> list[Image.Image]:
    """The frames of a GIF as RGB."""
    try:
        with Image.open(path, formats=("GIF",)) as image:
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    except (OSError, SyntaxError) as error:
        raise InputError(
            f"{str(path)!r} is not a complete GIF ({error})", "an animation"
        ) from error


def segment_images(segmenter: Segmenter, sources: list[Path], targets: list[Path]) -> None:
    pictures = segmenter.pictures(Image.fromarray(read_image(path)) for path in sources)
    for picture, target in zip(pictures, targets, strict=True):
        writable_directory(target.parent)
        with replacing(target) as temporary:
            save_picture(picture, temporary, quality=92)


def segment_animation(segmenter: Segmenter, source: Path, target: Path) -> None:
    frames = read_animation(source)
    times = [frame.info.get("duration", 100) for frame in frames]
    first, *others = segmenter.pictures(frames)
    with replacing(target) as temporary:
        times = {"duration": times, "loop": 0}
        save_picture(first, temporary, save_all=True, append_images=others, **times)


@contextmanager
def ffmpeg(path: Path, *arguments: str, **pipes: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run ffmpeg during the block; raise ``InputError`` with its last line if it failed."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", *arguments]
    with TemporaryFile() as said:
        # In a session of its own it does not get the terminal's Ctrl-C.
        process = subprocess.Popen(command, stderr=said, start_new_session=True, **pipes)
        try:
            with suppress(BrokenPipeError):  # it failed; its reason is read below
                yield process
            if process.wait():
                said.seek(0)
                reason = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise InputError(f"ffmpeg failed on {str(path)!r} ({reason})", "a video")
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.communicate()  # closes its pipes


def read_video(path: Path) -> Iterator[Image.Image]:
    """Yield the frames, as PPM, which holds the size of each after any rotation."""
    arguments = ("-i", str(path), "-f", "image2pipe", "-c:v", "ppm", "-")
    with ffmpeg(path, *arguments, stdout=subprocess.PIPE) as process:
        while process.stdout.readline():  # P6
            width, height = map(int, process.stdout.readline().split())
            process.stdout.readline()  # 255
            yield Image.frombytes("RGB", (width, height), process.stdout.read(3 * width * height))


def segment_video(segmenter: Segmenter, source: Path, target: Path) -> None:
    if shutil.which("ffmpeg") is None:
        raise BackendUnavailable("a video needs the program ffmpeg", fix="install it, or use a GIF")
    overlays = segmenter.pictures(read_video(source))
    if (first := next(overlays, None)) is None:
        raise InputError(f"{str(source)!r} has no frames", "a video")
    about = subprocess.run(["ffmpeg", "-i", str(source)], capture_output=True, check=False).stderr
    found = re.search(rb"Video:.* (\d+(?:\.\d+)?) (?:fps|tbr)", about)
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "{}x{}".format(*first.size))
    rate = ("-r", found[1].decode() if found else "25", "-i", "-")
    even = ("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p")  # which needs that
    with replacing(target) as temporary:
        marked = ("-metadata", f"comment={MARK}")
        arguments = (*raw, *rate, *even, *marked, "-y", str(temporary))
        with ffmpeg(target, *arguments, stdin=subprocess.PIPE) as process:
            for overlay in chain([first], overlays):
                process.stdin.write(overlay.tobytes())
            process.stdin.close()


def segment(segmenter: Segmenter, source: Path, target: Path) -> None:
    if source.is_dir():
        within = writable_directory(target).resolve()  # its pictures are no frames
        found = (p for p in source.rglob("*") if is_image(p))
        paths = sorted(path for path in found if within not in path.resolve().parents)
        if not paths:
            raise InputError(f"no images in {str(source)!r}", ", ".join(SUFFIXES))
        targets = [target / path.relative_to(source) for path in paths]
        if segmenter.write != OVERLAY:
            targets = [path.with_suffix(".png") for path in targets]
        if twice := [path for path, times in Counter(targets).items() if times > 1]:
            given = f"two images for {str(twice[0])!r}"
            raise InputError(given, "one name for each mask", "rename one of them")
        for path in filter(os.path.lexists, targets):
            writable_target(path, *paths, kind=PICTURE)
        return segment_images(segmenter, paths, targets)
    existing_file(source, "an image, a folder of images, an animated GIF or a video")
    writable_target(target, source, kind=PICTURE)
    pair = {source.suffix.lower(), target.suffix.lower()}
    if segmenter.write != OVERLAY and (target.suffix.lower() != ".png" or source.suffix in VIDEOS):
        given = f"--write {segmenter.write} to {str(target)!r}"
        raise InputError(given, "a .png of one image, or a folder of images")
    if pair <= set(SUFFIXES):
        return segment_images(segmenter, [source], [target])
    if pair <= set(VIDEOS):
        return segment_video(segmenter, source, target)
    if pair == {".gif"}:
        return segment_animation(segmenter, source, target)
    kinds = f"two images ({', '.join(SUFFIXES)}), two .gif or two videos ({', '.join(VIDEOS)})"
    raise InputError(f"{str(source)!r} to {str(target)!r}", kinds)


def sides(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def channels(text: str) -> tuple[float, float, float]:
    red, green, blue = map(float, text.split(","))
    return red, green, blue


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifact", help="a file .onnx or an engine")
    parser.add_argument("input", type=Path, help="an image, a folder of images, a GIF or a video")
    parser.add_argument("output", type=Path, help="the same kind: a file, or a folder for a folder")
    parser.add_argument(
        "--write",
        choices=(OVERLAY, INDICES, LABEL_IDS),
        default=OVERLAY,
        help="the classes over each frame, or a PNG of class indices, or of Cityscapes' label ids",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default cpu for an ONNX file")
    parser.add_argument("--threads", type=int, help="CPU threads of onnxruntime")
    foreign = parser.add_argument_group("a file that dabnet-export did not write")
    foreign.add_argument("--dataset", help="its classes and published preprocessing: cityscapes, …")
    foreign.add_argument(
        "--classes", help="or a file of classes, a line 'name' or 'R G B name' each"
    )
    foreign.add_argument("--size", type=sides, help="HxW, if each call may choose")
    foreign.add_argument("--mean", type=channels, help="R,G,B to subtract, if it takes floats")
    foreign.add_argument("--trust", action="store_true", help="load an engine, which is a program")
    foreign.add_argument("--scale", type=channels, help="R,G,B to multiply with; default 1,1,1")
    options = parser.parse_args()
    try:
        segmenter = Segmenter(options)
        with closing(segmenter.runner):
            start = time.perf_counter()
            segment(segmenter, options.input, options.output)
            segmenter.report(time.perf_counter() - start)
    except DabnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; finished files are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
