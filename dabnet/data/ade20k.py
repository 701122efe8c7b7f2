"""ADE20K in the form of the SceneParse150 benchmark (Zhou et al., CVPR 2017).

    DIR/images/{training,validation}/ADE_{train,val}_NNNNNNNN.jpg
    DIR/annotations/{training,validation}/ADE_{train,val}_NNNNNNNN.png

A label holds 0 for what is in none of the 150 classes, which is ignored, and k + 1 for class k.
Names are the first of each line of ``objectInfo150.txt``
(https://github.com/CSAILVision/sceneparsing); colours are Pascal VOC's of the stored values.
"""

from __future__ import annotations

from pathlib import Path

from dabnet.data.file_pairs import FilePairs
from dabnet.data.image_files import is_image
from dabnet.data.label_files import LabelCoding
from dabnet.data.labels import LabelSet, voc_palette
from dabnet.data.lists import Pair
from dabnet.data.splits import TRAINVAL
from dabnet.errors import InputError
from dabnet.files import existing_directory

# fmt: off
ADE20K = LabelSet(
    (
        "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass",
        "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain",
        "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug",
        "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub",
        "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter",
        "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs",
        "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge",
        "bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench",
        "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
        "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier",
        "awning", "streetlight", "booth", "television", "airplane", "dirt track", "apparel", "pole",
        "land", "bannister", "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van",
        "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything", "swimming pool",
        "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
        "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle",
        "lake", "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase",
        "traffic light", "tray", "ashcan", "fan", "pier", "crt screen", "plate", "monitor",
        "bulletin board", "shower", "radiator", "glass", "clock", "flag",
    ),
    voc_palette(151)[1:],
    ignore=255,
)
# fmt: on

_FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(FilePairs):
    """One split of SceneParse150; ``directory`` is ADEChallengeData2016 or the folder above it."""

    name, labels, splits = "ade20k", ADE20K, ("train", "val", TRAINVAL)
    coding = LabelCoding.of(
        ADE20K,
        {0: ADE20K.ignore, **{k + 1: k for k in range(150)}},
        ignored_colours=((0, 0, 0),),
        meant="0 for ignored, or 1 to 150",
    )
    layout = "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png"

    def root(self, directory: Path) -> Path:
        existing_directory(directory, "the folder ADEChallengeData2016")
        places = (directory, directory / "ADEChallengeData2016")
        return next((place for place in places if (place / "annotations").is_dir()), directory)

    def present(self) -> list[str]:
        images = self.directory / "images"
        found = [split for split, folder in _FOLDERS.items() if (images / folder).is_dir()]
        return self.with_trainval(found)

    def find(self, split: str) -> list[Pair]:
        if split == TRAINVAL:
            return self.find("train") + self.find("val")
        pairs = []
        for image in sorted(
            filter(is_image, (self.directory / "images" / _FOLDERS[split]).iterdir())
        ):
            label = self.directory / "annotations" / _FOLDERS[split] / f"{image.stem}.png"
            if label.is_file():
                pairs.append((image, label))
            else:
                self.fault(InputError(f"the image {str(image)!r} has no label", repr(str(label))))
        return pairs
