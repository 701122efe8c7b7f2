"""The README runs as written."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from dabnet.cli import train_command
from tests.support import ROOT
from tests.support.contract_graph import HEIGHT, WIDTH, write_contract
from tests.support.processes import run_python

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_use_of_an_artifact_runs_as_written(tmp_path: Path) -> None:
    """On an artifact of any size, a picture of another, and a machine without torch."""
    (snippet,) = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
    write_contract(tmp_path, "int8").rename(tmp_path / "camvid-int8.onnx")
    Image.new("RGBA", (50, 70), (10, 200, 90, 255)).save(tmp_path / "frame.png")
    program = f"import sys; sys.modules['torch'] = None\n{snippet}\nprint(mask.shape, mask.dtype)"
    done = run_python(program, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"({HEIGHT}, {WIDTH}) uint8\n"


def test_torchrun_is_called_in_one_way() -> None:
    told = " ".join(CliRunner().invoke(train_command, ["--help"]).output.split())
    for text in (README, (ROOT / "docs" / "training.md").read_text(encoding="utf-8"), told):
        calls = re.findall(r"torchrun --\S+ \d+ \S+ \S+", text)
        assert calls == ["torchrun --nproc-per-node 4 -m dabnet.cli"]
