"""Programs in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

DABNET_EXPORT = "from export.cli.main import main; main()"
DABNET_BENCH = "from bench.cli.main import main; main()"


def environment(**changes: str) -> dict[str, str]:
    """Of a process that finds the project and computes on one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def run_python(
    program: str, *words: object, folder: Path = ROOT, stdin: str | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run ``program`` with these arguments in ``folder``, for five minutes at most.

    ``changes`` are of the environment.
    """
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=folder,
        env=environment(**changes),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
