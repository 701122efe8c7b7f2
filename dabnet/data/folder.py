"""A folder of the user's own images and masks, with a file of the classes.

    DIR/classes.txt or classes.yaml                           dabnet.data.labels.read_class_file
    DIR/images/{train,val}/STEM.jpg  DIR/masks/{train,val}/STEM.png

or images and masks without these subfolders, of which a share drawn by the names is validation, or
with lists DIR/train.txt and DIR/val.txt of stems or of image and mask paths. A pair has the same
path below its folder, but for the suffix. mmsegmentation's names ``img_dir`` and ``ann_dir`` and
other usual ones are taken too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dabnet.data.file_pairs import FilePairs
from dabnet.data.image_files import SUFFIXES, is_image
from dabnet.data.label_files import LabelCoding
from dabnet.data.labels import LabelSet, read_class_file
from dabnet.data.lists import GAP, Pair, read_pairs
from dabnet.data.splits import TRAINVAL
from dabnet.errors import InputError
from dabnet.files import existing_directory

CLASS_FILES = ("classes.txt", "classes.yaml", "classes.yml")
IMAGE_FOLDERS = ("images", "img_dir", "photos")
MASK_FOLDERS = ("masks", "ann_dir", "labels")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
VAL_SHARE = 0.2


class Folder(FilePairs):
    """One split of a folder.

    Args:
        labels: the classes, where the folder has no file of them.

    Raises:
        InputError: as for every data set; or there are no classes, or several files of them.
    """

    name, splits = "folder", ("train", "val", TRAINVAL, "test")
    layout = "images/{train,val} and masks/{train,val}, or images, masks and lists {train,val}.txt"

    def __init__(
        self,
        directory: str | Path,
        split: str,
        faults: list[InputError] | None = None,
        labels: LabelSet | None = None,
    ) -> None:
        root = existing_directory(directory, "a folder of images, masks and classes.txt")
        files = [root / name for name in CLASS_FILES if (root / name).is_file()]
        if len(files) > 1:
            raise InputError(
                f"{str(root)!r} holds {files[0].name} and {files[1].name}", "one file of classes"
            )
        self.val_share, self.seed = VAL_SHARE, 0
        if files:
            said = read_class_file(files[0])
            self.labels, self.coding = said.labels, LabelCoding.of_file(said)
            self.val_share, self.seed = said.val_share, said.seed
        elif labels is not None and labels.classes:
            self.labels, self.coding = labels, LabelCoding.of(labels)
        else:
            raise InputError(
                f"{str(root)!r} has no file of classes",
                "classes.txt with one name per line, in the order of the values in the masks",
                "write it, or name a data set with --dataset",
            )
        super().__init__(root, split, faults)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}\n{self.coding}"  # other classes, other labels

    def present(self) -> list[str]:
        lists = [split for split in SPLIT_FOLDERS if self._list(split).is_file()]
        images = self._folder(IMAGE_FOLDERS, "images", needed=not lists)
        if lists or images is None:
            return self.with_trainval(lists)
        subfolders = [split for split in SPLIT_FOLDERS if _below(images, split)]
        return self.with_trainval(subfolders or ("train", "val"))

    def find(self, split: str) -> list[Pair]:
        if split == TRAINVAL:
            return self.find("train") + self.find("val")
        if self._list(split).is_file():
            images = self._folder(IMAGE_FOLDERS, "images", needed=False)
            masks = self._folder(MASK_FOLDERS, "masks", needed=False)
            stems = _Stems(_by_stem(images), _by_stem(masks))
            return read_pairs(self._list(split), self.directory, self.fault, stems)
        images = self._folder(IMAGE_FOLDERS, "images")
        masks = self._folder(MASK_FOLDERS, "masks")
        assert images
        assert masks
        of_split = _below(images, split)
        if of_split is None:
            pairs = self._partners(images, masks)
            val = drawn_for_validation(pairs, self.val_share, self.seed)
            return [pair for stem, pair in pairs.items() if (stem in val) == (split == "val")]
        masks_of_split = _below(masks, split)
        if masks_of_split is None:
            raise InputError(
                f"{str(masks)!r} has no folder {split!r}", f"masks of {str(of_split)!r}"
            )
        return list(self._partners(of_split, masks_of_split).values())

    def _list(self, split: str) -> Path:
        return self.directory / f"{split}.txt"

    def _folder(self, names: tuple[str, ...], what: str, needed: bool = True) -> Path | None:
        found = next((p for p in (self.directory / name for name in names) if p.is_dir()), None)
        if found is None and needed:
            raise InputError(
                f"{str(self.directory)!r} has no folder of {what}",
                "one of " + ", ".join(names),
            )
        return found

    def _partners(self, images: Path, masks: Path) -> dict[str, Pair]:
        """Return the pairs of two folders by their stems, sorted."""
        images_by, masks_by = _by_stem(images), _by_stem(masks)
        for these, others, what, lacking in (
            (images_by, masks_by, "images", "mask"),
            (masks_by, images_by, "masks", "image"),
        ):
            if alone := sorted(these.keys() - others.keys()):
                first = str(these[alone[0]])
                given = (
                    f"{len(alone)} of {len(these)} {what} have no {lacking}, the first is {first!r}"
                )
                self.fault(InputError(given, "an image and a mask of the same name"))
        return {s: (images_by[s], masks_by[s]) for s in sorted(images_by.keys() & masks_by.keys())}


def drawn_for_validation(stems: Iterable[str], share: float, seed: int) -> set[str]:
    """Return the stems that are validation: ``share`` of them by a hash, so that each one stays.

    Of at least two stems both parts get one, which of very few is all that may change later.
    """

    def place(stem: str) -> float:
        digest = hashlib.sha256(os.fsencode(f"{seed}/{stem}")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    ordered = sorted(stems, key=place)
    count = sum(place(stem) < share for stem in ordered)
    return set(ordered[: min(max(count, 1), len(ordered) - 1)])


class _Stems:
    """Finds the pair of a line of a list that is a stem or the path of an image."""

    def __init__(self, images: dict[str, Path], masks: dict[str, Path]) -> None:
        self.images, self.masks = images, masks

    def __call__(self, line: str) -> Pair | None:
        parts = PurePosixPath(line.strip("\"'").replace("\\", "/")).parts
        for start in range(len(parts)):
            if GAP.search("/".join(parts[:start])):  # it may end another name
                return None
            path = PurePosixPath(*parts[start:])
            short = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
            for stem in (str(path), str(short)):
                if stem in self.images and stem in self.masks:
                    return self.images[stem], self.masks[stem]
        return None


def _below(folder: Path, split: str) -> Path | None:
    found = (folder / name for name in SPLIT_FOLDERS[split])
    return next((path for path in found if path.is_dir()), None)


def _by_stem(folder: Path | None) -> dict[str, Path]:
    """Return the images of a folder and its subfolders by their paths in it without suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")) if folder else ():
        if is_image(path):
            stem = path.relative_to(folder).with_suffix("").as_posix()  # type: ignore[arg-type]
            if stem in found:
                raise InputError(
                    f"{str(found[stem])!r} and {path.name!r} have the same name", "one of them"
                )
            found[stem] = path
    return found
