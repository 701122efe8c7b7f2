"""README and docs: each command is one that the commands take, each link leads somewhere.

A block is run in a folder with a small checkpoint, an artifact, a record and a photo, unless the
line before it says what it needs. Sizes and times are smaller than the page's.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from PIL import Image

from tests.support import ROOT
from tests.support.contract_graph import write_contract
from tests.support.documents import (
    COMMANDS,
    MODULES,
    NEEDS,
    PAGES,
    Block,
    Unknown,
    blocks,
    check,
    command_lines,
    links,
)
from tests.support.processes import run_python, write_known_peaks

BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [
    page
    for page in PAGES
    if any(b.language in ("sh", "python") and not b.needs for b in blocks(page))
]
TUTORIAL = "docs/tutorial.md"
SMALLER = {
    "dabnet-run": {"--max-frames": "2"},
    "onnx": {"--size": "64x128"},
    "trt": {"--size": "64x128"},
    "run": {
        **{"--size": "64x128", "--rounds": "2", "--min-time": "0.05", "--max-images": "2"},
        **{"--pictures": "0", "--threads": "1", "--backend": "pytorch-fp32"},
    },
}
"""Values of options by the command that they make small."""

# One import of torch, where commands need it, and a process forked from there for each.
PROGRAM = """
import importlib, json, os, sys
from tests.support.forked_commands import in_a_fork

def run(step):
    os.environ.update(step["environment"])
    if step["code"]:
        exec(compile(step["code"], step["at"], "exec"), {"__name__": "__main__"})
    else:
        sys.argv = step["words"]
        importlib.import_module(modules[sys.argv[0]]).main()

modules, steps = json.load(sys.stdin)
if any(step["words"][:1] == ["dabnet-export"] for step in steps):
    import torch
for step in steps:
    if code := in_a_fork(lambda: run(step)):
        sys.exit(f"{step['at']}: exit code {code} of {step['words'] or 'the program'}")
"""


def names(items: Sequence[Block]) -> list[str]:
    return [str(block) for block in items]


@pytest.mark.parametrize("block", BLOCKS, ids=names(BLOCKS))
def test_a_block_is_what_it_says(block: Block) -> None:
    """Commands are parsed by their own options, programs compiled, and their imports are there."""
    assert block.needs in ("", *NEEDS)
    if block.language == "sh":
        for line in command_lines(block.text):
            check(line.words)
    elif block.language == "python":
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, name.name) for name in node.names)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "ini":
        configparser.ConfigParser().read_string(block.text)
    else:
        assert block.language in ("", "text", "bibtex")


def steps(page: str) -> Iterator[dict[str, object]]:
    """The commands and programs of a page that are run, in order."""
    for block in blocks(page):
        at = {"at": str(block), "environment": {}, "words": [], "code": ""}
        if block.needs:
            continue
        if block.language == "python":
            yield at | {"code": block.text}
        elif block.language == "sh":
            for line in command_lines(block.text):
                if line.words[0] in COMMANDS:
                    words = line.words if line.environment else smaller(line.words)
                    yield at | {"words": words, "environment": line.environment}


def smaller(words: list[str]) -> list[str]:
    """The same command with smaller values."""
    name = words[0] if words[0] in SMALLER else words[1]
    if words[0] == "dabnet-bench" and name not in ("report", "compare", "recommend"):
        name = "run"
    values = SMALLER.get(name, {})
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not {before, word} & set(values)
    ]
    return [*kept, *(word for pair in values.items() for word in pair)]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page == TUTORIAL else []) for page in RUN],
)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    (tmp_path / "runs/bench").mkdir(parents=True)
    record = ROOT / "studies/results/bench_camvid_amx.json"
    for name in ("bench.json", "old.json", "new.json", "mine.json"):
        shutil.copy(record, tmp_path / name)
    shutil.copy(record.with_name("bench_camvid_avx512.json"), tmp_path / "theirs.json")
    if page != TUTORIAL:
        shutil.copy(record, tmp_path / "runs/bench/bench.json")
    write_contract(tmp_path).rename(tmp_path / "model.onnx")
    shutil.copy(tmp_path / "model.onnx", tmp_path / "camvid-int8.onnx")
    Image.new("RGBA", (50, 70), (10, 200, 90, 255)).save(tmp_path / "frame.png")
    write_known_peaks(tmp_path / ".dabnet-cache")
    given = json.dumps([MODULES, list(steps(page))])
    done = run_python(PROGRAM, folder=tmp_path, stdin=given, COLUMNS="200")
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    for path, anchor in links(page):
        assert path.is_file(), f"{page}: {path}"
        if anchor:
            assert "--" not in anchor, "mkdocs has another anchor for such a heading"
            text = path.read_text(encoding="utf-8")
            assert anchor in {slug(found) for found in re.findall(r"^#+ (.+)$", text, re.M)}, anchor


def slug(heading: str) -> str:
    """The anchor of a heading on GitHub; mkdocs makes others of headings with more than words."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def test_a_renamed_option_breaks_a_page() -> None:
    for line in (
        "dabnet-train --max-epoch 2",
        "dabnet-export onnx a.pth",
        "dabnet-bench a.pth --size 8",
        "dabnet-bench report",
        "make demos",
        "pip install '.[all]'",
        "pip install -c constraints/none.txt .",
        "python studies/export_speed.py --no-such",
        "python examples/segment.py model.onnx",
        "torchrun --nproc-per-node 2 -m dabnet.cli --no-such",
        "unknown --program",
    ):
        with pytest.raises(Unknown):
            for found in command_lines(line):
                check(found.words)


def test_the_site_builds_and_the_index_has_every_page(tmp_path: Path) -> None:
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    try:
        build(config)
    except Abort as error:
        pytest.fail(f"mkdocs build --strict: {error}; run it to see its warnings")
    for name in ("training/index.html", "weights/index.html", "studies/results/engine_plans.json"):
        assert (tmp_path / "site" / name).is_file()
    index = {path.name for path, _ in links("docs/index.md")}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"} <= index


QUOTED = re.compile(r"^error: (.+)$", re.M)


def test_errors_that_troubleshooting_quotes_are_in_the_source() -> None:
    """Between the names and numbers (…) of a quoted line stand texts of the project."""
    texts = set()
    for package in ("dabnet", "calibration", "export", "bench"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.add(node.value)
    source = "\n".join(texts)
    page = blocks("docs/troubleshooting.md")
    lines = [line for block in page for line in QUOTED.findall(block.text)]
    assert len(lines) >= 10
    for line in lines:
        parts = [part for found in line.split("…") for part in re.split(r"; (?:expected )?", found)]
        parts = [part.strip(" ;():").removeprefix("is ") for part in parts]
        assert [part for part in parts if len(part) > 3 and part not in source] == [], line
