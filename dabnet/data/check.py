"""One reading of a data set that finds all that its readers would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dabnet.data.dataset import Dataset, LabelledImage, evenly_spaced
from dabnet.data.file_pairs import FilePairs, NoSuchSplit
from dabnet.data.labels import LabelSet
from dabnet.data.memory import read_ahead
from dabnet.data.registry import DATASETS, open_dataset
from dabnet.data.splits import TRAINVAL
from dabnet.data.statistics import PixelCounter, SplitCounts
from dabnet.errors import InputError

NEEDED = ("train", "val")


@dataclass(frozen=True, slots=True)
class CheckedSplit:
    """What one split holds.

    Attributes:
        split: its name.
        labels: the classes.
        sizes: how many images have each (height, width).
        counts: of the images that can be read.
        shown: some of these, evenly spaced.
        faults: the errors of the others, and of files without partner.
    """

    split: str
    labels: LabelSet
    sizes: Counter[tuple[int, int]]
    counts: SplitCounts
    shown: tuple[LabelledImage, ...]
    faults: tuple[InputError, ...]

    @property
    def images(self) -> int:
        """Number of images that can be read."""
        return self.sizes.total()


def check_dataset(
    name: str,
    data_dir: Path,
    labels: LabelSet | None,
    shown: int,
    progress_bar: Callable[[str, int], AbstractContextManager[Callable[[], None]]],
) -> tuple[list[CheckedSplit], list[InputError]]:
    """Read every split of a data set on disk, each pair once.

    Args:
        name: one of ``DATASETS``.
        data_dir: its folder.
        labels: the classes of a folder without a file of them.
        shown: images to keep of each split.
        progress_bar: (what, images) → a bar whose function is called once per image.

    Returns:
        the splits that can be opened, and why others cannot or are no splits.
    """
    checked: list[CheckedSplit] = []
    closed: list[InputError] = []
    files: dict[str, set[Path]] = {}
    # The union of two splits holds nothing that they do not.
    for split in (s for s in DATASETS[name].load().splits if s != TRAINVAL):
        faults: list[InputError] = []
        try:
            dataset = open_dataset(name, split, data_dir, labels=labels, faults=faults)
        except NoSuchSplit as error:
            closed += [error] if split in NEEDED else []
            continue
        except InputError as error:
            closed.append(error)
            continue
        assert isinstance(dataset, FilePairs)
        files[split] = {image.resolve() for image, _ in dataset.pairs}
        with progress_bar(f"reading {split}", len(dataset)) as step:
            checked.append(_read(dataset, faults, shown, step))
    trained, validated = (files.get(split, set()) for split in NEEDED)
    if both := sorted(trained & validated):
        closed.append(
            InputError(
                f"{len(both)} of {len(validated)} images of val are in train too, the first is"
                f" {str(both[0])!r}",
                "other images in each: a score on training images says nothing of new ones",
            )
        )
    return checked, closed


def _read(
    dataset: Dataset, faults: list[InputError], shown: int, step: Callable[[], None]
) -> CheckedSplit:
    def tried(index: int) -> LabelledImage | InputError:
        try:
            return dataset[index]
        except InputError as error:
            return error

    chosen, kept = set(evenly_spaced(len(dataset), shown)), []
    counter, sizes = PixelCounter(len(dataset.labels.classes)), Counter[tuple[int, int]]()
    for index, item in enumerate(read_ahead(tried, range(len(dataset)))):
        step()
        if isinstance(item, InputError):
            faults.append(item)
            continue
        counter.add(item)
        height, width = item.label.shape
        sizes[height, width] += 1
        kept += [item] if index in chosen else []
    return CheckedSplit(
        dataset.split, dataset.labels, sizes, counter.counts(), tuple(kept), tuple(faults)
    )
