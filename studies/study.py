"""Parts that the studies share: command line, rows in processes of their own, tables, records.

What needs torch is imported where it is used: the process of a row imports its study again, and is
to hold no more than its own backend.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from bench.isolation import Isolated, ProcessFailed
from bench.machine.environment import describe_environment
from bench.machine.telemetry import DISTURBED_CORES, Monitor
from bench.measure.request import Scenario
from bench.measure.rounds import Interleaved
from bench.record import Turn
from bench.record.timing import counted_turns
from bench.statistics import verdict
from dabnet.console import CONTEXT, FILE, Size, options, progress_bar
from dabnet.data.images import images_or_scenes
from dabnet.files import writable_target, write_text
from dabnet.intervals import Interval
from dabnet.outputs import STUDY
from dabnet.runtime.runner import Uint8Array

Service = tuple[Callable[..., object], tuple[Any, ...]]
"""A class with the methods of ``bench.measure.timer.Timer``, and its arguments."""


def _writable(_: object, __: object, path: Path | None) -> Path | None:
    return None if path is None else writable_target(path, kind=STUDY)


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


record_option = click.option(
    "--json",
    "record",
    type=FILE,
    callback=_writable,
    help="Also keep every sample in this file.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), default=_torch_threads, help="[default: PyTorch's]"
)
_input_options = options(
    click.option(
        "--checkpoint",
        type=FILE,
        default=Path(__file__).parents[1] / "weights" / "dabnet_toy_street.pth",
        help="[default: the shipped toy-street weights]",
    ),
    click.option("--data-dir", type=FILE, help="[default: drawn scenes]"),
    click.option("--size", type=Size(), default="512x1024", show_default=True),
    record_option,
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The options that the studies of a checkpoint share.

    Attributes:
        checkpoint: its file.
        data_dir: folder of its data set; None for drawn scenes.
        size: (height, width) of the images in pixels.
        record: JSON file for every sample; None for none.
    """

    checkpoint: Path
    data_dir: Path | None
    size: tuple[int, int]
    record: Path | None

    @property
    def subject(self) -> str:
        """Such as ``dabnet_camvid.pth, 360x480``."""
        return f"{self.checkpoint.name}, {self.size[0]}x{self.size[1]}"

    @property
    def dataset(self) -> str:
        """Name of the data set that the checkpoint was trained on."""
        from dabnet.checkpoint import load_checkpoint

        return load_checkpoint(self.checkpoint).dataset

    def images(self, count: int) -> list[Uint8Array]:
        """Return validation images, each a batch of its own, uint8 (1, H, W, 3)."""
        source = images_or_scenes(self.dataset, "val", self.data_dir, count, self.size)
        return [item.image[None].copy() for item in source]  # PyTorch wants to write

    def export(self, path: Path, **fields: Any) -> Path:
        """Export the checkpoint to ``path``; ``fields`` are further ones of ``ExportSpec``."""
        from export.onnx_export import export_onnx
        from export.spec import ExportSpec

        spec = ExportSpec(self.size, check_images=1, **fields)
        export_onnx(self.checkpoint, path, spec, data_dir=self.data_dir, progress=progress_bar)
        return path


def command(function: Callable[..., None]) -> click.Command:
    """Make a command of ``function(inputs, **options)``; its help begins the module's docstring."""

    @_input_options
    @wraps(function)
    def main(checkpoint: Path, data_dir: Path | None, size: Any, record: Any, **own: Any) -> None:
        function(Inputs(checkpoint, data_dir, size, record), **own)

    purpose = str(sys.modules[function.__module__].__doc__).split("\n\n", 1)[0]
    return click.command(context_settings=CONTEXT, help=purpose)(main)


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
    return {name: rounds.turns[name][scope] for name in timers}


def disturbed(turns: Mapping[str, list[Turn]]) -> int:
    """Count the turns that other processes disturbed, repeats excluded."""
    return sum(bool(turn.marks) for own in turns.values() for turn in counted_turns(own))


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


def conclude(
    facts: str,
    record: Path | None,
    content: Mapping[str, Any],
    turns: int = 0,
    cores: float | None = None,
) -> None:
    """Print facts and environment in a line, warn of a disturbance, and write the record.

    Args:
        facts: what was measured.
        record: JSON file of ``content``, which holds every sample; None for none.
        turns: that other processes disturbed.
        cores: that other processes used.
    """
    machine = describe_environment()
    packages = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
    parts = [machine["processor"], *([machine["gpu"]] if machine["gpu"] != "none" else [])]
    parts += [f"{name} {machine[key]}" for key, name in packages.items() if key in machine]
    click.echo(f"\n{facts}; {', '.join(parts)}")
    if turns or (cores or 0) > DISTURBED_CORES:
        found = f"disturbed {turns} turns" if turns else f"used {cores:.2f} cores"
        click.echo(f"DISTURBED: other processes {found}; repeat the study on a quiet machine")
    if record is not None:
        whole = {"environment": machine, **content}
        text = json.dumps(whole, indent=1, default=lambda i: [i.value, i.low, i.high])
        write_text(record, text + "\n")
