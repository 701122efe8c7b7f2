"""Preparation of what is to be run: exports and builds, in a process that is not measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.backends import backends
from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.backends.file_backend import file_recipe
from bench.candidates import Candidate
from bench.isolation import Isolated, ProcessFailed, remote_progress
from bench.measure.request import Request
from bench.record import Setting
from dabnet.console import ProgressBar
from export.spec import ExportSpec

Row = tuple[str, Candidate, str, Setting]
"""Its name in names of files, and the arguments of ``Preparer.prepare``."""


class Preparer:
    """The service."""

    def __init__(self, request: Request) -> None:
        self._request, self._backends = request, backends()

    def prepare(self, candidate: Candidate, on: str, setting: Setting) -> Recipe:
        """Prepare one row; the message of a DabnetError is why the row cannot run.

        Args:
            on: backend and variant.
        """
        request = self._request
        if candidate.manifest is not None:
            threads = max(1, request.threads // setting.streams)
            asked = (candidate.path, candidate.manifest, setting, request.device, threads)
            return file_recipe(*asked, trust=candidate.trust)
        backend, _, variant = on.partition("-")
        spec = ExportSpec(
            setting.size,
            batch=setting.batch,
            calibration_images=request.calibration_images,
            # Masks of random weights are close calls: any rounding turns some.
            minimum_agreement=0.0 if candidate.subject.untrained else None,
            head=request.head,
        )
        workshop = Workshop(
            candidate.path,
            candidate.given,
            request.data_dir,
            spec,
            request.cache,
            request.device,
            request.threads,
            remote_progress,
        )
        return self._backends[backend].prepare(variant, setting, workshop)


def prepared(
    request: Request, rows: Sequence[Row], logs: Path, progress: ProgressBar
) -> Iterator[Recipe | str]:
    """Yield the recipe of each row, or the reason why it cannot run.

    One process prepares them all, since importing takes time; if it dies, another one goes on.
    """
    helper: Isolated | None = None
    with contextlib.ExitStack() as stack, progress("preparing", len(rows), "rows") as step:
        for name, *asked in rows:
            try:
                if helper is None or not helper.alive:
                    log = logs / f"preparation-{name}.log"
                    made = Isolated("preparation", Preparer, (request,), log, progress)
                    helper = stack.enter_context(made)
                yield helper.call("prepare", *asked)
            except ProcessFailed as error:
                yield str(error)
            step()
