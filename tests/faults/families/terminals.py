"""Terminals, environments and names of files that most people do not have."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.case import (
    CLOSED,
    EITHER,
    FINE,
    FULL,
    QUIET,
    REFUSED,
    UNREAD,
    Case,
    Expected,
)
from tests.faults.originals import SIZE, Originals
from tests.faults.verdict import Result

FAMILY = "terminal"
PER_COMMAND = 4
"""Names of files for each command, chosen at random."""

Words = Callable[[Originals], Sequence[object]]


@dataclass(frozen=True)
class Command:
    """A command line, and whether it works for more than a second."""

    words: Words
    works: bool = False


def _report(name: str, files: int = 1) -> Command:
    return Command(lambda o: ["dabnet-bench", name, *[o.record / "bench.json"] * files])


COMMANDS = {
    "inspect": Command(lambda o: ["dabnet-export", "inspect", o.fp32, "--layers"]),
    "inspect as JSON": Command(lambda o: ["dabnet-export", "inspect", o.int8, "--json"]),
    "inspect calibration": Command(
        lambda o: ["dabnet-export", "inspect", o.calibration, "--layers"], works=True
    ),
    "report": _report("report"),
    "compare": _report("compare", 2),
    "recommend": _report("recommend"),
    "data check": Command(lambda o: ["dabnet-data", "check", o.data, "--dataset", "camvid"]),
    "merge": Command(lambda o: ["dabnet-export", "calibration", o.calibration, "-o", "x.json"]),
    "help": Command(lambda _: ["dabnet-train", "--help"]),
    "version": Command(lambda _: ["dabnet-bench", "--version"]),
    "summary": Command(lambda _: ["dabnet-train", "--summary"]),
    "verify": Command(
        lambda o: ["dabnet-export", "verify", o.fp32, o.int8, "--limit", 1, "--json", "v.json"],
        works=True,
    ),
    "export": Command(
        lambda o: ["dabnet-export", "onnx", o.weights, "--size", SIZE, "-o", "x.onnx"], works=True
    ),
    "train": Command(
        lambda o: [
            *("dabnet-train", "--data-dir", o.data, "--output", "run"),
            *(*o.tiny, "--max-epochs", 1),
        ],
        works=True,
    ),
}
ENCODINGS = ("ascii", "latin-1", "cp1252", "koi8-r", "ascii:strict")
ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "COLUMNS=1": {"COLUMNS": "1"},
    "COLUMNS=0": {"COLUMNS": "0"},
    "COLUMNS=-5": {"COLUMNS": "-5"},
    "COLUMNS=abc": {"COLUMNS": "abc"},
    "COLUMNS=100000000": {"COLUMNS": "100000000"},
    "TERM=dumb": {"TERM": "dumb"},
    "TERM unset": {"TERM": None},
    "NO_COLOR": {"NO_COLOR": "1"},
    "FORCE_COLOR=3": {"FORCE_COLOR": "3"},
    "CLICOLOR_FORCE": {"CLICOLOR_FORCE": "1"},
    "TTY_COMPATIBLE": {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"},
    "HOME unset": {"HOME": None},
    "HOME missing": {"HOME": "/nonexistent"},
    "PATH empty": {"PATH": ""},
    "LC_ALL unknown": {"LC_ALL": "xx_XX.KOI8"},
}
FOR_WORK: dict[str, dict[str, str | None]] = {
    "HOME unset": {"HOME": None},
    "TMPDIR missing": {"TMPDIR": "/nonexistent"},
    "PATH empty": {"PATH": ""},
    "CUDA_VISIBLE_DEVICES=abc": {"CUDA_VISIBLE_DEVICES": "abc"},
    "FORCE_COLOR": {"FORCE_COLOR": "1"},
    "COLUMNS=1": {"COLUMNS": "1"},
}
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
WORLDS: dict[str, dict[str, str | None]] = {
    "WORLD_SIZE=abc": {"WORLD_SIZE": "abc"},
    "WORLD_SIZE=-1": {"WORLD_SIZE": "-1", "RANK": "0", "LOCAL_RANK": "0", **MEETING},
    "WORLD_SIZE=0": {"WORLD_SIZE": "0", "RANK": "0", "LOCAL_RANK": "0", **MEETING},
    "WORLD_SIZE=10**9": {"WORLD_SIZE": "1000000000", "RANK": "0", "LOCAL_RANK": "0", **MEETING},
    "WORLD_SIZE alone": {"WORLD_SIZE": "2"},
    "RANK=5 of 2": {"WORLD_SIZE": "2", "RANK": "5", "LOCAL_RANK": "5", **MEETING},
    "RANK=-1": {"WORLD_SIZE": "2", "RANK": "-1", "LOCAL_RANK": "0", **MEETING},
    "LOCAL_RANK=2 of 2": {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "2", **MEETING},
    "RANK=\u0661 in Arabic digits": {
        **{"WORLD_SIZE": "2", "RANK": "\u0661", "LOCAL_RANK": "1"},
        **MEETING,
    },
    "no MASTER_ADDR": {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
}
NAMES = {
    "not UTF-8": os.fsdecode(b"\xff\xfe"),
    "rich's markup": "[bold]x[",
    "a tag": "[red]",
    "an emoji code": ":smiley:",
    "a new line": "a\nb",
    "ESC": "\x1b[2J\x1b]0;x\x07",
    "right to left": "a\u202egpj",
    "Japanese": "\u65e5\u672c",
    "a C1 control": "a\x9b31m",
    "spaces": "  a  b ",
    "percent signs": "%s%n%(a)s{0}",
    "255 bytes": "n" * 240,
    "a dash": "--help",
}


def cases() -> Iterator[Case]:
    for name, command in COMMANDS.items():
        yield from _environments(name, command)
        yield from _streams(name, command)
    for what, environment in WORLDS.items():
        case = _case(f"train {what}", COMMANDS["train"], REFUSED)
        yield replace(case, environment=environment, seconds=10)
    for what, environment in {
        "MPLBACKEND=bogus": {"MPLBACKEND": "bogus"},
        "MPLBACKEND=TkAgg": {"MPLBACKEND": "TkAgg"},
        "MPLCONFIGDIR in /proc": {"MPLCONFIGDIR": "/proc"},
        "WORLD_SIZE=1": {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", **MEETING},
    }.items():
        yield replace(
            _case(f"train {what}", COMMANDS["train"], FINE), environment=dict(environment)
        )
    yield from _named()


def _case(name: str, command: Command, expected: Expected) -> Case:
    return Case(
        FAMILY,
        name,
        lambda _, originals: command.words(originals),
        expected,
        changes=("*",) if command.works or expected is not REFUSED else (),
        seconds=60 if command.works else 20,
    )


def _environments(name: str, command: Command) -> Iterator[Case]:
    fine = _case(name, command, FINE)
    for encoding in ENCODINGS[: 2 if command.works else None]:
        words = {"PYTHONIOENCODING": encoding}
        yield replace(fine, name=f"{name} in {encoding}", environment=words)
    for what, environment in (FOR_WORK if command.works else ENVIRONMENTS).items():
        yield replace(fine, name=f"{name} with {what}", environment=environment)


def _streams(name: str, command: Command) -> Iterator[Case]:
    """What is lost on stdout is an error, unless its reader has left; on stderr it is not."""
    for stream, kind, expected in (
        ("out", CLOSED, FINE),
        ("out", FULL, REFUSED),
        ("out", UNREAD, QUIET),
        ("err", CLOSED, FINE),
        ("err", FULL, FINE),
        ("err", UNREAD, EITHER),
    ):
        case = _case(f"{name} with std{stream} {kind}", command, expected)
        yield replace(case, streams={stream: kind}, changes=("*",))
    case = _case(f"{name} with both closed", command, FINE)
    yield replace(case, streams={"out": CLOSED, "err": CLOSED}, changes=("*",))


def _copied(source: Path, target: Path) -> Path:
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return target


NAMED: dict[str, Callable[[Originals, Path, str], Sequence[object]]] = {
    "inspect": lambda o, at, n: [
        *("dabnet-export", "inspect", _copied(o.fp32, at / f"{n}.onnx")),
    ],
    "verify": lambda o, at, n: [
        *("dabnet-export", "verify", _copied(o.fp32, at / f"{n}.onnx"), o.fp32),
        *("--limit", 1, "--json", at / f"{n}.json", "--output", at / n),
    ],
    "verify images": lambda o, at, n: [
        *("dabnet-export", "verify", o.fp32, o.fp32, "--limit", 1),
        *("--images", _copied(o.data / "val", at / n)),
    ],
    "report": lambda o, at, n: [
        *("dabnet-bench", "report", _copied(o.record / "bench.json", at / f"{n}.json")),
        *("--output", at / n),
    ],
    "compare": lambda o, at, n: [
        *("dabnet-bench", "compare", _copied(o.record / "bench.json", at / f"{n}.json")),
        *(o.record / "bench.json", "--json", at / f"{n}.new.json"),
    ],
    "recommend": lambda o, at, n: [
        *("dabnet-bench", "recommend", _copied(o.record / "bench.json", at / f"{n}.json")),
    ],
    "merge": lambda o, at, n: [
        *("dabnet-export", "calibration", _copied(o.calibration, at / f"{n}.json")),
        *("-o", at / f"{n}.new.json"),
    ],
    "data check": lambda o, at, n: [
        *("dabnet-data", "check", _copied(o.data, at / n), "--dataset", "camvid"),
        *("--sheet", at / f"{n}.png"),
    ],
    "export": lambda o, at, n: [
        *("dabnet-export", "onnx", _copied(o.weights, at / f"{n}.pth"), "--size", SIZE),
        *("-o", at / f"{n}.onnx"),
    ],
    "train": lambda o, at, n: [
        *("dabnet-train", "--data-dir", _copied(o.data, at / f"{n}.d"), "--output", at / n),
        *(*o.tiny, "--max-epochs", 1),
    ],
}


def _named() -> Iterator[Case]:
    for command, words in NAMED.items():
        chooser = random.Random(command)
        for what in chooser.sample(sorted(NAMES), PER_COMMAND + 2):
            encoding = chooser.choice(("utf-8", "ascii", "latin-1"))

            def lay(
                folder: Path, originals: Originals, words=words, named=NAMES[what]
            ) -> Sequence[object]:
                return words(originals, folder, named)

            yield Case(
                FAMILY,
                f"{command} of a name with {what} in {encoding}",
                lay,
                FINE,
                environment={"PYTHONIOENCODING": encoding},
                changes=("*",),
                check=_no_markup_error,
            )


def _no_markup_error(_: Path, result: Result) -> str:
    return "rich found markup in a name" if "MarkupError" in result.err else ""
