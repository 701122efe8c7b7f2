"""Pascal VOC 2012 in the layout of its development kit.

    DIR/JPEGImages/ID.jpg  DIR/SegmentationClass/ID.png
    DIR/ImageSets/Segmentation/{train,val,trainval}.txt, one ID per line

``trainaug`` are the 10,582 images with the labels of Hariharan et al. (ICCV 2011), as others hand
them out: ``SegmentationClassAug`` or ``SegmentationAug`` beside a list ``trainaug.txt`` or
``train_aug.txt`` of IDs or of pairs of paths. Labels are palette pictures: indices.
Classes: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/segexamples/index.html.
"""

from __future__ import annotations

from pathlib import Path

from dabnet.data.file_pairs import FilePairs
from dabnet.data.label_files import LabelCoding
from dabnet.data.labels import LabelSet, voc_palette
from dabnet.data.lists import Pair, read_pairs
from dabnet.data.splits import TRAINVAL
from dabnet.files import existing_directory

VOC = LabelSet(
    (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
        *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
        *("sheep", "sofa", "train", "tvmonitor"),
    ),
    voc_palette(21),
    ignore=255,
)

_LISTS = ("ImageSets/Segmentation", "ImageSets/SegmentationAug", "SegmentationAug")
_AUGMENTED = ("SegmentationClassAug", "SegmentationAug", "SegmentationClass")


class PascalVoc(FilePairs):
    """One split of VOC 2012; ``directory`` is VOC2012 or a folder above it."""

    name, labels, splits = "voc", VOC, ("train", "val", TRAINVAL, "trainaug")
    coding = LabelCoding.of(VOC, ignored_colours=voc_palette(256)[255:])  # the border of objects
    layout = "JPEGImages, SegmentationClass and ImageSets/Segmentation/SPLIT.txt"

    def root(self, directory: Path) -> Path:
        existing_directory(directory, "the folder VOCdevkit/VOC2012")
        places = (directory, directory / "VOC2012", directory / "VOCdevkit" / "VOC2012")
        return next((place for place in places if (place / "JPEGImages").is_dir()), directory)

    def present(self) -> list[str]:
        return self.with_trainval(split for split in self.splits if self._list(split))

    def find(self, split: str) -> list[Pair]:
        file = self._list(split)
        if file is None:
            return self.find("train") + self.find("val")
        folders = _AUGMENTED if split == "trainaug" else ("SegmentationClass",)

        def pair(line: str) -> Pair | None:
            image = self.directory / "JPEGImages" / f"{line}.jpg"
            labels = (self.directory / folder / f"{line}.png" for folder in folders)
            label = next((path for path in labels if path.is_file()), None)
            return (image, label) if label and image.is_file() else None

        return read_pairs(file, self.directory, self.fault, pair)

    def _list(self, split: str) -> Path | None:
        names = ("trainaug.txt", "train_aug.txt") if split == "trainaug" else (f"{split}.txt",)
        folders = _LISTS if split == "trainaug" else _LISTS[:1]
        files = [self.directory / folder / name for folder in folders for name in names]
        return next((file for file in files if file.is_file()), None)
