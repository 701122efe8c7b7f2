"""A frame, and where frames come from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from dabnet.data.dataset import Uint8Array
from dabnet.errors import InputError


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of a source.

    Attributes:
        number: of the frame in its source, from 0; also frames that are left out count.
        name: of the file that it came from or would go to, relative to its folder.
        seconds: when it is to be shown, from the first frame on; exact.
        pixels: gives the image, uint8 (H, W, 3), RGB, upright. A frame of a live source that
            nobody takes is never converted.
        pixel_aspect: width of a pixel by its height, as it is shown.
        arrived: ``time.perf_counter()`` when it was decoded.
    """

    number: int
    name: str
    seconds: Fraction
    pixels: Callable[[], Uint8Array]
    pixel_aspect: Fraction = Fraction(1)
    arrived: float = field(default_factory=time.perf_counter)


class Source(Protocol):
    """Frames in their order.

    Attributes:
        shown: what it is, for messages, without passwords.
        live: frames come when they come, and one that is late is dropped.
        total: how many frames there may be; None if that is not known.
        fault: why it ended early; known when ``frames`` has ended.
    """

    shown: str
    live: bool
    total: int | None
    fault: InputError | None

    def frames(self) -> Iterator[Frame]:
        """Yield the frames; InputError where one cannot be read."""

    def notes(self) -> list[str]:
        """Tell what else the user should know of the frames until now."""

    def close(self) -> None:
        """Let ``frames``, which another thread may be in, come to its end."""
