"""The README: short, in order, with the figures of its record; it runs as written."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from dabnet.cli import train_command
from tests.support import ROOT
from tests.support.contract_graph import HEIGHT, WIDTH, write_contract
from tests.support.documents import links
from tests.support.processes import run_python

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = (
    *("Demo", "What was measured", "Use an artifact", "Install", "Train, export, measure"),
    *("Map", "Citation"),
)
MOST_WORDS, MOST_COLUMNS, MOST_PICTURE_BYTES = 800, 120, 2_000_000


def section(name: str) -> str:
    return README.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_it_is_short_and_in_order() -> None:
    told = re.sub(r"<!--.*?-->", "", README)
    assert len([word for word in told.split() if re.search(r"\w", word)]) <= MOST_WORDS
    assert max(map(len, README.splitlines())) <= MOST_COLUMNS
    assert tuple(re.findall(r"^## (.+)$", README, re.M)) == SECTIONS
    start = README.partition("\n## ")[0]
    assert len(re.findall(r"\.(?:\s|$)", re.sub(r"!?\[.*?\)", "", start))) == 1, "one sentence"
    assert start.count("![") == 2
    assert section("Demo").count("![") == 1


def test_its_pictures_are_there_and_small() -> None:
    pictures = [path for path, _ in links("README.md") if path.suffix in (".png", ".gif", ".webp")]
    assert len(pictures) == 3
    assert sum(path.stat().st_size for path in pictures) <= MOST_PICTURE_BYTES


def test_its_figures_are_those_of_the_record() -> None:
    told = section("What was measured")
    (record,) = (path for path, _ in links("README.md") if path.suffix == ".json")
    assert record.name in told
    rows = {row["name"]: row for row in json.loads(record.read_text(encoding="utf-8"))["rows"]}
    lines = re.findall(r"^\| (\w+-\w+) \| (.+) \|$", told, re.M)
    assert len(lines) == 5
    for name, cells in lines:
        (host,) = (t for t in rows[name]["timings"] if t["scope"] == "host")
        score, speed = rows[name]["accuracy"]["score"], host["speed_ratio"]
        found = [cell.strip() for cell in cells.split("|")]
        assert found[0] == f"{100 * score['miou']['value']:.2f}"
        assert found[3] == f"{host['latency']['p50_ms']:.2f}"
        if change := score["miou_difference"]:
            values = [f"{100 * change[end]:.2f}" for end in ("value", "low", "high")]
            assert [float(v) for v in values] == numbers(found[1])
        if speed:
            values = [f"{speed[end]:.2f}" for end in ("value", "low", "high")]
            assert [float(v) for v in values] == numbers(found[4])
            assert found[4].endswith(host["verdict"])
    assert told.index("**Not measured:**") > told.rindex("| openvino-int8")


def numbers(cell: str) -> list[float]:
    return [float(n) for n in re.findall(r"[+-]?\d+\.\d+", cell.replace("−", "-"))]


def test_the_map_has_every_folder() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    patterns = [line.strip("/") for line in ignored if line.endswith("/")] + [".git", "shared"]
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    folders = {f for f in folders if not any(fnmatch.fnmatch(f, p) for p in patterns)}
    assert set(re.findall(r"^\| `([\w.]+)/` \| \S", section("Map"), re.M)) == folders


def test_the_use_of_an_artifact_runs_as_written(tmp_path: Path) -> None:
    """On an artifact of any size, a picture of another, and a machine without torch."""
    (snippet,) = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
    used = [line for line in snippet.splitlines() if line and not re.match("from|import", line)]
    assert len(used) == 5
    write_contract(tmp_path, "int8").rename(tmp_path / "camvid-int8.onnx")
    Image.new("RGBA", (50, 70), (10, 200, 90, 255)).save(tmp_path / "frame.png")
    program = f"import sys; sys.modules['torch'] = None\n{snippet}\nprint(mask.shape, mask.dtype)"
    done = run_python(program, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"({HEIGHT}, {WIDTH}) uint8\n"


def test_torchrun_is_called_in_one_way() -> None:
    told = " ".join(CliRunner().invoke(train_command, ["--help"]).output.split())
    for text in ((ROOT / "docs" / "training.md").read_text(encoding="utf-8"), told):
        calls = re.findall(r"torchrun --\S+ \d+ \S+ \S+", text)
        assert calls == ["torchrun --nproc-per-node 4 -m dabnet.cli"]
