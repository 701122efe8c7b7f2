"""Drawn street scenes with exact labels, for tests and demonstrations: no file is needed."""

from dabnet.data.toy_street.dataset import ToyStreet, write_camvid_tree
from dabnet.data.toy_street.scene import draw_drive, draw_scene

__all__ = ["ToyStreet", "draw_drive", "draw_scene", "write_camvid_tree"]
