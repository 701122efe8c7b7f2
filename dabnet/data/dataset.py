"""The protocol of a data set: labelled images by index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dabnet.data.labels import LabelSet

Uint8Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image and its truth.

    Attributes:
        name: unique in the data set; names the file in messages and pictures.
        image: uint8, (H, W, 3), RGB, 0…255.
        label: uint8, (H, W), class index or the label set's ignore value.
    """

    name: str
    image: Uint8Array
    label: Uint8Array


def evenly_spaced(length: int, count: int) -> list[int]:
    """Return ``count`` of ``length`` indices, first and last included; all if there are fewer."""
    return [int(i) for i in np.linspace(0, length - 1, min(count, length)).round()]


class Dataset(Protocol):
    """A split of a data set. Indexing reads or draws the image again each time."""

    @property
    def name(self) -> str:
        """The data set's command-line name, such as ``camvid``."""
        ...

    @property
    def split(self) -> str:
        """Such as ``train``, ``val`` or ``trainval``; ``folder`` for images without labels."""
        ...

    @property
    def labels(self) -> LabelSet: ...

    def fingerprint(self) -> str | None:
        """A text that changes whenever a file does; None if results must not be cached."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledImage: ...
