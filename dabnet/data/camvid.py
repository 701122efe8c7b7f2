"""CamVid in the directory layout of the DABNet repository.

    DIR/train/NAME.png  DIR/trainannot/NAME.png   (val, valannot, test, testannot likewise)
    DIR/camvid_{train,val,trainval,test}_list.txt, each line ``image label`` relative to DIR

Labels are 8-bit one-channel PNGs with the 11 classes published with SegNet and 11 for unlabelled
(Brostow, Fauqueur & Cipolla 2008; Badrinarayanan, Kendall & Cipolla 2017).
"""

from __future__ import annotations

from pathlib import Path

from dabnet.data.dataset import LabelledImage
from dabnet.data.image_files import fingerprint_of, read_image, read_label, require_same_size
from dabnet.data.labels import CAMVID, LabelSet
from dabnet.errors import InputError
from dabnet.files import existing_directory

SPLITS = ("train", "val", "trainval", "test")


class CamVid:
    """One split of CamVid, read from disk at each access.

    Args:
        directory: the folder that holds the list files.
        split: one of ``SPLITS``.
    """

    name = "camvid"
    labels: LabelSet = CAMVID

    def __init__(self, directory: str | Path, split: str) -> None:
        self.directory = existing_directory(directory, "the CamVid folder")
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}", "one of " + ", ".join(SPLITS))
        self.split = split
        self._pairs = self._read_list()

    def fingerprint(self) -> str:
        return fingerprint_of(path for pair in self._pairs for path in pair)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> LabelledImage:
        image_path, label_path = self._pairs[index]
        image = read_image(image_path)
        label = read_label(label_path, self.labels)
        require_same_size(image, label, label_path)
        return LabelledImage(image_path.stem, image, label)

    def _read_list(self) -> list[tuple[Path, Path]]:
        list_file = self.directory / f"camvid_{self.split}_list.txt"
        if not list_file.is_file():
            present = [s for s in SPLITS if (self.directory / f"camvid_{s}_list.txt").is_file()]
            raise InputError(
                f"the {self.split} split is not in {str(self.directory)!r} (no {list_file.name})",
                "the CamVid layout of the README",
                f"splits that are there: {', '.join(present) or 'none'}",
            )
        try:
            lines = list_file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{str(list_file)!r} is not text", "one 'image label' a line", "copy it again"
            ) from error
        pairs = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            names = line.split()
            if len(names) != 2:
                raise InputError(
                    f"line {number} of {str(list_file)!r} is {line!r}", "'image label', two paths"
                )
            image, label = (self.directory / name for name in names)
            for path in (image, label):
                if not path.is_file():
                    raise InputError(
                        f"{str(path)!r}, named in line {number} of {list_file.name}, is missing",
                        "every listed file to be there",
                        "copy the data set again",
                    )
            pairs.append((image, label))
        if not pairs:
            raise InputError(f"{str(list_file)!r} lists no images", "one 'image label' a line")
        return pairs
