"""The programs of studies/ as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import ROOT
from tests.support.processes import environment


def run_study(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``studies/NAME.py`` with these words in ``cwd``, on one thread.

    As a file and not by ``python -c``: the processes of its rows import their main program again.
    """
    return subprocess.run(
        [sys.executable, str(ROOT / "studies" / f"{name}.py"), *map(str, words)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
