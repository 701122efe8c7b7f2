"""Cityscapes in its official directory layout, fine annotations.

    DIR/leftImg8bit/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png
    DIR/gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelTrainIds.png, or else ..._gtFine_labelIds.png

The download (Cordts et al. 2016, https://www.cityscapes-dataset.com) holds only labelIds, which
are converted here as they are read; labelTrainIds is what cityscapesScripts,
``preparation/createTrainIdLabelImgs.py``, writes beside them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dabnet.data.dataset import Uint8Array
from dabnet.data.image_files import FilePairs, read_label, read_label_values
from dabnet.data.labels import LabelSet
from dabnet.errors import InputError
from dabnet.files import existing_directory

IMAGE_ENDING = "_leftImg8bit.png"
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
_TRAIN_ID_OF = np.array(CITYSCAPES_ID_TO_TRAIN_ID, np.uint8)


class Cityscapes(FilePairs):
    """One split of Cityscapes in the order of its file names; ``trainval`` is train, then val.

    Args:
        directory: the folder that holds ``leftImg8bit`` and ``gtFine``.

    Raises:
        InputError: a folder, the split's images or the label of an image is missing.
    """

    name, labels, splits = "cityscapes", CITYSCAPES, ("train", "val", "trainval")

    def __init__(self, directory: str | Path, split: str) -> None:
        self.directory = existing_directory(directory, "the Cityscapes folder")
        if split == "test":
            # The download has a gtFine/test, but its label images hold ignored ids only.
            raise InputError(
                "the test split of Cityscapes has no public labels",
                "one of " + ", ".join(self.splits),
                "its scores are to be had from the Cityscapes server only",
            )
        super().__init__(split)
        parts = ("train", "val") if split == "trainval" else (split,)
        self.pairs = [pair for part in parts for pair in self._find_pairs(part)]

    def read_label(self, path: Path) -> Uint8Array:
        if path.name.endswith(TRAIN_IDS_ENDING):
            return read_label(path, self.labels)
        return read_label_ids(path)

    def name_of(self, image: Path) -> str:
        return image.name.removesuffix(IMAGE_ENDING)

    def _find_pairs(self, part: str) -> list[tuple[Path, Path]]:
        """Return the (image, label) paths of ``train`` or ``val``."""
        images = existing_directory(
            self.directory / "leftImg8bit" / part,
            f"the {part} images, from leftImg8bit_trainvaltest.zip",
        )
        truths = existing_directory(
            self.directory / "gtFine" / part, f"the {part} labels, from gtFine_trainvaltest.zip"
        )
        pairs = []
        for image in sorted(images.glob("*/*" + IMAGE_ENDING)):
            if image.name.startswith("."):  # "._NAME" of macOS archives is no image
                continue
            stem = str(truths / image.parent.name / image.name.removesuffix(IMAGE_ENDING))
            candidates = (Path(stem + TRAIN_IDS_ENDING), Path(stem + IDS_ENDING))
            label = next((path for path in candidates if path.is_file()), None)
            if label is None:
                raise InputError(
                    f"the image {str(image)!r} has no label",
                    f"{str(candidates[1])!r} or ...{TRAIN_IDS_ENDING}",
                    "unpack gtFine_trainvaltest.zip again",
                )
            pairs.append((image, label))
        if not pairs:
            raise InputError(
                f"{str(images)!r} holds no images",
                f"CITY/CITY_SEQ_FRAME{IMAGE_ENDING}",
                "unpack leftImg8bit_trainvaltest.zip again",
            )
        return pairs


def read_label_ids(path: Path) -> Uint8Array:
    """Read a labelIds image, uint8 (H, W), as train ids 0…18 or 255 for ignored.

    Raises:
        InputError: the image cannot be read, or holds a value that is no label id.
    """
    ids = read_label_values(path)
    highest = int(ids.max(initial=0))
    if highest >= len(_TRAIN_ID_OF):
        raise InputError(
            f"{str(path)!r} holds the label value {highest}",
            f"a Cityscapes label id, 0 to {len(_TRAIN_ID_OF) - 1}",
        )
    return _TRAIN_ID_OF[ids]
