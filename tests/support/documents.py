"""The pages that users read: their blocks of code, and the commands in them.

A block is run by ``tests/test_documents.py``, unless the line before it says what it needs::

    <!-- needs: gpu -->
"""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import click

from tests.support import ROOT

NEEDS = ("gpu", "data", "minutes", "network")
"""What a block may need that a test does not have: then its commands are only parsed."""
PAGES = (
    *("README.md", "CONTRIBUTING.md", "weights/README.md", "examples/README.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
OF_THE_SHELL = {"source", "cd", "echo", "export", "eval", "mkdir", "cp", "git", "docker", "cat"}
"""Programs that are not this project's: nothing of them is checked."""
MODULES_OF_OTHERS = (["-m", "venv"], ["-m", "visdom.server"])
SEPARATORS = {"&&", "||", "|", ";", "&"}
REDIRECTIONS = {">", ">>", "<"}

_SETUP = ConfigParser(interpolation=None)
_SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def _scripts() -> Iterator[tuple[str, str]]:
    for line in _SETUP["options.entry_points"]["console_scripts"].strip().splitlines():
        name, target = (part.strip() for part in line.split("="))
        yield name, target.removesuffix(":main")


MODULES = dict(_scripts())
"""Module of each command of the project, by the command's name; its function is ``main``."""


def _command(module: str) -> click.Command:
    """The click command that ``main`` of a module runs."""
    found = importlib.import_module(module)
    with patch.object(found, "run") as run:
        found.main()
    command = run.call_args.args[0]
    assert isinstance(command, click.Command)
    return command


COMMANDS = {name: _command(module) for name, module in MODULES.items()}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    needs: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fence = r"(?:^ *<!-- needs: (\w+) -->\n)?^( *)```(\w*)\n(.*?)^ *```$"
    found = []
    for match in re.finditer(fence, text, re.S | re.M):
        needs, indent, language, code = match.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.M)
        line = text.count("\n", 0, match.start(4))
        found.append(Block(page, line, language, needs or "", code))
    return found


@dataclass(frozen=True)
class Line:
    """A command of a block: what it sets in the environment, and its words."""

    environment: dict[str, str]
    words: list[str]


def command_lines(text: str) -> Iterator[Line]:
    """Yield the commands of a block, without redirections."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in SEPARATORS:
                words.append(word)
            elif words:
                yield _line(words)
                words = []


def _line(words: list[str]) -> Line:
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not {before, word} & REDIRECTIONS
    ]
    environment = {}
    while kept and re.fullmatch(r"[A-Z_]+=.*", kept[0]):
        name, _, value = kept.pop(0).partition("=")
        environment[name] = value
    return Line(environment, kept)


class Unknown(AssertionError):
    """A command line of a page that the command itself refuses, or that nobody knows."""


def check(words: Sequence[str]) -> None:
    """Raise where a command of a page would not take its words; nothing is run."""
    program, *rest = words
    if program in COMMANDS:
        parse(COMMANDS[program], rest)
    elif program == "torchrun":
        parse(COMMANDS["dabnet-train"], rest[rest.index("dabnet.cli") + 1 :])
    elif program == "make":
        _check_make(rest)
    elif program == "pip":
        _check_pip(rest)
    elif program == "python" and rest[0].endswith(".py"):
        _check_program(rest[0], rest[1:])
    elif program not in OF_THE_SHELL and rest[:2] not in MODULES_OF_OTHERS:
        raise Unknown(f"{shlex.join(words)}: a command that the tests do not know")


def parse(command: click.Command, words: Sequence[str]) -> None:
    """Parse the words of a command without running it."""

    def leaves(of: click.Command) -> Iterator[click.Command]:
        below = of.commands.values() if isinstance(of, click.Group) else ()
        yield from (leaf for one in below for leaf in leaves(one)) if below else (of,)

    kept = {leaf: leaf.callback for leaf in leaves(command)}
    try:
        for leaf in kept:
            leaf.callback = None
        command.main(list(words), prog_name=command.name, standalone_mode=False)
    except click.ClickException as error:
        raise Unknown(f"{shlex.join(words)}: {error.format_message()}") from error
    finally:
        for leaf, callback in kept.items():
            leaf.callback = callback


def _check_program(path: str, words: Sequence[str]) -> None:
    """A program of this repository: its command, or its function main, takes the words."""
    if not (ROOT / path).is_file():
        raise Unknown(f"{path} is not there")
    with patch.object(sys, "path", [str((ROOT / path).parent), *sys.path]):
        module = importlib.import_module(Path(path).stem)
    found = [value for value in vars(module).values() if isinstance(value, click.Command)]
    if found:
        parse(found[-1], words)
        return
    try:
        inspect.signature(module.main).bind(*words)
    except TypeError as error:
        raise Unknown(f"{path} {shlex.join(words)}: {error}") from error


def _check_make(words: Sequence[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        known = rf"^{name} +\?=" if equals else rf"^{name}:"
        if not re.search(known, text, re.M):
            raise Unknown(f"make {word}")


def _check_pip(words: Sequence[str]) -> None:
    """The extras and the constraints that ``pip install`` names are there."""
    known = set(_SETUP["options.extras_require"])
    for before, word in zip(["", *words], words, strict=False):
        extras = re.fullmatch(r"\.\[(.+)\]", word)
        if extras and not set(extras[1].split(",")) <= known:
            raise Unknown(f"pip install {word}: extras are {sorted(known)}")
        if before == "-c" and not (ROOT / word).is_file():
            raise Unknown(f"pip install -c {word}: no such file")


def links(page: str) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor of each link of a page to a file of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            yield (ROOT / page).parent / name if name else ROOT / page, anchor
