"""Classes and palettes, per dataset."""

from __future__ import annotations

from dataclasses import dataclass

from dabnet.errors import InputError

Colour = tuple[int, int, int]
Category = tuple[str, tuple[int, ...]]
"""A name and the class indices it covers."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The classes of a dataset, in index order.

    Attributes:
        classes: class names; the index in this tuple is the label value.
        palette: one RGB colour (0…255) per class.
        ignore: the label value of pixels that count neither in the loss nor in the score.
        categories: groups of classes that the dataset's benchmark also scores; none elsewhere.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore: int
    categories: tuple[Category, ...] = ()


def _label_set(
    colours: dict[str, Colour], ignore: int, categories: tuple[Category, ...] = ()
) -> LabelSet:
    return LabelSet(tuple(colours), tuple(colours.values()), ignore, categories)


CAMVID = _label_set(
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

# Toy street draws CamVid's classes, so that a network can move between the two.
TOY_STREET = CAMVID

# Class order, colours and categories: cityscapesScripts, helpers/labels.py (trainId 0 to 18).
CITYSCAPES = _label_set(
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

NO_LABELS = LabelSet((), (), 255)
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
