"""Parts that the studies share: options, rows in processes of their own, tables, records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from bench.isolation import Isolated, ProcessFailed
from bench.machine.environment import describe_environment
from bench.machine.telemetry import Monitor
from bench.measure.request import Scenario
from bench.measure.rounds import Interleaved
from bench.record import Turn
from bench.statistics import verdict
from dabnet.console import Size, options
from dabnet.files import writable_target, write_text
from dabnet.intervals import Interval

Service = tuple[Callable[..., object], tuple[Any, ...]]
"""A class with the methods of ``bench.measure.timer.Timer``, and its arguments."""


def _writable(_: object, __: object, path: Path | None) -> Path | None:
    return None if path is None else writable_target(path)


record_option = click.option(
    "--json",
    "record",
    type=click.Path(path_type=Path),
    callback=_writable,
    help="Also keep every sample in this file.",
)
input_options = options(
    click.option(
        "--checkpoint",
        type=click.Path(path_type=Path),
        default=Path(__file__).parents[1] / "weights" / "dabnet_toy_street.pth",
        help="[default: the shipped toy-street weights]",
    ),
    click.option("--data-dir", type=click.Path(path_type=Path), help="[default: drawn scenes]"),
    click.option("--size", type=Size(), default="512x1024", show_default=True),
    record_option,
)


@contextmanager
def opened(
    services: Mapping[str, Service], folder: Path, step: Callable[[], None] = lambda: None
) -> Iterator[tuple[dict[str, Isolated], dict[str, str]]]:
    """Open each service in its own process, whose log is in ``folder``; tell why others fail."""
    with ExitStack() as stack:
        timers, reasons = {}, {}
        for name, service in services.items():
            log = folder / f"{name.replace(' ', '-')}.log"
            try:
                timers[name] = stack.enter_context(Isolated(name, *service, log))
            except ProcessFailed as error:
                reasons[name] = str(error)
            step()
        yield timers, reasons


def timed(
    timers: Mapping[str, Isolated],
    scenario: Scenario,
    step: Callable[[], None] = lambda: None,
    watch: Monitor | None = None,
) -> dict[str, list[Turn]]:
    """Return the turns of each service in the scenario's one scope, repeated rounds included.

    ``watch`` observes the machine during each turn; a plain ``Monitor`` by default.

    Raises:
        ProcessFailed: a service did not finish.
    """
    rounds = Interleaved(timers, scenario, watch or Monitor(None))
    rounds.warm_up()
    rounds.run(step)
    for name, reason in rounds.failures.items():
        raise ProcessFailed(f"{name}: {reason}")
    (scope,) = scenario.scopes
    return {name: scopes[scope] for name, scopes in rounds.turns.items()}


def disturbed(turns: Mapping[str, list[Turn]]) -> int:
    """Count the turns that other processes disturbed, repeats excluded."""
    return sum(bool(turn.marks) for own in turns.values() for turn in own if turn.counted)


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a short row is filled with empty cells."""
    lines = [list(headings), ["---"] * len(headings)]
    lines += [[*row, *[""] * (len(headings) - len(row))] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ratio_text(ratio: Interval | None, digits: int = 2) -> str:
    """Return such as ``1.98 [1.84, 2.14] faster``."""
    if ratio is None:
        return "–"
    value, low, high = (f"{number:.{digits}f}" for number in (ratio.value, ratio.low, ratio.high))
    return f"{value} [{low}, {high}] {verdict(ratio)}"


def keep(record: Path | None, size: Sequence[int], content: Mapping[str, Any]) -> None:
    """Write the record of a study, with the environment, where ``--json`` asked for it."""
    if record is not None:
        whole = {"size": size, "environment": describe_environment(), **content}
        text = json.dumps(whole, indent=1, default=lambda i: [i.value, i.low, i.high])
        write_text(record, text + "\n")
