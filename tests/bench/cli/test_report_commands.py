"""``dabnet-bench report``, ``compare`` and ``recommend`` as real processes, by their exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench.record.file import write_record
from tests.support.processes import run_python
from tests.support.sample_reports import ROWS, sample_report

_PROGRAM = """
import sys
import click
from bench.cli.reports import REPORT_COMMANDS
from dabnet.console import CONTEXT, run
heavy = {"torch", "numpy", "rich", "pydantic", "scipy", "onnx"} & set(sys.modules)
assert not heavy, heavy
run(click.Group("dabnet-bench", {c.name: c for c in REPORT_COMMANDS}, context_settings=CONTEXT))
"""


def dabnet_bench(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return run_python(_PROGRAM, *arguments, folder=folder)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two records of the same code and one of slower code."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "runs/bench").mkdir(parents=True)
    write_record(sample_report(), folder / "runs/bench/bench.json")
    write_record(sample_report(seed=1), folder / "again.json")
    (folder / "link").symlink_to("runs/bench", target_is_directory=True)
    slow = ROWS | {"onnxruntime-fp32": (60.0, 0.6631, 3.2)}
    write_record(sample_report(slow, seed=2), folder / "slow.json")
    (folder / "old.json").write_text('{"format": 2, "rows": [], "model": "dabnet"}')
    return folder


BENCH = Path("runs/bench/bench.json")


def test_report_prints_the_table_and_writes_what_was_asked_for(
    records: Path, tmp_path: Path
) -> None:
    result = dabnet_bench("report", BENCH, folder=records)
    assert (result.returncode, result.stderr) == (0, "")
    assert "onnxruntime-int8" in result.stdout and "wrote" not in result.stdout
    assert [path.name for path in (records / BENCH).parent.iterdir()] == ["bench.json"]
    result = dabnet_bench("report", BENCH, "--output", tmp_path / "new", folder=records)
    assert result.returncode == 0, result.stderr
    names = ["bench.csv", "bench.html", "bench.json", "bench.md"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    assert (tmp_path / "new/bench.json").read_bytes() == (records / BENCH).read_bytes()
    result = dabnet_bench("report", tmp_path / "new/bench.json", "--html", folder=records)
    assert result.stdout.splitlines()[-1] == f"wrote {tmp_path / 'new/bench.html'}"
    for same in (BENCH, tmp_path / "new/bench.json"):  # the record itself, and a copy of it
        result = dabnet_bench("report", same, "--output", tmp_path / "new", folder=records)
        assert result.returncode == 0, result.stderr


def test_several_records_are_one_table_and_page(records: Path, tmp_path: Path) -> None:
    both = ("report", BENCH, "again.json")
    result = dabnet_bench(*both, "--output", tmp_path / "new", folder=records)
    assert (result.returncode, result.stderr) == (0, "")
    names = ["machines.csv", "machines.html", "machines.md"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    assert result.stdout.count("cost: 512x1024") == 1
    assert "bench.json" in (tmp_path / "new/machines.md").read_text(encoding="utf-8")
    again = dabnet_bench(*both, "--output", tmp_path / "new", folder=records)
    assert again.returncode == 0, again.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/machines.csv").write_text("a,b\n")
    refused = dabnet_bench(*both, "--output", tmp_path / "mine", folder=records)
    assert refused.returncode == 2 and "machines.csv" in refused.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["machines.csv"]


def test_an_earlier_record_with_paths_is_reported_twice(records: Path, tmp_path: Path) -> None:
    """Its copy is private, and is no other record."""
    raw = json.loads((records / BENCH).read_text(encoding="utf-8"))
    raw["rows"][-1]["reason"] = "no file at '/home/bob/x.pth'"
    old = tmp_path / "old.json"
    old.write_text(json.dumps(raw), encoding="utf-8")
    for _ in range(2):
        result = dabnet_bench("report", old, "--output", tmp_path / "new", folder=records)
        assert result.returncode == 0, result.stderr
    assert "bob" not in (tmp_path / "new/bench.json").read_text(encoding="utf-8")


def test_compare_passes_and_fails_by_its_exit_code(records: Path) -> None:
    result = dabnet_bench("compare", BENCH, "again.json", folder=records)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "PASS: 0 regressions in 13 findings; 1 not judged"
    assert "Welch's 95 % interval" in result.stdout and "not in its interval" in result.stdout
    here = records / BENCH
    result = dabnet_bench("compare", here, "slow.json", "--json", "c.json", folder=records)
    assert result.returncode == 1, result.stderr
    assert result.stdout.splitlines()[-1].startswith("REGRESSION: 2 regressions in 13 findings")
    first = next(line for line in result.stdout.splitlines() if " ms " in line)
    assert first.split()[:4] == ["regression", "onnxruntime-fp32", "host", "speed"]
    written = json.loads((records / "c.json").read_text(encoding="utf-8"))
    assert (written["regressions"], written["passed"], written["basis"]) == (2, False, "direct")
    assert (written["old"], written["new"]) == ("bench.json", "slow.json")  # no paths of a user
    assert written["findings"][0]["change"]["high"] < 1 / 1.03
    wide = ("--max-slowdown", "30")
    assert dabnet_bench("compare", BENCH, "slow.json", *wide, folder=records).returncode == 0


def test_recommend_names_the_artifact_by_default_of_the_last_run(records: Path) -> None:
    bounds = ("--min-miou", "0.66", "--max-latency-ms", "60")
    result = dabnet_bench("recommend", *bounds, folder=records)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("ship onnxruntime-fp32 (onnxruntime-fp32.onnx)")
    result = dabnet_bench("recommend", BENCH, "--max-latency-ms", "10", folder=records)
    assert result.returncode == 1
    assert result.stdout.startswith("nothing meets the bounds")


BAD_INPUTS: dict[str, tuple[tuple[str | Path, ...], str]] = {
    "absent": (("report", "absent.json"), "no file at 'absent.json'; expected a record"),
    "older": (
        ("report", "old.json"),
        "of format 2; expected format 4; measure again",
    ),
    "older to compare": (("compare", BENCH, "old.json"), "holds a record of format 2"),
    "overwritten": (("compare", BENCH, "slow.json", "--json", "slow.json"), "is the input itself"),
    "percent": (
        ("recommend", BENCH, "--min-miou", "66"),
        "expected a share from 0 to 1, got 66; write 0.66 for 66 %",
    ),
    "size": (
        ("recommend", BENCH, "--size", "8x8"),
        "--size 8x8; expected one of: 512x1024, batch 1",
    ),
    "the same record twice": (
        ("report", BENCH, "again.json", BENCH),
        "'runs/bench/bench.json' and 'runs/bench/bench.json' are the same record; expected each",
    ),
    "a page of several records": (
        ("report", BENCH, "again.json", "--html"),
        "--html with 2 records; expected a folder for their page; name it with --output DIR",
    ),
    "a page twice": (
        ("report", BENCH, "--html", "--output", "new"),
        "--html with --output; expected one of them: the folder has the page too",
    ),
    "an old record among several": (
        ("report", BENCH, "old.json", "--output", "new"),
        "'old.json' holds a record of format 2; expected format 4",
    ),
    "another record": (
        ("report", "again.json", "--output", "runs/bench"),
        "'runs/bench/bench.json' is another record than 'again.json'; expected a folder without",
    ),
    "another record by a link": (
        ("report", "again.json", "--output", "link"),
        "'link/bench.json' is another record than 'again.json'",
    ),
    "output": (("report", BENCH, "--output", "old.json"), "is a file; expected a directory"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line(records: Path, case: str) -> None:
    arguments, said = BAD_INPUTS[case]
    before = {path: path.read_bytes() for path in records.rglob("*.json")}
    result = dabnet_bench(*arguments, folder=records)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and said in line
    assert {path: path.read_bytes() for path in records.rglob("*.json")} == before
