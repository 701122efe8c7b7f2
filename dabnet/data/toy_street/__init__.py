"""Toy street: drawn street scenes with exact labels, for demos and tests without a download."""

from dabnet.data.toy_street.dataset import ToyStreet, write_camvid_tree
from dabnet.data.toy_street.layout import draw_scene

__all__ = ["ToyStreet", "draw_scene", "write_camvid_tree"]
