"""Which rows of a setting are still to be done."""

from __future__ import annotations

from pathlib import Path

from bench.backends.base import Recipe
from bench.measure.timer import Opened
from bench.record import Peaks, Setting, Turn
from bench.state import State
from dabnet.runtime.runner import NullRunner

SHAPE = (1, 8, 8, 3)


def test_rows_of_the_paper_are_apart_and_timed_once() -> None:
    state = State(Setting((8, 8)), ("pytorch-fp32", "pytorch-paper", "null-harness"))
    state.reasons["null-harness"] = "its process ended"
    assert state.runnable == ("pytorch-fp32",)
    state.turns["pytorch-paper"] = {}  # as a stopped run leaves it, before its turn came
    assert state.of_paper == ("pytorch-paper",)
    state.turns["pytorch-paper"] = {"paper": [Turn(0, 0.0, 0.1, (10**8,))]}
    assert state.of_paper == () and state.runnable == ("pytorch-fp32",)


def test_a_graph_that_cannot_be_counted_costs_the_limit_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "foreign.onnx").write_bytes(b"no graph at all")
    state = State(Setting((8, 8)), ("foreign-one",))
    graph = tmp_path / "foreign.onnx"
    state.recipes["foreign-one"] = Recipe(NullRunner, {"shape": SHAPE}, graph, graph=graph)
    state.opened["foreign-one"] = Opened(NullRunner(SHAPE).info, 0.1, 0.1)
    state.turns["foreign-one"] = {"device": [Turn(n, 0.0, 0.1, (10**8,)) for n in range(2)]}
    (row,) = state.rows(Peaks("a processor", 1e10, {"fp32": 1e11}, ""))
    assert row.limit is None and row.timing("device") is not None
