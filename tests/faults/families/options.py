"""Every option of every command, with values that it must refuse, made from the commands.

Each is refused before any work, in a line that names the option or shows the value.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from bench.cli.main import bench_command
from dabnet.cli import train_command
from dabnet.console import Dilations, Factors, Size
from dabnet.data_cli import data_group
from dabnet.run.cli import run_command
from export.cli.main import export_group
from tests.faults.case import FINE, Case
from tests.faults.originals import SIZE, Originals
from tests.faults.verdict import Result

FAMILY = "option"
PER_OPTION = 5
"""Values of an option with a number, chosen at random."""
SOON = 10  # seconds, also for a command that opens its input first
TINY = 1 << 30  # bytes: nothing is computed

DIGITS = "9" * 5000
NUMBERS = {
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "-1": "-1",
    "1e400": "1e400",
    "10**30": "1" + "0" * 30,
    "text": "many",
    "no text": "",
    "5000 digits": DIGITS,
    "an Arabic digit": "\u0663x",
}
SIZES = {
    "0x0": "0x0",
    "80000x80000": "80000x80000",
    "10**9 each": "1000000000x1000000000",
    "5000 digits": f"{DIGITS}x8",
    "-8x8": "-8x8",
    "one number": "512",
    "four numbers": "1x8x8x8",
    "nanxnan": "nanxnan",
    "no text": "",
    "fullwidth digits": "\uff16\uff14x\uff16\uff14",
    "16384x16384": "16384x16384",
}
LISTS = {
    "nan": "1,nan,1",
    "inf": "inf,1,1",
    "10**30": "1" + "0" * 30,
    "commas": ",,",
    "semicolons": "1;2;3",
    "no text": "",
    "100000 numbers": ",".join(["1x"] * 20_000),
    "5000 digits": DIGITS,
}

Line = Callable[[Originals], list[object]]


def _bench(*words: object) -> Line:
    return lambda o: ["dabnet-bench", words[0], o.record / "bench.json", *words[1:]]


LINES: dict[str, tuple[click.Command, Line]] = {
    "train": (
        train_command,
        lambda o: ["dabnet-train", "--data-dir", o.data, "--output", "run", *o.tiny],
    ),
    "data check": (data_group.commands["check"], lambda o: ["dabnet-data", "check", o.data]),
    "run": (
        run_command,
        lambda o: ["dabnet-run", o.fp32, o.data, "--output", "x", "--max-frames", 1],
    ),
    "onnx": (
        export_group.commands["onnx"],
        lambda o: [
            *("dabnet-export", "onnx", o.weights, "-o", "x.onnx"),
            *("--size", SIZE, "--precision", "int8"),
        ],
    ),
    "trt": (
        export_group.commands["trt"],
        lambda o: [
            *("dabnet-export", "trt", o.weights, "-o", "x.engine", "--size", SIZE),
            *("--target", "sm86", "--precision", "int8"),
        ],
    ),
    "calibration": (
        export_group.commands["calibration"],
        lambda o: ["dabnet-export", "calibration", o.weights, "-o", "x.json", "--size", SIZE],
    ),
    "verify": (
        export_group.commands["verify"],
        lambda o: ["dabnet-export", "verify", o.fp32, o.fp32, "--limit", 1, "--output", "worst"],
    ),
    "inspect": (
        export_group.commands["inspect"],
        lambda o: ["dabnet-export", "inspect", o.weights],
    ),
    "bench": (
        bench_command.commands["run"],
        lambda o: [
            *("dabnet-bench", "run", o.weights, "--size", SIZE, "--scenario", "throughput"),
            *("--backend", "pytorch-fp32", "--cache-dir", "cache", "--output", "bench"),
        ],
    ),
    "report": (bench_command.commands["report"], _bench("report")),
    "compare": (
        bench_command.commands["compare"],
        lambda o: [*_bench("compare")(o), o.record / "bench.json"],
    ),
    "recommend": (bench_command.commands["recommend"], _bench("recommend")),
}


def cases() -> Iterator[Case]:
    for name, (command, line) in LINES.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                for what, value in _values(name, option):
                    yield _refused(name, option.opts[0], what, value, line)
        for word in ("--help", "-h"):
            yield Case(FAMILY, f"{name} {word}", lambda _, o, w=word, f=line: [*f(o), w], FINE)
        yield _refused(name, "--no-such-option", "anything", "x", line)
        yield _refused(name, "--bad\x1b[31moption", "a control character", "x", line, named="bad")


def _values(command: str, option: click.Option) -> list[tuple[str, str]]:
    """What an option must refuse, by name."""
    kind = option.type
    if isinstance(kind, click.Path):
        return [("no text", ""), ("a name of 5000 characters", "x" * 5000)]
    if isinstance(kind, click.Choice):
        return [("another word", "\u00fcbel"), ("no text", "")]
    if isinstance(kind, click.types.StringParamType):
        return []
    if isinstance(kind, Size):
        found = SIZES
    elif isinstance(kind, (Factors, Dilations)):
        found = LISTS
    elif isinstance(kind, (click.types.IntParamType, click.types.FloatParamType)):
        found = NUMBERS
    else:
        return [("text", "many"), ("no text", "")]
    chooser = random.Random(f"{command} {option.name}")
    return chooser.sample(sorted(found.items()), PER_OPTION)


def _refused(command: str, option: str, what: str, value: str, line: Line, named: str = "") -> Case:
    shown = named or option.lstrip("-")

    def lay(_: Path, originals: Originals) -> list[object]:
        return [*line(originals), option, value]

    def names_it(_: Path, result: Result) -> str:
        said = result.err.replace("_", "-")
        told = shown in said or shown.replace("-", " ") in said or (value and value[:12] in said)
        return "" if told else f"neither {option} nor its value is named: {said}"

    return Case(
        FAMILY,
        f"{command} {option} {what}".replace("\x1b", "ESC"),
        lay,
        check=names_it,
        seconds=SOON,
        memory=TINY,
    )
