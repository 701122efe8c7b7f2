"""trtexec on an engine, as a loop that takes turns with the harness of dabnet-bench."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from instrument_loops import cpu_seconds

from bench.measure.timer import LEAST_CALLS, Timed
from dabnet.errors import BackendUnavailable
from dabnet.runtime.trt.check import read_engine_manifest

WARM_UP_CALLS = 20


class TrtexecLoop:
    """Each turn is a run of trtexec, of which GPU Compute Time is taken.

    That is the time between two events of the stream, around the kernels of a call. The harness's
    scope `device` holds the launch and the wait besides; nothing is copied in either.
    (https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/command-line-programs.html)

    Args:
        engine: written by dabnet-export, of fixed sides or with the shape in its manifest.
        trtexec: the program; TensorRT-RTX calls its own ``tensorrt_rtx``.

    Raises:
        BackendUnavailable: it cannot be started, fails, or timed fewer calls than it was told.
    """

    def __init__(self, engine: Path, trtexec: str) -> None:
        manifest, _ = read_engine_manifest(engine)
        self._command = [trtexec, f"--loadEngine={engine}", "--noDataTransfers"]
        self._command += ["--duration=0", "--warmUp=200", "--infStreams=1"]
        if manifest.is_dynamic:
            sides = "x".join(str(side) for side in (*manifest.example, 3))
            self._command.append(f"--shapes={manifest.input.name}:{sides}")

    def warm_up(self, scope: str, bound_s: float) -> float:
        return self.turn(scope, WARM_UP_CALLS).wall_s / WARM_UP_CALLS

    def turn(self, scope: str, calls: int) -> Timed:
        calls, before = max(LEAST_CALLS, calls), cpu_seconds()
        with tempfile.TemporaryDirectory() as folder:
            times = Path(folder) / "times.json"
            words = [*self._command, f"--iterations={calls}", f"--exportTimes={times}"]
            self._run(words)
            try:
                queries = json.loads(times.read_text(encoding="utf-8"))
                samples = [round(1e6 * float(query["computeMs"])) for query in queries]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise BackendUnavailable(f"{words[0]} left no times ({error})") from error
        if len(samples) < calls:
            raise BackendUnavailable(f"{words[0]} timed {len(samples)} calls of {calls}")
        counted = tuple(samples[-calls:])  # older releases keep those of the warm-up too
        return Timed(counted, sum(counted) / 1e9, cpu_seconds() - before)

    def _run(self, words: list[str]) -> None:
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise BackendUnavailable(f"{words[0]!r} does not start ({error.strerror})") from error
        if done.returncode:
            said = [line for line in (done.stdout + done.stderr).splitlines() if "[E]" in line]
            reason = said[0] if said else f"exit code {done.returncode}"
            raise BackendUnavailable(f"{words[0]} failed: {reason}")
