"""The deployment example as a program of its own, in a process that cannot import torch."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from dabnet.data.toy_street import draw_scene
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from tests.support import ROOT
from tests.support.contract_graph import HEIGHT, WIDTH, write_contract
from tests.support.processes import run_python

pytest.importorskip("onnxruntime")

PROGRAM = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "matplotlib", "click", "rich", "av"):
            raise ImportError(name + " is not there")

sys.meta_path.insert(0, Blocker())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def segment(*words: object) -> CompletedProcess[str]:
    return run_python(PROGRAM, ROOT / "examples" / "segment.py", *words)


def test_a_folder_of_images(tmp_path: Path) -> None:
    artifact, photos = write_contract(tmp_path), tmp_path / "photos"
    photos.mkdir()
    scenes = [draw_scene((i,), (60, 90))[0] for i in range(3)]
    for index, scene in enumerate(scenes):
        Image.fromarray(scene).save(photos / f"{index}.png")
    (photos / "notes.txt").write_text("no image")
    done = segment(artifact, photos, tmp_path / "new" / "masks")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    runner = OnnxRuntimeRunner(artifact, threads=1)
    for index, scene in enumerate(scenes):
        frame = Image.fromarray(scene)
        small = np.asarray(frame.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))[None]
        wanted = Image.fromarray(runner.infer(small)[0]).resize(
            frame.size, Image.Resampling.NEAREST
        )
        with Image.open(tmp_path / "new" / "masks" / f"{index}.png") as found:
            assert (np.asarray(found) == np.asarray(wanted)).all()
    assert len(list((tmp_path / "new" / "masks").iterdir())) == 3


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    artifact = write_contract(tmp_path)
    for words, told in (
        ((tmp_path / "none.onnx", tmp_path, tmp_path), "error: no file at"),
        ((artifact, tmp_path / "none", tmp_path), "error: [Errno 2] No such file"),
        ((artifact,), "python segment.py model.onnx photos/ masks/"),
    ):
        done = segment(*words)
        assert done.returncode == 1
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
