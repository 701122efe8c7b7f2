"""Good files, written by the commands themselves, for cases to damage."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from dabnet.data.toy_street import write_camvid_tree
from tests.support import ROOT
from tests.support.processes import run_python, write_known_peaks

SIZE = "64x128"
MODULES = {"train": "dabnet.cli", "export": "export.cli.main", "bench": "bench.cli.main"}


class Originals:
    """Each file is made when it is first asked for; processes that share ``folder`` share them.

    Attributes:
        weights: the shipped checkpoint of toy street, 11 classes.
        data: a data set in CamVid's format of 8 + 4 + 2 images of 96 x 128.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights = ROOT / "weights" / "dabnet_toy_street.pth"

    @cached_property
    def data(self) -> Path:
        def draw(path: Path) -> None:
            write_camvid_tree(path, (96, 128), {"train": 8, "val": 4, "test": 2})

        return self._made("data", draw)

    @cached_property
    def fp32(self) -> Path:
        return self._export("fp32.onnx", "onnx", self.weights, "--size", SIZE)

    @cached_property
    def int8(self) -> Path:
        few = ("--calibration-images", 4, "--precision", "int8")
        return self._export("int8.onnx", "onnx", self.weights, "--size", SIZE, *few)

    @cached_property
    def dynamic(self) -> Path:
        sides = ("--dynamic-batch", "--dynamic-size")
        return self._export("dynamic.onnx", "onnx", self.weights, "--size", SIZE, *sides)

    @cached_property
    def engine(self) -> Path:
        """An FP16 engine of TensorRT-RTX for sm86, with its manifest beside it."""
        words = ("--size", SIZE, "--precision", "fp16", "--target", "sm86")
        return self._export("fp16.engine", "trt", self.weights, *words)

    @cached_property
    def calibration(self) -> Path:
        words = (self.weights, "--size", SIZE, "--count", 4)
        return self._export("calibration.json", "calibration", *words)

    @cached_property
    def run(self) -> Path:
        """The folder of a finished run of 4 epochs; its previous.pth is of the third."""

        def train(path: Path) -> None:
            words = ("--data-dir", self.data, "--output", path, *self.tiny)
            self._command("train", *words, "--max-epochs", 4)

        return self._made("run", train)

    @property
    def tiny(self) -> tuple[object, ...]:
        """Options of ``dabnet-train`` for steps of some milliseconds."""
        words = ("--batch-size", 2, "--input-size", "64x64", "--eval-every", 1)
        return (*words, "--cache-dir", self.folder / "cache", "--no-tensorboard")

    @cached_property
    def record(self) -> Path:
        """The folder of a record of two rows, with pictures."""

        def measure(path: Path) -> None:
            write_known_peaks(self.folder / "bench-cache")
            rows = ("--backend", "pytorch-fp32", "--backend", "onnxruntime-fp32")
            brief = ("--size", SIZE, "--rounds", 3, "--min-time", 0.05, "--max-images", 2)
            words = (self.weights, *rows, *brief, "--threads", 1, "--output", path)
            self._command("bench", *words, "--cache-dir", self.folder / "bench-cache")

        return self._made("record", measure)

    def _export(self, name: str, *words: object) -> Path:
        return self._made(name, lambda path: self._command("export", *words, "--output", path))

    def _command(self, name: str, *words: object) -> None:
        program = f"from {MODULES[name]} import main; main()"
        done = run_python(program, *words, folder=self.folder)
        assert done.returncode == 0, done.stderr

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        """Make it in a folder of its own, unless another process did."""
        final = self.folder / name
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.exists():
                building = self.folder / f"building-{name}"
                shutil.rmtree(building, ignore_errors=True)
                building.mkdir()
                make(building / name)
                for made in building.iterdir():
                    made.rename(self.folder / made.name)
        return final
