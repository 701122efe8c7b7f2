"""A package whose backend behaves badly in every way, installed for the runs of a test."""

from __future__ import annotations

from pathlib import Path

PACKAGE = '''
import ctypes, time

import numpy as np

from bench.backends.base import Recipe
from dabnet.errors import BackendUnavailable
from dabnet.runtime.runner import RunnerInfo, check_images


class Runner:
    """Masks are a function of the image; ``wrong`` shifts a share of the rows by a class."""

    def __init__(self, shape, milliseconds, wrong, trouble, calls):
        self.info = RunnerInfo("hostile", "1.0", "cpu", "fp32", shape, (trouble,))
        self._seconds, self._wrong, self._left = milliseconds / 1e3, wrong, calls
        self._trouble = trouble
        if trouble == "load":
            raise OSError("no such library")

    def infer(self, images):
        images = check_images(images, self.info.shape)
        self._left -= 1
        if self._left < 0 and self._trouble == "crash":
            ctypes.string_at(0)
        if self._left < 0 and self._trouble == "hang":
            time.sleep(600)
        if self._left < 0 and self._trouble == "raise":
            raise RuntimeError("out of kernels")
        time.sleep(self._seconds)
        masks = images[..., 0] // 32
        masks[:, : round(self._wrong * masks.shape[1])] += 1
        return masks

    def stage(self, batches):
        self._staged = list(batches)

    def launch(self, index):
        self.infer(self._staged[index])

    def synchronize(self): ...

    def close(self): ...


VARIANTS = {
    # name: milliseconds, wrong rows, trouble, calls until then
    "steady": (2, 0, "", 0),
    "slower": (4, 0.25, "", 0),
    "load": (2, 0, "load", 0),
    "crash": (2, 0, "crash", 60),
    "hang": (2, 0, "hang", 20),
    "raise": (2, 0, "raise", 2),
    "unready": (2, 0, "", 0),  # its preparation crashes
}


class Backend:
    name, variants = "hostile", (*VARIANTS, "absent")

    def by_default(self, device):
        return ()

    def prepare(self, variant, setting, workshop):
        if variant == "absent":
            raise BackendUnavailable("no device", "a device", "buy one")
        names = ("milliseconds", "wrong", "trouble", "calls")
        arguments = dict(zip(names, VARIANTS[variant]))
        if variant == "unready":
            ctypes.string_at(0)
        arguments["shape"] = (setting.batch, *setting.size, 3)
        return Recipe(Runner, arguments, workshop.checkpoint_path)


BACKEND = Backend()
'''


def install(folder: Path) -> None:
    """Make the package one that is found where ``folder`` is on the path."""
    info = folder / "hostile-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "hostile.py").write_text(PACKAGE, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dabnet.backends]\nhostile = hostile:BACKEND\n")
