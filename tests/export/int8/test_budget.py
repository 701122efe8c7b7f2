"""The search for layers to leave in float, on trials whose truth is known."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path

import pytest

from dabnet.errors import InputError
from dabnet.intervals import Interval
from export.int8.budget import Budget, Notebook, search
from export.int8.report import markdown, pareto
from export.int8.trial import Outcome

# layer: (drop in points that its int8 costs, seconds that its int8 saves)
LAYERS = {
    "cheap": (0.01, 5.0),
    "costly": (0.60, 1.0),
    "worth it": (0.30, 9.0),
    "useless": (0.02, -1.0),
    "small": (0.10, 1.0),
}
ALL = sum(drop for drop, _ in LAYERS.values())


class KnownTrial:
    """Drops that add up."""

    def __init__(self, left_over: float = 0.0) -> None:
        self.layers = tuple(LAYERS)
        self.measured: list[tuple[str, ...]] = []
        self._left_over = left_over

    def only(self, layer: str) -> Outcome:
        return self.without([name for name in LAYERS if name != layer])

    def without(self, float_layers: Collection[str]) -> Outcome:
        self.measured.append(tuple(float_layers))
        drop = self._left_over + sum(
            d for name, (d, _) in LAYERS.items() if name not in float_layers
        )
        return Outcome(Interval(drop, drop - 0.1, drop + 0.1), 10 * drop, drop**2)


def gain(layer: str) -> float:
    return LAYERS[layer][1]


def seconds(float_layers: Collection[str]) -> float:
    return 20.0 + sum(gain(layer) for layer in float_layers)


def found(budget: Budget, path: Path | None = None, trial: KnownTrial | None = None):
    return search(trial or KnownTrial(), gain, seconds, budget, Notebook(path, "key"))


def test_nothing_goes_to_float_where_the_budget_holds() -> None:
    result = found(Budget(max_drop=ALL))
    assert result.chosen.float_layers == ()
    assert len(result.choices) == 1
    assert result.effects[0].layer == "useless"  # no time saved: first
    assert {effect.layer for effect in result.effects} == set(LAYERS)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(max_drop=0.45), {"costly"}),  # "useless" was tried first, and came back
        (Budget(max_drop=0.35), {"costly", "small"}),
        (Budget(max_disagreement=4.5), {"costly"}),
        (Budget(max_drop=0.45, max_disagreement=3.5), {"costly", "small"}),
        (Budget(max_drop=0.0), set(LAYERS)),
    ],
)
def test_the_layers_that_cost_most_for_their_time(budget: Budget, expected: set[str]) -> None:
    result = found(budget)
    assert budget.holds(result.chosen.outcome)
    assert expected <= set(result.chosen.float_layers) <= expected | {"useless"}
    # No layer that saves time can come back to int8 any more.
    for layer in result.chosen.float_layers:
        if gain(layer) > 0:
            rest = set(result.chosen.float_layers) - {layer}
            assert not budget.holds(KnownTrial().without(rest))


def test_what_else_is_rounded_may_be_too_much() -> None:
    with pytest.raises(InputError, match=r"convolution in float, 0\.20 mIoU points and 2\.00 %"):
        found(Budget(max_drop=0.1), trial=KnownTrial(left_over=0.2))


def test_a_stopped_search_goes_on_where_it_was(tmp_path: Path) -> None:
    class Stops(KnownTrial):
        def without(self, float_layers: Collection[str]) -> Outcome:
            if len(self.measured) == 6:
                raise KeyboardInterrupt
            return super().without(float_layers)

    path, budget = tmp_path / "notes.json", Budget(max_drop=0.35)
    with pytest.raises(KeyboardInterrupt):
        found(budget, path, Stops())
    again = KnownTrial()
    assert found(budget, path, again) == found(budget)
    whole = KnownTrial()
    found(budget, None, whole)
    assert again.measured == whole.measured[6:]  # nothing twice


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1, "key": "key"}', None])
def test_notes_of_something_else_are_not_taken(tmp_path: Path, damage: str | None) -> None:
    path, trial = tmp_path / "notes.json", KnownTrial()
    found(Budget(max_drop=9), path)
    if damage is None:
        path.write_text(json.dumps({**json.loads(path.read_text()), "key": "another"}))
    else:
        path.write_text(damage)
    found(Budget(max_drop=9), path, trial)
    assert len(trial.measured) == len(LAYERS) + 1


def test_the_pareto_front() -> None:
    choices = found(Budget(max_drop=0.0)).choices
    front = pareto(choices)
    assert front[0].float_layers == ("useless",)  # faster than all int8, and better
    for choice in choices:
        beaten = any(
            other.seconds <= choice.seconds and other.outcome.drop.value < choice.outcome.drop.value
            for other in choices
        )
        assert (choice in front) == (not beaten)


def test_the_table_says_what_to_ship() -> None:
    class Cost:
        class card:
            name, rest = "some-card", "fp16"

        layers = tuple(LAYERS)
        seconds = staticmethod(seconds)
        moved_bytes = staticmethod(lambda float_layers: 1e6 * (9 - len(float_layers)))

    budget = Budget(max_drop=0.35)
    text = markdown(found(budget), budget, Cost())
    assert "# INT8 within 0.35 mIoU points" in text
    rows = [line for line in text.splitlines() if "**chosen**" in line]
    assert len(rows) == 1
    assert rows[0].startswith("| 2 |") or rows[0].startswith("| 3 |")
    ratio = found(budget).chosen.seconds / 35
    assert f"takes {ratio:.2f} times the time of FP16" in text
    assert "FP16 moves no more" not in text
    everything = Budget(max_drop=0.0)
    text = markdown(found(everything), everything, Cost())
    assert "No convolution is left in INT8: ship --precision fp16" in text
    assert all(f"| {layer} |" in text for layer in LAYERS)
    assert f"{20 * math.log10(0.6):.1f}" in text
