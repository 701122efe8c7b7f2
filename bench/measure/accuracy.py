"""Accuracy of a row: the service that scores one candidate in a process of its own.

The reference is scored first and leaves its masks in a folder; every other candidate compares its
own with those: no two backends are loaded in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.isolation import remote_progress
from dabnet.data.images import SizedImage, SizedImages, resize_label
from dabnet.files import replacing
from dabnet.metrics import Counts, confusion
from dabnet.runtime.runner import Uint8Array

if TYPE_CHECKING:
    from bench.backends.base import Recipe


@dataclass(slots=True)
class Scored:
    """One candidate on all images."""

    names: tuple[str, ...]  # of the images
    arithmetic: str  # of what was scored (``RunnerInfo.arithmetic``)
    per_image: Counts  # confusion matrices, int64 (images, K, K), at the size that is timed
    native: Counts | None = None  # at the labels' own size; None if no label has another size
    agreement: NDArray[np.float64] | None = None  # per image: pixels equal to the reference's, 0…1
    # Of the masks as timed: share equal to those that are scored, and their confusion matrices;
    # None if the two are one.
    timed_agreement: NDArray[np.float64] | None = None
    timed: Counts | None = None

    def save(self, path: Path) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **{k: v for k, v in values.items() if v is not None})

    @classmethod
    def load(cls, path: Path) -> Scored:
        with np.load(path) as kept:
            values = dict(kept)
        names = tuple(map(str, values.pop("names")))
        return cls(names, str(values.pop("arithmetic")), **values)


class Scorer:
    """Scores one candidate.

    Args:
        images: at the size of a call.
        batch: frames per call.
        masks: folder that gets its masks (``mask_path``) of the images of ``kept``.
        kept: numbers of images.
        reference: folder of the reference's masks of all images; None if there is none.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: SizedImages,
        batch: int,
        masks: Path,
        kept: Iterable[int],
        reference: Path | None,
    ) -> None:
        self._images, self._batch = images, batch
        self._masks, self._kept, self._reference = masks, frozenset(kept), reference
        self._scored = recipe.scored()
        self._timed = recipe.opened() if recipe.exact else None

    def score(self) -> Scored:
        classes = len(self._images.dataset.labels.classes)
        names: list[str] = []
        matrices, native, timed = list[Counts](), list[Counts](), list[Counts]()
        equal, timed_equal = list[float](), list[float]()
        differs = False
        with remote_progress("accuracy", len(self._images)) as step:
            for number, (item, mask, as_timed) in enumerate(self._masks_of(iter(self._images))):
                names.append(item.name)
                matrices.append(confusion(mask, item.label, classes))
                differs |= item.native_label.shape != item.label.shape
                enlarged = resize_label(mask, item.native_label.shape)
                native.append(confusion(enlarged, item.native_label, classes))
                if self._reference is not None:
                    other = np.load(mask_path(self._reference, number))
                    equal.append(float((mask == other).mean()))
                if as_timed is not None:
                    timed.append(confusion(as_timed, item.label, classes))
                    timed_equal.append(float((mask == as_timed).mean()))
                if number in self._kept:
                    np.save(mask_path(self._masks, number), mask)
                step()
        return Scored(
            tuple(names),
            self._scored.info.arithmetic,
            np.stack(matrices),
            np.stack(native) if differs else None,
            np.array(equal) if equal else None,
            np.array(timed_equal) if timed else None,
            np.stack(timed) if timed else None,
        )

    def _masks_of(
        self, items: Iterator[SizedImage]
    ) -> Iterator[tuple[SizedImage, Uint8Array, Uint8Array | None]]:
        """Each image with its mask, and with the timed mask if other arithmetic is timed."""
        while group := list(islice(items, self._batch)):
            # The last batch is filled up with its last image.
            filled = [*group, *[group[-1]] * (self._batch - len(group))]
            images = np.stack([item.image for item in filled])
            masks = self._scored.infer(images)
            others = self._timed.infer(images) if self._timed else None
            for number, item in enumerate(group):
                yield item, masks[number], None if others is None else others[number]

    def close(self) -> None:
        self._scored.close()
        if self._timed:
            self._timed.close()


def mask_path(folder: Path, number: int) -> Path:
    """File of one image's mask, uint8 (H, W), by the number of the image in the run."""
    return folder / f"{number:05d}.npy"
