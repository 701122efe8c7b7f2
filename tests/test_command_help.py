"""Pages of ``--help``, and completion in a shell."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from dabnet.cli import train_command
from dabnet.command_help import COMMON, heading_of
from tests.support.documents import COMMANDS, MODULES
from tests.support.processes import environment

COLUMNS = 80
MOST_COMMON = 16
"""Options above the first heading: what is used most is seen first."""


def pages(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        yield from pages(f"{path} {name}", below)


PAGES = dict(page for name, command in COMMANDS.items() for page in pages(name, command))


def shown(path: str) -> list[str]:
    root, *words = path.split()
    told = CliRunner().invoke(
        COMMANDS[root], [*words, "--help"], prog_name=root, terminal_width=COLUMNS
    )
    assert told.exit_code == 0
    return told.output.splitlines()


def groups_of(lines: list[str]) -> dict[str, list[str]]:
    """Heading → the names of its options, from a page."""
    groups: dict[str, list[str]] = {}
    for line in lines:
        if line.endswith(":") and not line.startswith(" "):
            groups[line[:-1]] = []
        elif groups and line.startswith("  -"):
            name = line.strip().split("  ")[0].replace("[no-]", "")
            groups[list(groups)[-1]] += re.findall(r"--[a-z][a-z0-9-]*", name)
    return groups


@pytest.mark.parametrize("path", PAGES)
def test_a_page_tells_each_option_once_and_the_common_ones_first(path: str) -> None:
    lines, command = shown(path), PAGES[path]
    assert max(map(len, lines)) <= COLUMNS
    groups = groups_of(lines)
    options = [option for option in command.params if isinstance(option, click.Option)]
    wanted: dict[str, set[str]] = {}
    for option in options:
        wanted.setdefault(heading_of(option), set()).add(option.opts[-1])
        assert option.help or isinstance(option.type, click.Choice), option.opts
    wanted.setdefault(COMMON, set()).add("--help")
    assert {heading: set(names) for heading, names in groups.items() if names} == wanted
    assert sum(map(len, groups.values())) == len(options) + 1
    assert next(iter(groups)) == COMMON
    assert len(groups[COMMON]) <= MOST_COMMON
    if isinstance(command, click.Group):
        assert not any(line.endswith("...") for line in lines[1:]), "a summary is cut off"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_shell_is_given_a_script_of_completion(name: str, shell: str) -> None:
    variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
    program = f"import sys; sys.argv[0] = {name!r}; from {MODULES[name]} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(**{variable: f"{shell}_source"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{variable}={shell}_complete" in done.stdout


@pytest.mark.parametrize(
    ("words", "started", "expected"),
    [
        ([], "--max-e", {"--max-epochs"}),
        (["--model"], "e", {"erfnet", "enet"}),
        (["--device", "cpu"], "--da", {"--dataset", "--data-dir", "--data-path"}),
    ],
)
def test_options_and_choices_are_completed(
    words: list[str], started: str, expected: set[str]
) -> None:
    completer = BashComplete(train_command, {}, "dabnet-train", "_DABNET_TRAIN_COMPLETE")
    assert {item.value for item in completer.get_completions(words, started)} == expected
