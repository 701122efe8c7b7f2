"""Cityscapes in its official directory layout, fine annotations.

    DIR/leftImg8bit/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png
    DIR/gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelTrainIds.png, or else ..._gtFine_labelIds.png

The download (Cordts et al. 2016, https://www.cityscapes-dataset.com) holds only labelIds, which
are converted here as they are read; labelTrainIds is what cityscapesScripts,
``preparation/createTrainIdLabelImgs.py``, writes beside them. Photos may be JPEGs too.
"""

from __future__ import annotations

from pathlib import Path

from dabnet.data.dataset import Uint8Array
from dabnet.data.file_pairs import FilePairs, NoSuchSplit
from dabnet.data.image_files import is_image
from dabnet.data.label_files import LabelCoding, read_label
from dabnet.data.labels import LabelSet
from dabnet.data.lists import Pair
from dabnet.data.splits import TRAINVAL
from dabnet.errors import InputError
from dabnet.files import existing_directory

IMAGE_ENDING = "_leftImg8bit"
TRAIN_IDS_ENDING = "_gtFine_labelTrainIds.png"
IDS_ENDING = "_gtFine_labelIds.png"

# Class order, colours and categories: cityscapesScripts, helpers/labels.py (trainId 0 to 18).
CITYSCAPES = LabelSet.of(
    {
        "road": (128, 64, 128),
        "sidewalk": (244, 35, 232),
        "building": (70, 70, 70),
        "wall": (102, 102, 156),
        "fence": (190, 153, 153),
        "pole": (153, 153, 153),
        "traffic light": (250, 170, 30),
        "traffic sign": (220, 220, 0),
        "vegetation": (107, 142, 35),
        "terrain": (152, 251, 152),
        "sky": (70, 130, 180),
        "person": (220, 20, 60),
        "rider": (255, 0, 0),
        "car": (0, 0, 142),
        "truck": (0, 0, 70),
        "bus": (0, 60, 100),
        "train": (0, 80, 100),
        "motorcycle": (0, 0, 230),
        "bicycle": (119, 11, 32),
    },
    ignore=255,
    categories=(
        ("flat", (0, 1)),
        ("construction", (2, 3, 4)),
        ("object", (5, 6, 7)),
        ("nature", (8, 9)),
        ("sky", (10,)),
        ("human", (11, 12)),
        ("vehicle", (13, 14, 15, 16, 17, 18)),
    ),
)

# The train id of each label id 0 to 33, same file. The 34th label, license plate (-1), is never
# drawn: those pixels keep the label of the vehicle (preparation/json2labelImg.py).
# fmt: off
CITYSCAPES_ID_TO_TRAIN_ID = (
    255, 255, 255, 255, 255, 255, 255,  # unlabeled … ground
    0, 1, 255, 255,                     # road, sidewalk; parking, rail track
    2, 3, 4, 255, 255, 255,             # building, wall, fence; guard rail, bridge, tunnel
    5, 255, 6, 7,                       # pole; polegroup; traffic light, traffic sign
    8, 9, 10,                           # vegetation, terrain, sky
    11, 12,                             # person, rider
    13, 14, 15, 255, 255, 16, 17, 18,   # car, truck, bus; caravan, trailer; train … bicycle
)
# fmt: on
# Of the label ids that are ignored, same file, as in ..._gtFine_color.png; those that share the
# colour of a class (polegroup, license plate) are read as it.
_IGNORED_COLOURS = (
    *((0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180)),
    *((150, 100, 100), (150, 120, 90), (0, 0, 90), (0, 0, 110)),
)


class Cityscapes(FilePairs):
    """One split of Cityscapes in the order of its file names; ``trainval`` is train, then val.

    ``directory`` holds ``leftImg8bit`` and ``gtFine``.
    """

    name, labels, splits = "cityscapes", CITYSCAPES, ("train", "val", "trainval")
    layout = "leftImg8bit/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png, and gtFine likewise"
    coding = LabelCoding.of(
        CITYSCAPES,
        ignored_colours=_IGNORED_COLOURS,
        meant=f"train ids 0 to 18, or 255 for ignored (label ids belong in ...{IDS_ENDING})",
    )
    id_coding = LabelCoding.of(
        CITYSCAPES,
        dict(enumerate(CITYSCAPES_ID_TO_TRAIN_ID)),
        _IGNORED_COLOURS,
        meant="a Cityscapes label id, 0 to 33, or 255 for ignored",
    )

    def __init__(
        self, directory: str | Path, split: str, faults: list[InputError] | None = None
    ) -> None:
        if split == "test":
            # The download has a gtFine/test, but its label images hold ignored ids only.
            raise NoSuchSplit(
                "the test split of Cityscapes has no public labels",
                "one of " + ", ".join(self.splits),
                "its scores are to be had from the Cityscapes server only",
            )
        super().__init__(directory, split, faults)

    def present(self) -> list[str]:
        images = self.directory / "leftImg8bit"
        return self.with_trainval(s for s in ("train", "val") if (images / s).is_dir())

    def find(self, split: str) -> list[Pair]:
        parts = ("train", "val") if split == TRAINVAL else (split,)
        return [pair for part in parts for pair in self._find_pairs(part)]

    def read_label(self, path: Path) -> Uint8Array:
        trained = path.name.endswith(TRAIN_IDS_ENDING)
        return read_label(path, self.coding if trained else self.id_coding)

    def name_of(self, image: Path) -> str:
        return image.stem.removesuffix(IMAGE_ENDING)

    def _find_pairs(self, part: str) -> list[Pair]:
        """Return the (image, label) paths of ``train`` or ``val``."""
        images = self.directory / "leftImg8bit" / part
        truths = existing_directory(
            self.directory / "gtFine" / part, f"the {part} labels, from gtFine_trainvaltest.zip"
        )
        pairs = []
        found = [path for path in sorted(images.glob(f"*/*{IMAGE_ENDING}.*")) if is_image(path)]
        for image in found:
            stem = str(truths / image.parent.name / self.name_of(image))
            candidates = (Path(stem + TRAIN_IDS_ENDING), Path(stem + IDS_ENDING))
            label = next((path for path in candidates if path.is_file()), None)
            if label is None:
                self.fault(
                    InputError(
                        f"the image {str(image)!r} has no label",
                        f"{str(candidates[1])!r} or ...{TRAIN_IDS_ENDING}",
                        "unpack gtFine_trainvaltest.zip again",
                    )
                )
            else:
                pairs.append((image, label))
        if not found:
            raise InputError(
                f"{str(images)!r} holds no images",
                f"CITY/CITY_SEQ_FRAME{IMAGE_ENDING}.png",
                "unpack leftImg8bit_trainvaltest.zip again",
            )
        return pairs
