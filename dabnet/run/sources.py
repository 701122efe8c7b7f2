"""What the user names as a source: a folder, a video, a camera, a stream, or drawn streets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from dabnet.data.dataset import Uint8Array
from dabnet.data.image_files import SUFFIXES, is_image, read_image
from dabnet.data.registry import DRAWN
from dabnet.data.toy_street import draw_drive
from dabnet.errors import InputError
from dabnet.files import existing_file
from dabnet.run.ahead import POLL_S, Ahead
from dabnet.run.frames import Frame, Source
from dabnet.run.video import SCHEMES, Video, import_av, without_password

IMAGES, VIDEO, CAMERA, STREAM, DRIVE = ("images", "video", "camera", "stream", "drive")

EXPECTED = (
    "an image, a folder of images, a video, the number of a camera, a URL (rtsp://, http://, …) or"
    f" {DRAWN}"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user named as a source, looked at but not opened.

    Attributes:
        kind: ``IMAGES`` and so on.
        location: a path, a URL, or ``/dev/video0``.
        stem: for the name of an output.
        files: the images of a folder, sorted, or the file.
    """

    kind: str
    location: str
    stem: str
    files: tuple[Path, ...] = ()

    def outside(self, output: Path) -> Asked:
        """Leave out the images in the folder of an output, which are of a run before."""
        if self.kind != IMAGES or not output.is_dir():
            return self
        within = output.resolve()
        kept = tuple(path for path in self.files if within not in path.resolve().parents)
        return replace(self, files=kept) if kept else self


def look_at(text: str) -> Asked:
    """Tell what ``text`` names.

    Raises:
        InputError: it is nothing that can be a source.
        MissingPackage: it needs PyAV, which is not installed.
    """
    path = Path(text)
    if camera := re.fullmatch(r"(?:/dev/video)?(\d{1,3})", text):
        import_av()
        return Asked(CAMERA, f"/dev/video{int(camera[1])}", f"camera{int(camera[1])}")
    if url := re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://.*", text, re.DOTALL):
        if url[1].lower() not in SCHEMES:
            given = f"the URL {without_password(text)!r}"
            raise InputError(given, "one of " + ", ".join(f"{name}://" for name in SCHEMES))
        import_av()
        return Asked(STREAM, text, "stream")
    if text == DRAWN and not os.path.lexists(path):
        return Asked(DRIVE, text, DRAWN)
    if path.is_dir():
        images = tuple(sorted(filter(is_image, path.rglob("*"))))
        if not images:
            given = f"no images in {text!r}"
            raise InputError(given, "files that end in " + ", ".join(SUFFIXES))
        return Asked(IMAGES, text, path.resolve().name or "images", images)
    existing_file(path, EXPECTED)
    if path.suffix.lower() in SUFFIXES:
        return Asked(IMAGES, text, path.stem, (path,))
    import_av()
    # So that no name is taken for a protocol of FFmpeg, such as ``concat:a|b``.
    return Asked(VIDEO, str(path.absolute()), path.stem, (path,))


def open_source(
    asked: Asked, size: tuple[int, int], fps: float, every: int = 1, reconnects: int = 5
) -> Source:
    """Open what was named.

    Args:
        size: (height, width) of drawn streets.
        fps: of images and of drawn streets, where they are shown one after another.
        every: give every n-th frame.

    Raises:
        InputError: it cannot be opened.
    """
    rate = Fraction(fps).limit_denominator(1001)
    if asked.kind == IMAGES:
        return Images(asked, rate, every)
    if asked.kind == DRIVE:
        return Drive(size, rate, every)
    words = asked.location, asked.kind == CAMERA, every, reconnects
    # FFmpeg may wait for seconds, and PyAV swallows the KeyboardInterrupt of a signal meanwhile.
    opened = Ahead(Video(*each) for each in [words])
    while (video := opened.take(POLL_S)) is None:
        pass
    return video


class _Waiting(Source):
    """A source of a known number of frames that waits for whoever takes them."""

    live = False

    def __init__(self, shown: str, total: int) -> None:
        self.shown, self.total = shown, total
        self.fault: InputError | None = None

    def notes(self) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing waits in ``frames``."""


class Images(_Waiting):
    """Images of a folder, ``rate`` per second, up to one that cannot be read, which is a fault."""

    def __init__(self, asked: Asked, rate: Fraction, every: int = 1) -> None:
        root = Path(asked.location)
        self._root = root if root.is_dir() else root.parent
        self._numbered, self._rate = list(enumerate(asked.files))[::every], rate
        super().__init__(asked.location, len(self._numbered))

    def frames(self) -> Iterator[Frame]:
        for number, path in self._numbered:
            name = path.relative_to(self._root).as_posix()
            try:
                image = read_image(path)
            except InputError as error:
                if path == self._numbered[0][1]:
                    raise
                self.fault = error  # what was written until here stays
                return
            yield Frame(number, name, number / self._rate, _given(image))


class Drive(_Waiting):
    """A drive along a drawn street (``dabnet.data.toy_street``), at ``rate`` frames per second."""

    KEY, METRES, FRAMES = (7, 12), 0.4, 48
    """The street, how far the camera goes from frame to frame, and how many there are."""

    def __init__(self, size: tuple[int, int], rate: Fraction, every: int = 1) -> None:
        self._size, self._rate, self._numbers = size, rate, range(0, self.FRAMES, every)
        super().__init__(DRAWN, len(self._numbers))

    def frames(self) -> Iterator[Frame]:
        for number in self._numbers:
            image, _ = draw_drive(self.KEY, self._size, number * self.METRES)
            yield Frame(number, f"{number:06}.jpg", number / self._rate, _given(image))


def _given(image: Uint8Array) -> Callable[[], Uint8Array]:
    return lambda: image
