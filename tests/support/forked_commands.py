"""Many runs of ``dabnet-export`` as real processes that share one import of its libraries."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.processes import run_python

# Importing torch takes seconds: it is done once, and each command is a process forked from there.
_PROGRAM = """
import json, os, sys, traceback
import torch
import export.cli.main, export.collect, export.onnx_export, export.engine.engine

torch.set_num_threads(1)
codes = []
for number, arguments in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # else threads that begin together may find no pool after a fork
        for descriptor, suffix in ((1, "out"), (2, "err")):
            path = os.path.join(sys.argv[1], f"{number}.{suffix}")
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = ["dabnet-export", *arguments]
        code = 1
        try:
            export.cli.main.main()
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


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
