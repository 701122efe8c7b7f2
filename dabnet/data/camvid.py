"""CamVid in the directory layout of the DABNet repository.

    DIR/train/NAME.png  DIR/trainannot/NAME.png   (val, valannot, test, testannot likewise)
    DIR/camvid_{train,val,trainval,test}_list.txt, each line ``image label`` relative to DIR

Labels hold the 11 classes published with SegNet and 11 or 255 for unlabelled, or their colours
(Brostow, Fauqueur & Cipolla 2008; Badrinarayanan, Kendall & Cipolla 2017).
"""

from __future__ import annotations

from pathlib import Path

from dabnet.data.file_pairs import FilePairs
from dabnet.data.label_files import LabelCoding
from dabnet.data.labels import LabelSet
from dabnet.data.lists import Pair, read_pairs
from dabnet.data.splits import TRAINVAL

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
    coding = LabelCoding.of(CAMVID, ignored_colours=((0, 0, 0),))  # Void of the raw labels
    layout = "camvid_SPLIT_list.txt, each line 'image label'"

    def present(self) -> list[str]:
        return self.with_trainval(split for split in self.splits if self._list(split).is_file())

    def find(self, split: str) -> list[Pair]:
        if split == TRAINVAL and not self._list(split).is_file():
            return self.find("train") + self.find("val")
        return read_pairs(self._list(split), self.directory, self.fault)

    def _list(self, split: str) -> Path:
        return self.directory / f"camvid_{split}_list.txt"
