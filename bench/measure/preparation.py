"""Preparation of what is to be run: exports and builds, in a process that is not measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from bench.backends import backends
from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.isolation import Isolated, ProcessFailed, remote_progress
from bench.measure.request import Request
from bench.record import Setting
from dabnet.console import ProgressBar
from export.spec import ExportSpec


class Preparer:
    """The service: makes recipes."""

    def __init__(self, request: Request) -> None:
        self._request, self._backends = request, backends()

    def prepare(self, name: str, setting: Setting) -> Recipe:
        """Prepare one row.

        Raises:
            DabnetError: the reason why the row cannot run.
        """
        request = self._request
        backend, _, variant = name.partition("-")
        workshop = Workshop(
            checkpoint_path=request.checkpoint,
            dataset=request.dataset,
            data_dir=request.data_dir,
            spec=ExportSpec(
                setting.size, batch=setting.batch, calibration_images=request.calibration_images
            ),
            cache=request.cache,
            device=request.device,
            threads=request.threads,
            progress=remote_progress,
        )
        return self._backends[backend].prepare(variant, setting, workshop)


class Preparable(Protocol):
    """A row that gets its recipe, or the reason for none."""

    name: str
    setting: Setting
    recipe: Recipe | None
    reason: str


def prepared_recipes(
    request: Request, rows: Iterable[Preparable], logs: Path, progress: ProgressBar
) -> None:
    """Prepare every row; a reason that a row has already is kept.

    One process prepares them all, since importing takes time; if it dies, another one goes on.
    """
    rows = list(rows)
    helper: Isolated | None = None
    try:
        with progress("preparing", len(rows), "rows") as step:
            for row in rows:
                try:
                    if helper is None or not helper.alive:
                        log = logs / f"preparation-{row.name}.log"
                        helper = Isolated("preparation", Preparer, (request,), log, progress)
                    row.recipe = helper.call("prepare", row.name, row.setting)
                except ProcessFailed as error:
                    row.reason = row.reason or str(error)
                step()
    finally:
        if helper is not None:
            helper.close()
