"""The registry of data sets: a data set is one module and one line of ``DATASETS``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dabnet.errors import InputError

if TYPE_CHECKING:
    from dabnet.data.dataset import Dataset
    from dabnet.data.labels import LabelSet

DRAWN_SIZE = (512, 1024)


class Source(NamedTuple):
    """Where a data set comes from.

    Attributes:
        factory: ``MODULE:CLASS`` with the protocol ``Dataset``, called with a folder and a split,
            or with a split and (height, width) where it is drawn. ``labels`` is a class attribute.
        folder: contents of the folder ``--data-dir``; "" for a data set that is drawn.
    """

    factory: str
    folder: str = ""

    def load(self) -> Any:
        module, _, name = self.factory.partition(":")
        return getattr(importlib.import_module(module), name)


DATASETS = {
    "camvid": Source("dabnet.data.camvid:CamVid", "the folder that holds camvid_*_list.txt"),
    "cityscapes": Source(
        "dabnet.data.cityscapes:Cityscapes", "the folder that holds leftImg8bit and gtFine"
    ),
    "toy-street": Source("dabnet.data.toy_street:ToyStreet"),
}


def open_dataset(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    size: tuple[int, int] | None = None,
) -> Dataset:
    """Open one split of a data set.

    Args:
        name: one of ``DATASETS``.
        split: ``train``, ``val``, ``trainval`` or ``test``.
        data_dir: the folder of the data set; a drawn one needs none.
        size: (height, width) of drawn images; those on disk have their own.
    """
    source = _source(name)
    if not source.folder:
        drawn: Dataset = source.load()(split, size or DRAWN_SIZE)
        return drawn
    if data_dir is None:
        raise InputError(f"no --data-dir for {name}", source.folder)
    opened: Dataset = source.load()(data_dir, split)
    return opened


def label_set(dataset: str) -> LabelSet:
    """Return the label set of a data set by its command-line name."""
    labels: LabelSet = _source(dataset).load().labels
    return labels


def _source(name: str) -> Source:
    if name not in DATASETS:
        raise InputError(f"unknown dataset {name!r}", "one of " + ", ".join(DATASETS))
    return DATASETS[name]
