"""The outcome of a budget search for people: a table in Markdown, and a plot."""

from __future__ import annotations

import math
from pathlib import Path

from dabnet.files import replacing, write_text
from dabnet.intervals import Interval
from export.int8.budget import Budget, Choice, LayerEffect, Search
from export.int8.cost import CostModel


def save_report(found: Search, budget: Budget, cost: CostModel, table: Path, plot: Path) -> None:
    """Write both files, each atomically."""
    write_text(table, markdown(found, budget, cost))
    _plot(found, budget, cost, plot)


def markdown(found: Search, budget: Budget, cost: CostModel) -> str:
    """The choices that were measured, then what int8 does in each convolution alone."""
    lines = [
        f"# INT8 within {describe(budget)}",
        "",
        f"{verdict(found, cost)}",
        "",
        "Drop is FP32's mIoU less INT8's in points, with its 95 % interval over the held-out"
        f" training images; time is the roofline model of the convolutions on a {cost.card.name}.",
        "",
        "| convolutions in float | drop [95 %] | pixels that differ % | modelled time µs | |",
        "|---|---|---|---|---|",
    ]
    for choice in found.choices:
        mark = "**chosen**" if choice == found.chosen else ""
        outcome = choice.outcome
        lines.append(
            f"| {len(choice.float_layers)} | {_interval(outcome.drop)}"
            f" | {outcome.disagreement:.3f} | {1e6 * choice.seconds:.1f} | {mark} |"
        )
    chosen = found.chosen.float_layers
    lines += ["", f"In float: {', '.join(chosen) or 'none'}.", ""]
    lines += [
        "Each convolution alone in INT8, the rest in FP32, the most harmful for the time it saves"
        " first:",
        "",
        "| convolution | noise of the logits dB | drop [95 %] | pixels that differ % | saves µs |",
        "|---|---|---|---|---|",
        *(_layer_row(effect) for effect in found.effects),
    ]
    return "\n".join(lines) + "\n"


def describe(budget: Budget) -> str:
    """Such as ``0.3 mIoU points``."""
    parts = []
    if budget.max_drop is not None:
        parts.append(f"{budget.max_drop:g} mIoU points")
    if budget.max_disagreement is not None:
        parts.append(f"{budget.max_disagreement:g} % of pixels")
    return " and ".join(parts)


def verdict(found: Search, cost: CostModel) -> str:
    """Whether the model expects INT8 to pay on this card, and what to ship where it does not."""
    rest = cost.card.rest
    ratio = cost.seconds(cost.layers) / found.chosen.seconds
    text = (
        f"Modelled on a {cost.card.name}, the convolutions of this choice take 1/{ratio:.2f} of"
        f" their time in {rest.upper()}"
    )
    if ratio < 1.05:
        return (
            f"{text}: INT8 is not worth its loss there. Ship --precision {rest}, unless"
            " dabnet-bench measures otherwise on your card."
        )
    return f"{text}. Measure it on your card with dabnet-bench before you ship it."


def _layer_row(effect: LayerEffect) -> str:
    outcome = effect.outcome
    return (
        f"| {effect.layer} | {_decibel(outcome.noise)} | {_interval(outcome.drop)}"
        f" | {outcome.disagreement:.3f} | {1e6 * effect.gain_s:.2f} |"
    )


def _decibel(noise: float) -> str:
    return f"{10 * math.log10(noise):.1f}" if noise > 0 else "-inf"


def _interval(value: Interval) -> str:
    return f"{value.value:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def _plot(found: Search, budget: Budget, cost: CostModel, path: Path) -> None:
    """Left: every choice, drop against time, with the Pareto front. Right: the noisiest layers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    times = [1e6 * choice.seconds for choice in found.choices]
    drops = [choice.outcome.drop for choice in found.choices]
    errors = [[d.value - d.low for d in drops], [d.high - d.value for d in drops]]
    left.errorbar(
        times, [d.value for d in drops], yerr=errors, fmt="o", ms=4, lw=0.8, color="#7a7a7a"
    )
    front = pareto(found.choices)
    left.step(
        [1e6 * c.seconds for c in front],
        [c.outcome.drop.value for c in front],
        where="post",
        color="#0072b2",
        label="Pareto front",
    )
    chosen = found.chosen
    left.plot(
        1e6 * chosen.seconds,
        chosen.outcome.drop.value,
        "D",
        ms=9,
        color="#d55e00",
        label=f"chosen: {len(chosen.float_layers)} in float",
    )
    if budget.max_drop is not None:
        left.axhline(budget.max_drop, color="#d55e00", lw=0.8, ls="--", label="budget")
    left.set(
        xlabel=f"modelled time of the convolutions on a {cost.card.name}, µs",
        ylabel="drop, mIoU points",
    )
    left.legend(fontsize=8)
    loudest = sorted(found.effects, key=lambda effect: effect.outcome.noise)[-20:]
    right.barh(
        [effect.layer.replace("DAB_", "") for effect in loudest],
        [10 * math.log10(max(effect.outcome.noise, 1e-12)) + 120 for effect in loudest],
        left=-120,
        color=["#d55e00" if e.layer in chosen.float_layers else "#0072b2" for e in loudest],
    )
    quietest = 10 * math.log10(max(loudest[0].outcome.noise, 1e-12))
    right.set_xlim(quietest - 3, 10 * math.log10(max(loudest[-1].outcome.noise, 1e-12)) + 1)
    right.set(
        xlabel="noise of the logits, dB",
        title="INT8 in one convolution alone; orange: left in float",
    )
    right.title.set_fontsize(9)
    right.tick_params(axis="y", labelsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def pareto(choices: tuple[Choice, ...]) -> list[Choice]:
    """Those that no other choice beats in both time and drop, fastest first."""
    front: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.seconds, c.outcome.drop.value)):
        if not front or choice.outcome.drop.value < front[-1].outcome.drop.value:
            front.append(choice)
    return front
