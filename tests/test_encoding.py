"""What terminals show that lack our characters: their likes, and escapes for those of others."""

from __future__ import annotations

import ast
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dabnet.data.toy_street import write_camvid_tree
from dabnet.encoding import ASCII, ERRORS, adapted
from tests.support import ROOT
from tests.support.contract_graph import write_contract
from tests.support.documents import MODULES
from tests.support.processes import run_python

RECORD = ROOT / "studies/results/bench_camvid_amx.json"
ESCAPE = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}")


def printed_texts(path: Path) -> Iterator[str]:
    """String constants of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def test_every_character_of_ours_has_its_like_in_ascii() -> None:
    found = set()
    for package in ("dabnet", "calibration", "export", "bench"):
        for path in (ROOT / package).rglob("*.py"):
            if "page" not in path.parts:  # HTML is UTF-8 everywhere
                found |= {letter for text in printed_texts(path) for letter in text}
    found = {letter for letter in found if not letter.isascii()}
    assert len(found) > 8
    assert found <= set(ASCII)
    assert all(like.isascii() for like in ASCII.values())


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "−0.19 × Δ … é"),
        ("ascii", "-0.19 x diff ... \\xe9"),
        ("cp437", "-0.19 x diff ... é"),
        ("latin-1", "-0.19 × diff ... é"),
    ],
)
def test_a_stream_shows_what_it_has(encoding: str, expected: str) -> None:
    text = "−0.19 × Δ … é"
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, errors=ERRORS) as stream:
        stream.write(text)
        stream.flush()
        assert raw.getvalue().decode(encoding) == expected
    assert adapted(text, encoding) == expected


LINES = {
    "report": f"dabnet-bench report {RECORD}",
    "compare": f"dabnet-bench compare {RECORD} {RECORD}",
    "recommend": f"dabnet-bench recommend {RECORD} --max-latency-ms 30",
    "inspect": "dabnet-export inspect contract.onnx",
    "verify": "dabnet-export verify contract.onnx contract.onnx --limit 1",
    "data": "dabnet-data check data --dataset camvid",
    "summary": "dabnet-train --summary",
    "help": "dabnet-train --help",
    "error": "dabnet-data check nowhere",
}


def run(line: str, folder: Path, **variables: str) -> str:
    name, *words = shlex.split(line)
    done = run_python(
        f"from {MODULES[name]} import main; main()", *words, folder=folder, **variables
    )
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", LINES)
def test_every_command_is_readable_in_ascii(name: str, tmp_path: Path) -> None:
    if name == "data":
        write_camvid_tree(tmp_path / "data", (32, 64), {"train": 2, "val": 1})
    elif name in ("inspect", "verify"):
        write_contract(tmp_path).rename(tmp_path / "contract.onnx")
    text = run(LINES[name], tmp_path, PYTHONIOENCODING="ascii", TERM="dumb")
    assert text.isascii()
    assert len(text) > 40
    assert not ESCAPE.search(text)
    assert "\x1b" not in text


def test_lc_all_c_asks_for_ascii_unless_python_is_told_otherwise(tmp_path: Path) -> None:
    line = LINES["help"]
    assert run(line, tmp_path, LC_ALL="C", PYTHONIOENCODING="").isascii()
    assert not run(line, tmp_path, LC_ALL="C", PYTHONIOENCODING="utf-8").isascii()
    assert not run(line, tmp_path, LC_ALL="C.UTF-8", PYTHONIOENCODING="").isascii()
