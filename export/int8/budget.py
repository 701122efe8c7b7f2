"""The search for the convolutions that stay in float, so that int8 keeps to an accuracy budget.

1. Each convolution alone is made int8, and the noise it adds to the logits is measured.
2. From all of them in int8, those go to float that cost most accuracy for the time they save, one
   after the other, until the measured accuracy is within the budget.
3. What went to float too early comes back: each of them, the largest saving of time first, is
   tried in int8 again.

Every measurement is kept, so that an interrupted search goes on where it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dabnet.errors import DabnetError, InputError
from dabnet.records import Codec
from export.int8.trial import Int8Trial, Outcome


@dataclass(frozen=True, slots=True)
class Budget:
    """The maximum cost of int8.

    Attributes:
        max_drop: mIoU points of 100 below FP32; None: any.
        max_disagreement: percentage of pixels that differ from FP32; None: any.
    """

    max_drop: float | None = None
    max_disagreement: float | None = None

    def holds(self, outcome: Outcome) -> bool:
        """Whether an outcome's point estimates are within the budget."""
        return (self.max_drop is None or outcome.drop.value <= self.max_drop) and (
            self.max_disagreement is None or outcome.disagreement <= self.max_disagreement
        )


@dataclass(frozen=True, slots=True)
class LayerEffect:
    """Of one convolution: the outcome of int8 in it alone, and the time that int8 saves there."""

    layer: str
    outcome: Outcome
    gain_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One set of convolutions in float: the measured outcome, and the modelled time."""

    float_layers: tuple[str, ...]
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class Search:
    """A finished search.

    Attributes:
        effects: of each convolution, the most harmful for its time first.
        choices: every choice that was measured, all int8 first.
        chosen: the one that keeps to the budget.
    """

    effects: tuple[LayerEffect, ...]
    choices: tuple[Choice, ...]
    chosen: Choice


@dataclass(frozen=True, slots=True)
class _Notes:
    """The file of a search: every outcome by what was measured, and what they depend on."""

    version: int
    key: str
    measured: dict[str, Outcome]


_NOTES = Codec(
    _Notes,
    "search for an accuracy budget",
    "dabnet-export",
    "delete it",
    version=("version", 1),
    one_line_each=("measured",),
)


class Notebook:
    """Measurements by what was measured, kept in a file after each.

    Args:
        path: of the file; None keeps none. One that is damaged, or of another key, starts anew.
        key: of graph, ranges and images, on which every measurement depends.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._notes = path, _Notes(1, key, {})
        if path is not None:
            with suppress(DabnetError):
                found = _NOTES.read(path)
                self._notes = found if found.key == key else self._notes

    def get(self, what: str, measure: Callable[[], Outcome]) -> Outcome:
        """Return the outcome that is written under ``what``, or measure and write it."""
        measured = self._notes.measured
        if what not in measured:
            measured[what] = measure()
            if self._path is not None:
                _NOTES.write(self._notes, self._path)
        return measured[what]


def search(
    trial: Int8Trial,
    gain_s: Callable[[str], float],
    seconds: Callable[[Collection[str]], float],
    budget: Budget,
    notebook: Notebook,
    step: Callable[[], None] = lambda: None,
) -> Search:
    """Find convolutions to leave in float.

    Args:
        trial: measures accuracy.
        gain_s: seconds that int8 saves in a convolution; below 0 it costs.
        seconds: of the network, for a choice of convolutions in float.
        budget: what must hold.
        notebook: keeps measurements.
        step: called after each measurement; 2 · layers + 1 times at most, but for step 3.
    """

    def measured(layers: Collection[str]) -> Choice:
        chosen = tuple(name for name in trial.layers if name in layers)
        key = "float: " + ", ".join(chosen)
        outcome = notebook.get(key, functools.partial(trial.without, chosen))
        step()
        return Choice(chosen, outcome, seconds(chosen))

    effects = []
    for layer in trial.layers:
        outcome = notebook.get(f"int8: {layer}", functools.partial(trial.only, layer))
        effects.append(LayerEffect(layer, outcome, gain_s(layer)))
        step()
    effects.sort(key=_harm, reverse=True)

    choices = [measured(())]
    for count in range(1, len(effects) + 1):
        if budget.holds(choices[-1].outcome):
            break
        choices.append(measured({effect.layer for effect in effects[:count]}))
    chosen = choices[-1]
    if not budget.holds(chosen.outcome):
        raise InputError(
            f"with every convolution in float, {chosen.outcome.drop.value:.2f} mIoU points and"
            f" {chosen.outcome.disagreement:.2f} % of pixels are lost to the other rounded tensors",
            "a budget that this placement can keep",
            "choose --placement conv-inputs, or a larger budget",
        )
    for effect in sorted(effects, key=lambda effect: effect.gain_s, reverse=True):
        if effect.layer in chosen.float_layers and effect.gain_s > 0 and len(choices) > 1:
            fewer = measured(set(chosen.float_layers) - {effect.layer})
            choices.append(fewer)
            if budget.holds(fewer.outcome):
                chosen = fewer
    return Search(tuple(effects), tuple(choices), chosen)


def _harm(effect: LayerEffect) -> tuple[bool, float]:
    """A layer that saves no time goes first, by its noise; then noise per second saved."""
    if effect.gain_s <= 0:
        return True, effect.outcome.noise
    return False, effect.outcome.noise / effect.gain_s
