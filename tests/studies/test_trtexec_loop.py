"""trtexec as a loop of calls, with a program in its place that writes what trtexec writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dabnet.errors import BackendUnavailable
from dabnet.runtime.manifest import TensorInfo
from tests.support.contract_graph import HEIGHT, WIDTH
from tests.support.engine_files import INFO, write_engine
from tests.support.study_runs import ROOT

Loop = Callable[[Path, str], Any]

# A query as samples/common/sampleReporting.cpp of TensorRT prints it; call n takes n ms.
PROGRAM = """#!{python}
import json, pathlib, sys
words = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
pathlib.Path({said!r}).write_text(json.dumps(words))
if {fails!r}:
    print({fails!r})
    sys.exit(1)
assert pathlib.Path(words["loadEngine"]).is_file()
calls = int(words["iterations"]) - {missing}
queries = [-1.0] * {warm_up} + [float(n + 1) for n in range(calls)]
pathlib.Path(words["exportTimes"]).write_text(json.dumps([
    {{"startComputeMs": 10 * n, "endComputeMs": 10 * n + ms, "h2dMs": 0, "computeMs": ms,
      "d2hMs": 0, "latencyMs": ms}} for n, ms in enumerate(queries)
]))
"""


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    from instruments import TrtexecLoop

    return TrtexecLoop


def trtexec(at: Path, *, fails: str = "", missing: int = 0, warm_up: int = 0) -> tuple[str, Path]:
    program, said = at / "trtexec", at / "words.json"
    text = PROGRAM.format(
        python=sys.executable, said=str(said), fails=fails, missing=missing, warm_up=warm_up
    )
    program.write_text(text)
    program.chmod(0o755)
    return str(program), said


@pytest.mark.parametrize("warm_up", [0, 5])
def test_a_turn_holds_the_last_calls_in_order(loop: Loop, tmp_path: Path, warm_up: int) -> None:
    program, said = trtexec(tmp_path, warm_up=warm_up)
    engine = write_engine(tmp_path, INFO)
    timed = loop(engine, program).turn("device", 4)
    assert timed.samples_ns == (1_000_000, 2_000_000, 3_000_000, 4_000_000)
    assert timed.wall_s == pytest.approx(0.010)
    assert timed.cpu_s > 0  # the program's own, which the watch must not take for a stranger's
    words = json.loads(said.read_text())
    assert words["loadEngine"] == str(engine) and words["duration"] == "0"
    assert "noDataTransfers" in words and "shapes" not in words


def test_the_shape_of_a_dynamic_engine_is_given(loop: Loop, tmp_path: Path) -> None:
    program, said = trtexec(tmp_path)
    dynamic = TensorInfo("image", "uint8", (-1, HEIGHT, WIDTH, 3))
    mask = TensorInfo("mask", "uint8", (-1, HEIGHT, WIDTH))
    info = replace(INFO, profile=((1, HEIGHT, WIDTH, 3),) * 3)
    engine = write_engine(tmp_path, info, input=dynamic, output=mask)
    loop(engine, program).turn("device", 4)
    assert json.loads(said.read_text())["shapes"] == f"image:1x{HEIGHT}x{WIDTH}x3"


def test_what_goes_wrong_is_said(loop: Loop, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, INFO)
    with pytest.raises(BackendUnavailable, match="does not start"):
        loop(engine, str(tmp_path / "none")).turn("device", 4)
    program, _ = trtexec(tmp_path, fails="[08/01/2026-10:00:00] [E] Engine is of another version")
    with pytest.raises(BackendUnavailable, match="Engine is of another version"):
        loop(engine, program).turn("device", 4)
    program, _ = trtexec(tmp_path, missing=1)
    with pytest.raises(BackendUnavailable, match="3 calls of 4"):
        loop(engine, program).turn("device", 4)
