"""Programs in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.seeded_checkpoint import no_bar

DABNET_EXPORT = "from export.cli.main import main; main()"
DABNET_BENCH = "from bench.cli.main import main; main()"


def environment(**changes: str) -> dict[str, str]:
    """Of a process that finds the project and computes on one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def run_python(
    program: str, *words: object, folder: Path = ROOT, stdin: str | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run ``program`` with these arguments in ``folder``, for 15 minutes at most.

    ``changes`` are of the environment.
    """
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=folder,
        env=environment(**changes),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def write_known_peaks(cache: Path) -> None:
    """Write peaks of this machine into the cache of ``dabnet-bench --threads 1``.

    A run whose peaks no test reads does not measure them for seconds then.
    """
    from bench.machine import peaks

    class Quiet:
        """A processor that nobody else uses."""

        def foreign_cores(self) -> float:
            return 0.0

    known = {peaks.BYTES: 1e11, "fp32": 1e13, "int8": 1e13}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peaks, "best_rates", lambda *_: dict(known))
        patch.setattr(peaks, "CpuWatch", Quiet)
        peaks.PeakMeter("cpu", 1, cache, no_bar).peaks()
