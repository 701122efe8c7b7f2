"""Rows of a setting: which are still to be done, and what becomes of one."""

from __future__ import annotations

from pathlib import Path

from bench.backends.base import Recipe
from bench.candidates import Candidate
from bench.measure.timer import Opened
from bench.record import Peaks, Setting, Subject, Turn
from bench.state import RowState, State
from dabnet.data.labels import NO_LABELS
from dabnet.runtime.runner import NullRunner

SHAPE = (1, 8, 8, 3)
SETTING = Setting((8, 8))


def candidate(label: str, untrained: bool = False) -> Candidate:
    subject = Subject(label, "dabnet", "", "", "", None, {}, untrained)
    return Candidate(subject, Path(), NO_LABELS)


def state_of(*rows: str) -> State:
    return State.of(SETTING, [candidate("dabnet")], rows)


def names(rows: list[RowState]) -> list[str]:
    return [row.name for row in rows]


def test_rows_of_the_paper_are_apart_and_timed_once() -> None:
    state = state_of("pytorch-fp32", "pytorch-paper", "null-harness")
    state.rows["null-harness"].reason = "its process ended"
    assert names(state.runnable) == ["pytorch-fp32"]
    # A stopped run leaves the row without a turn, before its turn came.
    assert names(state.of_paper) == ["pytorch-paper"]
    state.rows["pytorch-paper"].turns = {"paper": [Turn(0, 0.0, 0.1, (10**8,))]}
    assert state.of_paper == [] and names(state.runnable) == ["pytorch-fp32"]


def test_a_graph_that_cannot_be_counted_costs_the_limit_and_nothing_else(tmp_path: Path) -> None:
    graph = tmp_path / "foreign.onnx"
    graph.write_bytes(b"no graph at all")
    state = state_of("foreign-one")
    foreign = state.rows["foreign-one"]
    foreign.recipe = Recipe(NullRunner, {"shape": SHAPE}, graph, graph=graph)
    foreign.opened = Opened(NullRunner(SHAPE).info, 0.1, 0.1)
    foreign.turns = {"device": [Turn(n, 0.0, 0.1, (10**8,)) for n in range(2)]}
    foreign.find_limit(Peaks("a processor", 1e10, {"fp32": 1e11}, ""))
    (row,) = state.record()
    assert row.limit is None and row.timing("device") is not None


def test_a_row_is_compared_with_the_reference_and_not_with_itself() -> None:
    state = state_of("pytorch-fp32", "other-one")
    for row, ns in zip(state.rows.values(), (2 * 10**8, 10**8), strict=True):
        row.turns = {"host": [Turn(n, 0.0, ns / 1e9, (ns,)) for n in range(2)]}
    (reference,), (other,) = (row.timings for row in state.record())
    assert (reference.speed_ratio, reference.verdict) == (None, "")
    assert other.speed_ratio and (other.speed_ratio.value, other.verdict) == (2.0, "faster")


def test_speed_has_one_reference_and_masks_have_that_of_their_network() -> None:
    """Where the first has failed, the next one is the reference of speed."""
    found = [candidate("a"), candidate("b"), candidate("c", untrained=True)]
    state = State.of(SETTING, found, ("pytorch-fp32", "other-one"))
    assert list(state.rows) == [
        f"{of}/{on}" for of in "abc" for on in ("pytorch-fp32", "other-one")
    ]
    first, _, second, other, *_ = state.rows.values()
    assert state.reference is first and state.own_reference(other) is second
    assert state.own_reference(second) is None
    assert names(state.scorable) == names(state.runnable)[:4]  # random weights have no accuracy
    for row, ns in ((first, 4 * 10**8), (second, 2 * 10**8), (other, 10**8)):
        row.turns = {"host": [Turn(n, 0.0, ns / 1e9, (ns,)) for n in range(2)]}
    ratios = {row.name: row.timing("host") for row in state.record()}
    assert (r := ratios["b/other-one"]) and r.speed_ratio and r.speed_ratio.value == 4
    first.reason = "its process ended"
    assert state.reference is second
    assert {row.of: row.on for row in state.record()} == dict.fromkeys("abc", "other-one")
