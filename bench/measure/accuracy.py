"""Accuracy of a row: the service that scores one candidate in a process of its own.

The reference is scored first and leaves its masks in a folder; every other candidate compares its
own with those, so that no two backends are ever loaded in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.isolation import remote_progress
from dabnet.data.images import SizedImage, SizedImages
from dabnet.data.transforms import resize_label
from dabnet.files import replacing
from dabnet.metrics import Counts, confusion
from dabnet.runtime.runner import Runner, Uint8Array

if TYPE_CHECKING:
    from bench.backends.base import Recipe


@dataclass(slots=True)
class Scored:
    """One candidate on all images.

    Attributes:
        names: of the images.
        arithmetic: of what was scored (``RunnerInfo.arithmetic``).
        per_image: confusion matrices, int64 (images, K, K), at the size that is timed.
        native: the same at the labels' own size; None if no label has another size.
        agreement: per image the share of pixels equal to the reference's; None without one.
        timed_agreement, timed: of the masks as timed, with those that are scored, and their
            confusion matrices; None if the two are one.
    """

    names: tuple[str, ...]
    arithmetic: str
    per_image: Counts
    native: Counts | None = None
    agreement: NDArray[np.float64] | None = None
    timed_agreement: NDArray[np.float64] | None = None
    timed: Counts | None = None

    def save(self, path: Path) -> None:
        """Keep it for a run that is stopped and continued."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {name: value for name, value in values.items() if value is not None}
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **kept)

    @classmethod
    def load(cls, path: Path) -> Scored:
        """Return what ``save`` kept."""
        with np.load(path) as kept:
            values = dict(kept)
        names = tuple(map(str, values.pop("names")))
        return cls(names, str(values.pop("arithmetic")), **values)


@dataclass(slots=True)
class _Tally:
    """Confusion matrices and shares of equal pixels, image by image."""

    classes: int
    matrices: list[Counts] = field(default_factory=list)
    native: list[Counts] = field(default_factory=list)
    equal: list[float] = field(default_factory=list)

    def add(self, mask: Uint8Array, item: SizedImage, other: Uint8Array | None) -> None:
        self.matrices.append(confusion(mask, item.label, self.classes))
        enlarged = resize_label(mask, item.native_label.shape)
        self.native.append(confusion(enlarged, item.native_label, self.classes))
        if other is not None:
            self.equal.append(float((mask == other).mean()))

    @property
    def shares(self) -> NDArray[np.float64] | None:
        return np.array(self.equal) if self.equal else None


class Scorer:
    """Scores one candidate.

    Args:
        recipe: how to open it.
        images: the images, at the size of a call.
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
        """Run all images in batches, and compare."""
        classes = len(self._images.dataset.labels.classes)
        exact, timed = _Tally(classes), _Tally(classes)
        names: list[str] = []
        differs = False
        with remote_progress("accuracy", len(self._images)) as step:
            for number, (item, mask, as_timed) in enumerate(self._masks_of(iter(self._images))):
                names.append(item.name)
                differs |= item.native_label.shape != item.label.shape
                exact.add(mask, item, self._reference_mask(number))
                if as_timed is not None:
                    timed.add(as_timed, item, mask)
                if number in self._kept:
                    np.save(mask_path(self._masks, number), mask)
                step()
        return Scored(
            tuple(names),
            self._scored.info.arithmetic,
            np.stack(exact.matrices),
            np.stack(exact.native) if differs else None,
            exact.shares,
            timed.shares,
            np.stack(timed.matrices) if timed.matrices else None,
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

    def _reference_mask(self, number: int) -> Uint8Array | None:
        if self._reference is None:
            return None
        mask: Uint8Array = np.load(mask_path(self._reference, number))
        return mask

    def close(self) -> None:
        """Release what is loaded."""
        runners: tuple[Runner | None, ...] = (self._scored, self._timed)
        for runner in filter(None, runners):
            runner.close()


def mask_path(folder: Path, number: int) -> Path:
    """File of one image's mask, uint8 (H, W), by the number of the image in the run."""
    return folder / f"{number:05d}.npy"
