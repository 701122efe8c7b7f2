"""The page of ``--help``: the options of most calls first, the others under headings."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from typing import Any

import click

from dabnet.encoding import adapted

COMMON = "Options"
"""The heading of the options that ``under`` names no other for."""

_WIDEST = 24  # characters of an option and its value; a longer one has a line of its own


def under(heading: str, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Join click options into one decorator; ``--help`` lists them under ``heading``.

    An option that has a heading keeps it.
    """

    def decorate(function: Any) -> Any:
        known = len(getattr(function, "__click_params__", ()))
        for option in reversed(options):
            function = option(function)
        for made in function.__click_params__[known:]:
            if not hasattr(made, "under"):
                made.under = heading
        return function

    return decorate


def heading_of(option: click.Parameter) -> str:
    """Return the heading that ``--help`` lists an option under."""
    return getattr(option, "under", COMMON)


class Command(click.Command):
    """A command whose ``--help`` lists its options under headings, in lines of 80 characters."""

    def get_help(self, ctx: click.Context) -> str:
        # Click writes UTF-8 into a stream whose encoding is ASCII.
        return adapted(super().get_help(ctx), sys.stdout.encoding)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {COMMON: []}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and not option.hidden:
                groups.setdefault(heading_of(option), []).append(_line(option, ctx))
        names = [name for lines in groups.values() for name, _ in lines]
        width = max((len(name) for name in names if len(name) <= _WIDEST), default=_WIDEST)
        for heading, lines in groups.items():
            with formatter.section(heading):
                for name, told in lines:
                    _write(formatter, name, told, width)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def _write(formatter: click.HelpFormatter, name: str, told: str, width: int) -> None:
    """Write an option, and beside it, or below a long name, what it is for."""
    margin = " " * formatter.current_indent
    beside = f"{margin}{'':{width}}  "
    room = max(formatter.width - len(beside), 10)
    lines = textwrap.wrap(told, room, break_on_hyphens=False)
    if len(name) > width:
        formatter.write(f"{margin}{name}\n")
        name = ""
    for line in lines or [""]:
        formatter.write(f"{margin}{name:{width}}  {line}".rstrip() + "\n")
        name = ""


def _line(option: click.Option, ctx: click.Context) -> tuple[str, str]:
    """``-o, --output FILE``, and what it is for, with its choices and its default."""
    name, told = ", ".join(option.opts), option.help or ""
    if option.secondary_opts:
        name = name.replace("--", "--[no-]", 1)
    elif not option.is_flag:
        name, told = _with_value(option, ctx, name, told)
    if default := option.get_help_extra(ctx).get("default"):
        # Click puts ( ) around a default in words.
        told += f"  [{default.removeprefix('(').removesuffix(')')}]"
    return adapted(name, sys.stdout.encoding), told.strip()


def _with_value(option: click.Option, ctx: click.Context, name: str, told: str) -> tuple[str, str]:
    """The name with what stands for its value; choices that are too long for it go to the text."""
    kind = option.type
    if option.metavar:
        return f"{name} {option.metavar}", told
    if isinstance(kind, click.Choice):
        choices = [str(choice) for choice in kind.choices]
        if len(short := f"{name} {'|'.join(choices)}") <= _WIDEST:
            return short, told
        listed = f"{', '.join(choices)}."
        return f"{name} NAME", f"{told.rstrip('.')}: {listed}" if told else listed
    for known, letter in _VALUES.items():
        if isinstance(kind, known):
            return f"{name} {letter}", told
    return f"{name} {option.make_metavar(ctx)}", told


_VALUES: dict[type, str] = {
    click.types.IntParamType: "N",
    click.types.FloatParamType: "X",
    click.types.StringParamType: "NAME",
    click.Path: "FILE",
}
