"""Preparation of what is to be run: exports and builds, in a process that is not measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.backends import backends
from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.isolation import Isolated, ProcessFailed, remote_progress
from bench.measure.request import Request
from bench.record import Setting
from dabnet.console import ProgressBar
from export.spec import ExportSpec


class Preparer:
    """The service."""

    def __init__(self, request: Request) -> None:
        self._request, self._backends = request, backends()

    def prepare(self, name: str, setting: Setting) -> Recipe:
        """Prepare one row; the message of a DabnetError is why the row cannot run."""
        request = self._request
        backend, _, variant = name.partition("-")
        images = request.calibration_images
        workshop = Workshop(
            request.checkpoint,
            request.dataset,
            request.data_dir,
            ExportSpec(setting.size, batch=setting.batch, calibration_images=images),
            request.cache,
            request.device,
            request.threads,
            remote_progress,
        )
        return self._backends[backend].prepare(variant, setting, workshop)


def prepared(
    request: Request, rows: Sequence[tuple[str, Setting]], logs: Path, progress: ProgressBar
) -> Iterator[Recipe | str]:
    """Yield the recipe of each row, or the reason why it cannot run.

    One process prepares them all, since importing takes time; if it dies, another one goes on.
    """
    helper: Isolated | None = None
    with contextlib.ExitStack() as stack, progress("preparing", len(rows), "rows") as step:
        for name, setting in rows:
            try:
                if helper is None or not helper.alive:
                    log = logs / f"preparation-{name}.log"
                    made = Isolated("preparation", Preparer, (request,), log, progress)
                    helper = stack.enter_context(made)
                yield helper.call("prepare", name, setting)
            except ProcessFailed as error:
                yield str(error)
            step()
