"""Datasets by their command-line names."""

from __future__ import annotations

from pathlib import Path

from dabnet.data.dataset import Dataset
from dabnet.errors import InputError

DATASET_NAMES = ("camvid", "cityscapes", "toy-street")
TOY_STREET_SIZE = (512, 1024)


def open_dataset(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    size: tuple[int, int] | None = None,
) -> Dataset:
    """Open one split of a dataset.

    Args:
        name: one of ``DATASET_NAMES``.
        split: ``train``, ``val``, ``trainval`` or ``test``.
        data_dir: the dataset's folder; toy street is drawn and needs none.
        size: (height, width) of images that are drawn; those on disk have their own.
    """
    if name == "toy-street":
        from dabnet.data.toy_street import ToyStreet

        return ToyStreet(split, size or TOY_STREET_SIZE)
    if name == "camvid":
        from dabnet.data.camvid import CamVid

        return CamVid(_required(data_dir, name, "the folder that holds camvid_*_list.txt"), split)
    if name == "cityscapes":
        from dabnet.data.cityscapes import Cityscapes

        folder = _required(data_dir, name, "the folder that holds leftImg8bit and gtFine")
        return Cityscapes(folder, split)
    raise InputError(f"no images of dataset {name!r}", "one of " + ", ".join(DATASET_NAMES))


def _required(data_dir: str | Path | None, name: str, what: str) -> str | Path:
    if data_dir is None:
        raise InputError(f"no --data-dir for {name}", what)
    return data_dir
