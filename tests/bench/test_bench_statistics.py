"""The numbers of a report against numpy, its intervals and verdicts against simulated runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.measure.request import LEAST_ROUNDS_TO_TARGET, Scenario
from bench.measure.rounds import Interleaved
from bench.measure.timer import Timed
from bench.record import Turn
from bench.record.timing import fps_of_turns, latency, speed_ratio
from bench.statistics import (
    EQUAL,
    FASTER,
    MARGIN,
    NOT_TOLD,
    SLOWER,
    paired_ratio,
    percentile_interval,
    ratio_of_runs,
    relative_width,
    rounds_needed,
    share_interval,
    student_quantile,
    verdict,
)
from dabnet.intervals import Interval
from dabnet.metrics import Floats
from tests.support.fake_clock import NoWatch

Turns = list[Turn]
ROUNDS = 30
"""As many as ``dabnet-bench`` does by default."""


def turn(number: int, samples_ns: Sequence[float], counted: bool = True, wall: float = 0) -> Turn:
    wall_s = wall or sum(samples_ns) / 1e9
    return Turn(number, 0.0, wall_s, tuple(round(s) for s in samples_ns), counted=counted)


# --- latency and frames a second ----------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1_000, 10**11), min_size=2, max_size=200), st.integers(1, 16))
def test_latency_is_numpys_percentiles_of_all_samples(samples: list[int], batch: int) -> None:
    ns, half = np.array(samples, np.int64), len(samples) // 2
    turns = [turn(0, samples[:half]), turn(0, [10**12], counted=False), turn(1, samples[half:])]
    found = latency(turns)
    assert found is not None
    for name, rank in (("p50_ms", 50), ("p90_ms", 90), ("p95_ms", 95), ("p99_ms", 99)):
        assert getattr(found, name) == pytest.approx(np.percentile(ns, rank) / 1e6)
    assert found.iqr_ms == pytest.approx(
        (np.percentile(ns, 75) - np.percentile(ns, 25)) / 1e6, abs=1e-6
    )
    assert found.min_ms == min(samples) / 1e6
    assert found.calls == len(samples)
    fps = fps_of_turns(turns, batch)
    assert fps is not None and fps.low <= fps.value <= fps.high
    assert fps.value == pytest.approx(batch * len(samples) / (sum(samples) / 1e9))


def test_a_slow_call_counts_in_the_frame_rate() -> None:
    samples = [1_000_000] * 99 + [901_000_000]  # 99 of 1 ms and one of 0.9 s
    turns = [turn(0, samples), turn(1, samples)]
    fps, summary = fps_of_turns(turns, 4), latency(turns)
    assert fps is not None and fps.value == pytest.approx(400.0)
    assert summary is not None and summary.p50_ms == 1.0  # FPS is not 1 / p50


def test_calls_that_overlap_count_by_the_time_of_all() -> None:
    """Two streams of 10 ms calls: 200 a second, and a call costs 5 ms."""
    two = [turn(number, [10e6] * 20, wall=0.1) for number in range(3)]
    one = [turn(number, [10e6] * 10) for number in range(3)]
    fps, ratio = fps_of_turns(two, 1), speed_ratio(one, two)
    assert fps is not None and fps.value == pytest.approx(200)
    assert ratio is not None and ratio.value == pytest.approx(2)


def test_without_rounds_nothing_is_said() -> None:
    lost, kept = turn(0, [1e6], counted=False), turn(1, [1e6])
    assert latency([lost]) is None
    assert fps_of_turns([lost, kept], 1) is None  # one round has no interval
    assert speed_ratio([lost, kept], [kept]) is None


# --- the speed ratio ----------------------------------------------------------------------------


@cache
def drawn_ns(seed: int, rounds: int) -> Floats:
    """Calls (2, rounds, 10) of two equal candidates on a machine that drifts, stalls and has two
    speeds.

    The clock falls by 30 % over the run; 5 % of the calls take five times as long; each turn has
    a level of its own (sigma 1 %), and in three of ten it is 4 % higher (another core).
    """
    random = np.random.default_rng([seed, rounds])
    calls = np.empty((rounds, 2, 10))
    for drift, two in zip(np.linspace(1, 1.3, rounds), calls, strict=True):
        for turn_of_one in two:
            level = drift * math.exp(0.01 * random.standard_normal())
            level *= 1.04 if random.random() < 0.3 else 1.0
            turn_of_one[:] = level * (1 + 0.02 * random.standard_normal(10))
            turn_of_one[random.random(10) < 0.05] *= 5
    calls *= 10e6
    by_candidate: Floats = calls.swapaxes(0, 1)
    return by_candidate


def simulated(seed: int, slower: float, rounds: int = ROUNDS) -> tuple[Turns, Turns]:
    """A reference, and a candidate that is slower than ``drawn_ns``."""
    reference, candidate = drawn_ns(seed, rounds)
    return turns_of(reference), turns_of(slower * candidate)


def turns_of(calls_ns: Floats) -> Turns:
    return [turn(number, calls) for number, calls in enumerate(calls_ns.tolist())]


def ratios(slower: float, rounds: int = ROUNDS, runs: int = 1000) -> list[Interval]:
    """``speed_ratio`` of many simulated runs, whose medians numpy takes all at once."""
    medians = np.median([drawn_ns(seed, rounds) for seed in range(runs)], axis=-1)
    return [paired_ratio(reference, slower * candidate) for reference, candidate in medians]


@pytest.mark.parametrize("rounds", [3, ROUNDS])
def test_the_speed_ratio_is_that_of_the_medians_of_the_rounds(rounds: int) -> None:
    for seed, expected in enumerate(ratios(1.02, rounds, runs=20)):
        found = speed_ratio(*simulated(seed, 1.02, rounds))
        assert found is not None
        assert (found.value, found.low, found.high) == pytest.approx(
            (expected.value, expected.low, expected.high), rel=1e-6
        )


def test_equal_candidates_are_equal_and_hardly_ever_told_apart() -> None:
    """The interval holds 1 as often as it says, and lies within the margin."""
    found = ratios(1.0)
    assert sum(ratio.low <= 1 <= ratio.high for ratio in found) >= 950
    assert [verdict(ratio) for ratio in found].count(EQUAL) >= 950


def test_few_rounds_are_not_sure_of_themselves() -> None:
    verdicts = Counter(verdict(ratio) for ratio in ratios(1.0, rounds=3))
    assert verdicts[NOT_TOLD] > verdicts[EQUAL]
    assert verdicts[NOT_TOLD] + verdicts[EQUAL] >= 950


@pytest.mark.parametrize(("slower", "expected"), [(1.05, SLOWER), (1 / 1.05, FASTER)])
def test_a_slow_down_of_5_percent_is_found(slower: float, expected: str) -> None:
    verdicts = Counter(verdict(ratio) for ratio in ratios(slower))
    assert verdicts[expected] >= 950 and verdicts[EQUAL] == 0


def test_the_interval_leaves_1_for_2_percent() -> None:
    assert sum(ratio.high < 1 for ratio in ratios(1.02)) >= 900


def test_the_rounds_that_are_said_to_tell_do_so_in_most_runs() -> None:
    told, asked = 0, list[int]()
    for seed in range(200):
        reference, candidate = np.median(drawn_ns(seed, 100), axis=-1)
        first = paired_ratio(reference[:8], candidate[:8])
        if (needed := rounds_needed(first, 8)) and needed <= 100:
            asked.append(needed)
            told += verdict(paired_ratio(reference[:needed], candidate[:needed])) != NOT_TOLD
    assert len(asked) > 50
    assert told > 0.6 * len(asked)


def test_the_interval_is_around_the_true_ratio() -> None:
    intervals = ratios(0.5, runs=200)
    assert all(interval.low < interval.value < interval.high for interval in intervals)
    assert np.mean([interval.value for interval in intervals]) == pytest.approx(2.0, rel=0.01)
    assert sum(interval.low <= 2.0 <= interval.high for interval in intervals) >= 184
    assert np.median([i.high / i.low for i in intervals]) < 1.03  # and of use


def test_swapping_the_two_inverts_the_interval() -> None:
    first, second = simulated(7, 1.2)
    there, back = speed_ratio(first, second), speed_ratio(second, first)
    assert there is not None and back is not None
    assert (back.value, back.low, back.high) == pytest.approx(
        (1 / there.value, 1 / there.high, 1 / there.low)
    )


def test_what_disturbs_both_alike_cancels() -> None:
    first, second = simulated(7, 1.2)
    disturbance = np.random.default_rng(1).uniform(0.5, 20, len(first))
    both = [
        [
            turn(number, [1000 * factor * sample for sample in one.samples_ns])
            for number, (one, factor) in enumerate(zip(turns, disturbance, strict=True))
        ]
        for turns in (first, second)
    ]
    calm, disturbed = speed_ratio(first, second), speed_ratio(both[0], both[1])
    assert calm is not None and disturbed is not None
    assert (disturbed.value, disturbed.low, disturbed.high) == pytest.approx(
        (calm.value, calm.low, calm.high), rel=1e-6
    )


def test_only_rounds_of_both_are_compared() -> None:
    """A repeated round, and one that the other did not finish, say nothing of the ratio."""
    first, second = simulated(0, 1.0)
    plain = speed_ratio(first, second)
    broken = [turn(99, [1e12], counted=False), *second, turn(100, [1e12])]
    assert speed_ratio(first, broken) == plain
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.01, 1.2, FASTER),
        (1.01, 1.031, FASTER),
        (1.01, 1.03, EQUAL),  # surely above 1, and surely no more than the margin
        (1 / 1.03, 1.03, EQUAL),
        (1 / 1.031, 1.03, NOT_TOLD),
        (0.97, 0.99, SLOWER),
        (0.8, 0.99, SLOWER),
        (0.9, 1.1, NOT_TOLD),
        (1.0, 1.2, NOT_TOLD),
        (0.8, 1.0, NOT_TOLD),
    ],
)
def test_verdict(low: float, high: float, expected: str) -> None:
    assert verdict(Interval((low * high) ** 0.5, low, high)) == expected
    other_way = {FASTER: SLOWER, SLOWER: FASTER}.get(expected, expected)
    assert verdict(Interval((low * high) ** -0.5, 1 / high, 1 / low)) == other_way


@pytest.mark.parametrize(
    ("value", "factor", "needed"),
    [
        (1.0, 1.06, 117),  # to lie within ln 1.03 = 0.02956 of 1: 30 * (0.05827 / 0.02956)**2
        (1.10, 1.2, 110),  # to leave 1: 30 * (0.18232 / 0.09531)**2
        (
            1.02,
            1.05,
            183,
        ),  # to leave 1, farther than the margin: 30 * (.04879 / .01980)**2
        (1.005, 1.035, 59),  # to lie within the margin, which is farther than 1
        (1.02, 1.01, None),  # equal
        (1.2, 1.1, None),  # faster
        (0.8, 1.1, None),  # slower
    ],
)
def test_rounds_needed(value: float, factor: float, needed: int | None) -> None:
    assert rounds_needed(Interval(value, value / factor, value * factor), 30) == needed
    assert rounds_needed(Interval(1 / value, 1 / value / factor, factor / value), 30) == needed


RATIOS = st.floats(0.5, 2)
FACTORS = st.floats(1.0001, 3)


@given(RATIOS, FACTORS, st.integers(2, 1000))
def test_so_many_rounds_of_the_same_spread_tell(value: float, factor: float, rounds: int) -> None:
    needed = rounds_needed(Interval(value, value / factor, value * factor), rounds)
    told = verdict(Interval(value, value / factor, value * factor)) != NOT_TOLD
    assert (needed is None) == told
    if needed:
        assert needed > rounds
        factor **= math.sqrt(rounds / (needed + 1))  # a round more, as its bounds are excluded
        assert verdict(Interval(value, value / factor, value * factor)) != NOT_TOLD


def test_of_an_interval_without_bounds_nothing_is_estimated() -> None:
    assert rounds_needed(Interval(1.0, 0.0, 1e100), 2) is None
    assert MARGIN == 0.03  # docs/bench_record.md


@pytest.mark.parametrize(
    ("freedom", "published"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (9, 2.2622),
        (10, 2.2281),
        (19, 2.0930),
        (30, 2.0423),
        (120, 1.9799),
        (1000, 1.9623),
    ],
)
def test_student_quantile_is_the_published_one(freedom: int, published: float) -> None:
    """Two-sided 95 %: Abramowitz & Stegun, table 26.10, and 1000 from R."""
    assert student_quantile(freedom) == pytest.approx(published, abs=6e-5)


# --- rounds until the interval is narrow ----------------------------------------------------------


class Drawn:
    """A row whose turns are those of ``drawn_ns``, in a process that it does not have."""

    pid = 0

    def __init__(self, calls_ns: Floats) -> None:
        self._turns = iter(calls_ns.tolist())

    def call(self, method: str, *_: object, timeout_s: float | None = None) -> object:
        if method == "warm_up":
            return 0.01
        if method == "settle":
            return None
        samples = tuple(map(round, next(self._turns)))
        return Timed(samples, sum(samples) / 1e9, 0.0)


def until_narrow(seed: int, width: float, rounds: int) -> Interval:
    """The ratio of two equal rows that are measured until its interval is so narrow."""
    reference, candidate = drawn_ns(seed, 300)
    rows: dict[str, Any] = {"a": Drawn(reference), "b": Drawn(candidate)}
    scenario = Scenario(scopes=("host",), rounds=rounds, target_width=width)
    watch: Any = NoWatch()
    interleaved = Interleaved(rows, scenario, watch, reference="a")
    interleaved.warm_up()
    interleaved.run()
    ratio = speed_ratio(*(interleaved.turns[name]["host"] for name in rows))
    assert ratio is not None and relative_width(ratio) <= width
    assert len(interleaved.turns["a"]["host"]) < 300
    return ratio


@pytest.mark.parametrize(("width", "rounds"), [(0.02, ROUNDS), (0.04, LEAST_ROUNDS_TO_TARGET)])
def test_rounds_that_stop_at_a_narrow_interval_hold_the_ratio(width: float, rounds: int) -> None:
    """To stop when the interval is narrow costs it little of its 95 %."""
    found = [until_narrow(seed, width, rounds) for seed in range(200)]
    assert sum(ratio.low <= 1 <= ratio.high for ratio in found) >= 0.93 * len(found)


# --- shares and percentiles of windows ------------------------------------------------------------


def drawn_windows(seed: int) -> Floats:
    """Milliseconds (30, 60) of windows with a level each, stalls, and bursts in one of ten."""
    random = np.random.default_rng([seed, 1])
    level = 0.02 * random.standard_normal((30, 1)) + 0.05 * (random.random((30, 1)) < 0.3)
    found: Floats = 10 * np.exp(level + 0.02 * random.standard_normal((30, 60)))
    burst = (random.random((30, 1)) < 0.1) & (random.random((30, 60)) < 0.2)
    found[burst] *= 3 + random.random(int(burst.sum()))
    found[random.random((30, 60)) < 0.003] *= 5
    return found


@cache
def many_windows() -> tuple[Floats, ...]:
    return tuple(drawn_windows(seed) for seed in range(1000))


@pytest.mark.parametrize("percent", [50.0, 99.0])
def test_the_interval_of_a_percentile_holds_it_as_often_as_it_says(percent: float) -> None:
    """An interval that is not stated, as often with bursts in few windows, excludes nothing."""
    true = float(np.percentile(np.stack(many_windows()), percent))
    found = [percentile_interval(list(windows), percent) for windows in many_windows()[:400]]
    stated = [interval for interval in found if interval]
    assert len(stated) >= 200
    assert all(interval.low <= interval.value <= interval.high for interval in stated)
    assert sum(not i.low <= true <= i.high for i in stated) <= 0.07 * len(found)


def test_the_interval_of_a_share_holds_it_as_often_as_it_says() -> None:
    late = [(windows > 20).sum(1) for windows in many_windows()]
    true = float(np.mean(late)) / 60
    found = [share_interval(hits, [60] * 30) for hits in late]
    assert sum(interval.low <= true <= interval.high for interval in found) >= 0.93 * len(found)
    # As if frames were independent, it would be too sure.
    naive = [stats.binomtest(int(hits.sum()), 1800).proportion_ci() for hits in late[:200]]
    assert sum(ci.low <= true <= ci.high for ci in naive) < 0.8 * len(naive)


@given(st.integers(0, 200))
def test_of_independent_frames_the_share_has_the_exact_interval(hits: int) -> None:
    """Windows of one frame are independent; 1 of 200 goes to the variance."""
    found = share_interval([1] * hits + [0] * (200 - hits), [1] * 200)
    exact = stats.binomtest(hits, 200).proportion_ci()
    assert (found.value, found.low, found.high) == pytest.approx(
        (hits / 200, exact.low, exact.high), abs=1e-3
    )


@pytest.mark.parametrize(("percent", "least"), [(99.0, 368), (99.9, 3688)])
def test_a_percentile_of_too_few_frames_is_not_stated(percent: float, least: int) -> None:
    """Below, the largest of all is below the percentile in more than 1 of 40 runs."""
    values = [[value] for value in np.random.default_rng(0).random(least + 10)]
    assert (percent / 100) ** least <= 0.025 < (percent / 100) ** (least - 1)
    assert percentile_interval(values[: least - 1], percent) is None
    found = percentile_interval(values, percent)
    assert found is not None and found.high == max(values)[0]
    assert percentile_interval([values[0]], 50.0) is None  # one window has no interval


# --- two runs ---------------------------------------------------------------------------------


def test_the_interval_of_two_runs_is_welchs() -> None:
    old, new = np.array([0.0, 0.1, 0.2, 0.4]), np.array([0.5, 0.9, 0.4, 1.0, 0.8])
    interval = ratio_of_runs(old, new)
    assert interval is not None
    welch = stats.ttest_ind(new, old, equal_var=False).confidence_interval(0.95)
    found = np.log([interval.value, interval.low, interval.high])
    assert found == pytest.approx([new.mean() - old.mean(), welch.low, welch.high])
    assert ratio_of_runs(old, new[:1]) is None
    assert ratio_of_runs(np.zeros(3), np.zeros(3)) == Interval(1.0, 1.0, 1.0)


def test_the_interval_of_two_runs_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        old, new = random.normal(0, 0.02, 5), random.normal(0.1, 0.05, 10)
        interval = ratio_of_runs(old, new)
        assert interval is not None
        held += interval.low <= math.exp(0.1) <= interval.high
    assert held >= 0.93 * 400
