"""CamVid in the directory layout of the DABNet repository.

    DIR/train/NAME.png  DIR/trainannot/NAME.png   (val, valannot, test, testannot likewise)
    DIR/camvid_{train,val,trainval,test}_list.txt, each line ``image label`` relative to DIR

Labels are 8-bit one-channel PNGs with the 11 classes published with SegNet and 11 for unlabelled
(Brostow, Fauqueur & Cipolla 2008; Badrinarayanan, Kendall & Cipolla 2017).
"""

from __future__ import annotations

from pathlib import Path

from dabnet.data.image_files import FilePairs
from dabnet.data.labels import LabelSet
from dabnet.errors import InputError
from dabnet.files import existing_directory

CAMVID = LabelSet.of(
    {
        "sky": (128, 128, 128),
        "building": (128, 0, 0),
        "pole": (192, 192, 128),
        "road": (128, 64, 128),
        "pavement": (60, 40, 222),
        "tree": (128, 128, 0),
        "sign": (192, 128, 128),
        "fence": (64, 64, 128),
        "car": (64, 0, 128),
        "pedestrian": (64, 64, 0),
        "bicyclist": (0, 128, 192),
    },
    ignore=11,
)


class CamVid(FilePairs):
    """One split of CamVid; ``directory`` holds the list files."""

    name, labels, splits = "camvid", CAMVID, ("train", "val", "trainval", "test")

    def __init__(self, directory: str | Path, split: str) -> None:
        self.directory = existing_directory(directory, "the CamVid folder")
        super().__init__(split)
        self.pairs = self._read_list()

    def _read_list(self) -> list[tuple[Path, Path]]:
        lists = {split: self.directory / f"camvid_{split}_list.txt" for split in self.splits}
        list_file = lists[self.split]
        if not list_file.is_file():
            present = [split for split, file in lists.items() if file.is_file()]
            raise InputError(
                f"the {self.split} split is not in {str(self.directory)!r} (no {list_file.name})",
                "the CamVid layout of the README",
                f"splits that are there: {', '.join(present) or 'none'}",
            )
        form = "'image label', two paths, per line"
        try:
            lines = list_file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{str(list_file)!r} is not text", form, "copy it again") from error
        pairs = []
        for number, line in enumerate(lines, start=1):
            paths = [self.directory / name for name in line.split()]
            if not paths:
                continue
            if len(paths) != 2:
                raise InputError(f"line {number} of {str(list_file)!r} is {line!r}", form)
            for path in paths:
                if not path.is_file():
                    raise InputError(
                        f"{str(path)!r}, named in line {number} of {list_file.name}, is missing",
                        "every listed file to be there",
                        "copy the data set again",
                    )
            pairs.append((paths[0], paths[1]))
        if not pairs:
            raise InputError(f"{str(list_file)!r} lists no images", form)
        return pairs
