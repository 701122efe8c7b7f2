"""The registry of data sets: a data set is one module and one line of ``DATASETS``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dabnet.errors import InputError

if TYPE_CHECKING:
    from dabnet.data.dataset import Dataset
    from dabnet.data.labels import LabelSet

DRAWN = "toy-street"
"""The data set that needs no files, as it is drawn."""
DRAWN_SIZE = (512, 1024)


class Source(NamedTuple):
    """Where a data set comes from.

    Attributes:
        factory: ``MODULE:CLASS`` with the protocol ``Dataset``, called with a folder, a split
            and a list of faults, or with a split and (height, width) where it is drawn. ``labels``
            is a class attribute.
        folder: contents of the folder ``--data-dir``; "" for a data set that is drawn.
        has_classes: whether it always has the same classes.
    """

    factory: str
    folder: str = ""
    has_classes: bool = True

    def load(self) -> Any:
        module, _, name = self.factory.partition(":")
        return getattr(importlib.import_module(module), name)


DATASETS = {
    "camvid": Source("dabnet.data.camvid:CamVid", "the folder that holds camvid_*_list.txt"),
    "cityscapes": Source(
        "dabnet.data.cityscapes:Cityscapes", "the folder that holds leftImg8bit and gtFine"
    ),
    "voc": Source("dabnet.data.voc:PascalVoc", "the folder VOCdevkit/VOC2012"),
    "ade20k": Source("dabnet.data.ade20k:Ade20k", "the folder ADEChallengeData2016"),
    "folder": Source(
        "dabnet.data.folder:Folder", "a folder of images, masks and classes.txt", has_classes=False
    ),
    DRAWN: Source("dabnet.data.toy_street:ToyStreet"),
}


def open_dataset(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    size: tuple[int, int] | None = None,
    labels: LabelSet | None = None,
    faults: list[InputError] | None = None,
) -> Dataset:
    """Open one split of a data set.

    Args:
        name: one of ``DATASETS``.
        split: ``train``, ``val``, ``trainval`` or another that the data set has.
        data_dir: the folder of the data set; a drawn one needs none.
        size: (height, width) of drawn images; those on disk have their own.
        labels: the classes that a checkpoint carries. A folder without a file of classes takes
            them; what has classes of its own must have the same.
        faults: collects what is wrong with single pairs of files; None raises it.

    Raises:
        InputError: the data set, its folder or its split is missing or damaged, or its classes are
            not those of ``labels``.
    """
    source = _source(name)
    opened: Dataset
    if not source.folder:
        opened = source.load()(split, size or DRAWN_SIZE)
    elif data_dir is None:
        raise InputError(f"no --data-dir for {name}", source.folder)
    elif source.has_classes:
        opened = source.load()(data_dir, split, faults)
    else:
        opened = source.load()(data_dir, split, faults, labels)
    if labels and labels.classes and labels.classes != opened.labels.classes:
        raise InputError(
            f"the classes of {name} are {_names(opened.labels)}, and those of the checkpoint or of"
            f" --classes {_names(labels)}",
            "the same classes in the same order",
            "take the data set that the checkpoint was trained on",
        )
    return opened


def _names(labels: LabelSet) -> str:
    """Such as ``3: road, tree, sky``; of many classes the first and the last."""
    names = labels.classes
    shown = names if len(names) <= 6 else (*names[:4], "…", names[-1])
    return f"{len(names)}: {', '.join(shown)}"


def label_set(dataset: str) -> LabelSet:
    """Return the label set of a data set by its command-line name.

    Raises:
        InputError: the data set is unknown, or its classes are the user's.
    """
    source = _source(dataset)
    if not source.has_classes:
        raise InputError(
            f"the classes of the data set {dataset!r} are its own",
            "a checkpoint that carries them, or a file of classes",
            "add --classes FILE",
        )
    labels: LabelSet = source.load().labels
    return labels


def _source(name: str) -> Source:
    if name not in DATASETS:
        raise InputError(f"unknown dataset {name!r}", "one of " + ", ".join(DATASETS))
    return DATASETS[name]
