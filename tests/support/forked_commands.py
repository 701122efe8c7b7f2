"""Many runs of ``dabnet-export`` as real processes that share one import of its libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.support.processes import run_python

# Importing torch takes seconds: it is done once, and each command is a process forked from there.
_PROGRAM = """
import json, os, sys
import torch
import export.cli.main, export.collect, export.onnx_export, export.engine.engine
from tests.support.forked_commands import in_a_fork

def run(number, arguments):
    for descriptor, suffix in ((1, "out"), (2, "err")):
        path = os.path.join(said, f"{number}.{suffix}")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = ["dabnet-export", *arguments]
    export.cli.main.main()

torch.set_num_threads(1)
said = sys.argv[1]
commands = json.load(sys.stdin)
print(json.dumps([in_a_fork(lambda: run(*each)) for each in enumerate(commands)]))
"""


def in_a_fork(work: Callable[[], object]) -> int:
    """Do ``work`` in a process forked from this one; return its exit code."""
    one_thread_in_forks()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@cache
def one_thread_in_forks() -> None:
    """From here on give torch one thread in every fork, and in the forks of those.

    Else threads that begin together there may find no thread pool.
    """
    os.register_at_fork(after_in_child=_take_one_thread)


def _take_one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def run_commands(
    commands: list[list[str]], folder: Path, said: Path
) -> list[subprocess.CompletedProcess[str]]:
    """Run ``dabnet-export`` with each list of arguments in ``folder``, one after the other.

    What they print is kept in ``said``, an empty folder.
    """
    done = run_python(_PROGRAM, said, folder=folder, stdin=json.dumps(commands))
    assert done.returncode == 0, done.stderr
    return [
        subprocess.CompletedProcess(
            arguments,
            code,
            (said / f"{number}.out").read_text(encoding="utf-8"),
            (said / f"{number}.err").read_text(encoding="utf-8"),
        )
        for number, (arguments, code) in enumerate(
            zip(commands, json.loads(done.stdout), strict=True)
        )
    ]
