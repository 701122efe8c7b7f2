"""The outcome of a budget search for people: a table in Markdown, and a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from dabnet.files import replacing, writable_target, write_text
from dabnet.intervals import Interval
from dabnet.outputs import BUDGET, BUDGET_TABLE, MARK, PICTURE
from dabnet.pareto import pareto_front
from export.int8.budget import Budget, Choice, Search
from export.int8.cost import CostModel

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#7a7a7a"

_TEXT = """\
# INT8 within {budget}

{verdict}

Drop is FP32's mIoU less INT8's in points, with its 95 % interval over the held-out training\
 images; time is a model of the whole plan on a {card}.

| convolutions in float | drop [95 %] | pixels that differ % | modelled time µs | |
|---|---|---|---|---|
{choices}

In float: {layers}.

Each convolution alone in INT8, the rest in FP32, the most harmful for the time it saves first:

| convolution | noise of the logits dB | drop [95 %] | pixels that differ % | saves µs |
|---|---|---|---|---|
{effects}
"""


_KINDS = {"json": BUDGET, "md": BUDGET_TABLE, "png": PICTURE}


def report_files(output: Path) -> tuple[Path, Path, Path]:
    """The measurements, the table and the plot beside an artifact: ``OUTPUT.budget.json``, …

    Raises:
        InputError: one of them cannot be written, or would replace another file.
    """
    notes, table, plot = (
        writable_target(output.with_name(f"{output.name}.budget.{suffix}"), kind=kind)
        for suffix, kind in _KINDS.items()
    )
    return notes, table, plot


def save_report(found: Search, budget: Budget, cost: CostModel, table: Path, plot: Path) -> None:
    """Write both files, each atomically."""
    write_text(table, markdown(found, budget, cost))
    _plot(found, budget, cost, plot)


def markdown(found: Search, budget: Budget, cost: CostModel) -> str:
    """The choices that were measured, then the effect of int8 in each convolution alone."""
    limits = [(budget.max_drop, "mIoU points"), (budget.max_disagreement, "% of pixels")]
    choices = [
        (
            len(choice.float_layers),
            _interval(choice.outcome.drop),
            f"{choice.outcome.disagreement:.3f}",
            f"{1e6 * choice.seconds:.1f}",
            "**chosen**" if choice == found.chosen else "",
        )
        for choice in found.choices
    ]
    effects = [
        (
            effect.layer,
            f"{_decibel(effect.outcome.noise):.1f}",
            _interval(effect.outcome.drop),
            f"{effect.outcome.disagreement:.3f}",
            f"{1e6 * effect.gain_s:.2f}",
        )
        for effect in found.effects
    ]
    return _TEXT.format(
        budget=" and ".join(f"{most:g} {unit}" for most, unit in limits if most is not None),
        verdict=verdict(found, cost),
        card=cost.card.name,
        choices=_rows(choices),
        layers=", ".join(found.chosen.float_layers) or "none",
        effects=_rows(effects),
    )


def verdict(found: Search, cost: CostModel) -> str:
    """Whether the model expects INT8 to pay on this card, and which one to ship otherwise."""
    rest, layers = cost.card.rest, found.chosen.float_layers
    if set(layers) == set(cost.layers):
        return f"No convolution is left in INT8: ship --precision {rest}."
    ratio = found.chosen.seconds / cost.seconds(cost.layers)
    moved, moved_by_float = (cost.moved_bytes(those) / 1e6 for those in (layers, cost.layers))
    text = (
        f"Modelled on a {cost.card.name}, a plan of TensorRT-RTX for this choice takes {ratio:.2f}"
        f" times the time of {rest.upper()} and moves {moved:.0f} MB, {rest.upper()}"
        f" {moved_by_float:.0f} MB"
    )
    if ratio <= 0.95:
        return f"{text}. Measure it on your card with dabnet-bench before you ship it."
    why = "its gain is within the error of the model"
    if moved_by_float <= moved or ratio > 1:
        why = "an int8 convolution writes floats, which a further kernel reads and rounds"
    return (
        f"{text}: INT8 is not worth its loss there, since {why}. Ship --precision {rest},"
        " unless dabnet-bench measures otherwise on your card."
    )


def pareto(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that no other beats in both time and drop, fastest first."""
    front = pareto_front([(-c.outcome.drop.value, -c.seconds) for c in choices])
    return [choices[number] for number in front]


def _rows(rows: Iterable[Iterable[object]]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _decibel(noise: float) -> float:
    return 10 * math.log10(noise) if noise > 0 else -math.inf


def _interval(value: Interval) -> str:
    return f"{value.value:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def _plot(found: Search, budget: Budget, cost: CostModel, path: Path) -> None:
    """Left: every choice, drop against time, with the Pareto front. Right: the noisiest layers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    times = [1e6 * choice.seconds for choice in found.choices]
    drops = [choice.outcome.drop for choice in found.choices]
    errors = [[d.value - d.low for d in drops], [d.high - d.value for d in drops]]
    left.errorbar(times, [d.value for d in drops], errors, fmt="o", ms=4, lw=0.8, color=_GREY)
    front = [(1e6 * c.seconds, c.outcome.drop.value) for c in pareto(found.choices)]
    left.step(*zip(*front, strict=True), where="post", color=_BLUE, label="Pareto front")
    chosen = found.chosen
    mark = {"ms": 9, "color": _ORANGE, "label": f"chosen: {len(chosen.float_layers)} in float"}
    left.plot(1e6 * chosen.seconds, chosen.outcome.drop.value, "D", **mark)
    if budget.max_drop is not None:
        left.axhline(budget.max_drop, color=_ORANGE, lw=0.8, ls="--", label="budget")
    left.set_xlabel(f"modelled time on a {cost.card.name}, µs")
    left.set_ylabel("drop, mIoU points")
    left.legend(fontsize=8)

    loudest = sorted(found.effects, key=lambda effect: effect.outcome.noise)[-20:]
    decibels = [_decibel(max(effect.outcome.noise, 1e-12)) for effect in loudest]
    right.barh(
        [effect.layer.replace("DAB_", "") for effect in loudest],
        [value + 120 for value in decibels],
        left=-120,
        color=[_ORANGE if e.layer in chosen.float_layers else _BLUE for e in loudest],
    )
    right.set_xlim(decibels[0] - 3, decibels[-1] + 1)
    right.set_xlabel("noise of the logits, dB")
    right.set_title("INT8 in one convolution alone; orange: left in float", fontsize=9)
    right.tick_params(axis="y", labelsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", metadata={"Software": MARK})
