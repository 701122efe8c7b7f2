"""The programs of studies/ as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT


def run_study(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``studies/NAME.py`` with these words in ``cwd``, on one thread."""
    return subprocess.run(
        [sys.executable, str(ROOT / "studies" / f"{name}.py"), *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
