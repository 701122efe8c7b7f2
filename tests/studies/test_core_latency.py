"""Where the cores were: measured for real, and how rounds are told apart by it."""

from __future__ import annotations

import os
import sys

import pytest

from bench.record import Turn
from tests.support.study_runs import ROOT

sys.path.insert(0, str(ROOT / "studies"))

from core_latency import APART_NS, CoreWatch, core_latency_ns, rounds_by_cores

BINDS = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1


@pytest.mark.skipif(not BINDS, reason="needs two cores and a system that binds to them")
def test_a_way_takes_time_and_leaves_the_process_as_it_was() -> None:
    cores = os.sched_getaffinity(0)
    found = core_latency_ns()
    assert found is not None and found > 0
    assert os.sched_getaffinity(0) == cores


@pytest.mark.skipif(not BINDS, reason="needs two cores and a system that binds to them")
def test_one_core_has_nobody_to_talk_to() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert core_latency_ns() is None
        watch = CoreWatch()
        watch.start([])
        watch.stop(0.0)
        assert watch.latencies == [None]
    finally:
        os.sched_setaffinity(0, cores)


def test_rounds_are_told_apart_by_all_of_their_turns() -> None:
    """Two rows in four rounds, one of them repeated; in the third the cores moved."""
    near, far = APART_NS / 2, APART_NS * 2
    counted = [(0, True), (1, False), (1, True), (2, True), (3, True)]
    turns = {
        name: [
            Turn(number, 10.0 * place + shift, 1.0, (1,), counted=kept)
            for place, (number, kept) in enumerate(counted)
        ]
        for name, shift in (("a", 0.0), ("b", 5.0))
    }
    latencies = [near, near, far, far, near, near, near, far, far, far]
    assert rounds_by_cores(turns, latencies) == {"shared": (near, {0, 1}), "apart": (far, {3})}
    assert rounds_by_cores(turns, [None] * 10) == {}
    assert set(rounds_by_cores(turns, [None, *latencies[1:]])["shared"][1]) == {1}
