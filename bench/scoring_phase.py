"""Score the rows of one setting, each in a process of its own, the reference first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.accuracy import Scored, Scorer
from bench.isolation import Isolated, ProcessFailed
from bench.record import REFERENCE
from bench.request import Request
from bench.state import State
from dabnet.console import ProgressBar
from dabnet.data.labels import Category
from dabnet.files import writable_directory


@dataclass(frozen=True, slots=True)
class Scoring:
    """What scoring needs beside the rows.

    Attributes:
        request: of the run.
        categories: of the data set.
        overlaps: row → names of scored images that calibrated it.
        indices: of the images that are scored.
        shown: numbers of those whose masks are kept for pictures.
        work: folder of masks and scores; what it holds is not scored again.
        logs: folder of the processes' output.
        progress: shows bars.
    """

    request: Request
    categories: Sequence[Category]
    overlaps: Mapping[str, tuple[str, ...]]
    indices: range
    shown: Sequence[int]
    work: Path
    logs: Path
    progress: ProgressBar

    def folder(self, state: State, name: str) -> Path:
        """Where one row's masks and scores are kept."""
        height, width = state.setting.size
        return self.work / f"{height}x{width}-{state.setting.batch}" / name

    def score(self, state: State, name: str) -> None:
        """Score one row, or take what was kept of it; where that fails, the row has a reason."""
        folder = writable_directory(self.folder(state, name))
        kept = folder / "scores.npz"
        if kept.is_file():
            state.scored[name] = Scored.load(kept)
        else:
            try:
                state.scored[name] = self._run(state, name)
            except ProcessFailed as error:
                state.reasons[name] = str(error)
                return
            state.scored[name].save(kept)
        labelled, overlap = self.request.images.labelled, self.overlaps.get(name, ())
        state.summarise(name, labelled, self.categories, overlap)

    def _run(self, state: State, name: str) -> Scored:
        others = REFERENCE in state.scored and name != REFERENCE
        arguments = (
            state.recipes[name],
            self.request.images,
            state.setting,
            self.folder(state, name),
            # All of the reference's masks are kept: others are compared with them.
            list(self.indices if name == REFERENCE else self.shown),
            self.folder(state, REFERENCE) if others else None,
        )
        log, timeout = self.logs / f"{name}-accuracy.log", self.request.scenario.timeout_s
        with Isolated(name, Scorer, arguments, log, self.progress, timeout) as scorer:
            scored: Scored = scorer.call("score", timeout_s=timeout)
            return scored
