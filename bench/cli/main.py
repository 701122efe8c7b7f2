"""``dabnet-bench``: parse, call one function, print."""

from __future__ import annotations

from typing import Any

import click

from bench.cli.reports import REPORT_COMMANDS
from bench.cli.run import run_command
from dabnet import __version__
from dabnet.console import CONTEXT, run


class _RunByDefault(click.Group):
    """``dabnet-bench CHECKPOINT`` is ``dabnet-bench run CHECKPOINT``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = (*self.commands, "-h", "--help", "--version")
        if not args or args[0] not in own:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunByDefault, context_settings=CONTEXT, invoke_without_command=False)
@click.version_option(__version__)
def bench_command() -> None:
    """Accuracy beside speed for every backend, in one table that decides what ships.

    dabnet-bench CHECKPOINT is short for dabnet-bench run CHECKPOINT.
    """


for _command in (run_command, *REPORT_COMMANDS):
    bench_command.add_command(_command)


def main() -> Any:
    """Entry point of ``dabnet-bench``."""
    run(bench_command)
