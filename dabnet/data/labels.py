"""Classes, palettes and the preprocessing constants of the public checkpoints, per dataset."""

from __future__ import annotations

from dataclasses import dataclass

from dabnet.errors import InputError
from dabnet.preprocessing import Preprocessing

Colour = tuple[int, int, int]
Category = tuple[str, tuple[int, ...]]
"""A name and the class indices it covers."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The classes of a dataset, in index order.

    Attributes:
        classes: class names; the index in this tuple is the label value.
        palette: one RGB colour (0…255) a class.
        ignore: the label value of pixels that count neither in the loss nor in the score.
        public: preprocessing of the checkpoints published with DABNet for this dataset.
        categories: groups of classes that the dataset's benchmark also scores; none elsewhere.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore: int
    public: Preprocessing
    categories: tuple[Category, ...] = ()


_CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
_CAMVID_PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)

# The public code stores means in BGR order, as OpenCV reads; here they are RGB.
CAMVID = LabelSet(
    classes=_CAMVID_CLASSES,
    palette=_CAMVID_PALETTE,
    ignore=11,
    public=Preprocessing(mean_rgb=(99.625404, 103.329834, 105.65775)),
)

# Toy street draws CamVid's classes, so that a network can move between the two.
TOY_STREET = LabelSet(
    classes=_CAMVID_CLASSES,
    palette=_CAMVID_PALETTE,
    ignore=11,
    public=CAMVID.public,
)

# Class order, colours and categories: cityscapesScripts, helpers/labels.py (trainId 0 to 18).
CITYSCAPES = LabelSet(
    classes=(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    palette=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
    ignore=255,
    public=Preprocessing(mean_rgb=(73.158325, 82.90902, 72.3924)),
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

NO_LABELS = LabelSet((), (), 255, Preprocessing((0.0, 0.0, 0.0)))
"""Of images without labels."""

LABEL_SETS = {"camvid": CAMVID, "cityscapes": CITYSCAPES, "toy-street": TOY_STREET}


def label_set(dataset: str) -> LabelSet:
    """Return the label set of a dataset by its command-line name."""
    try:
        return LABEL_SETS[dataset]
    except KeyError:
        raise InputError(
            f"unknown dataset {dataset!r}", "one of " + ", ".join(LABEL_SETS)
        ) from None
