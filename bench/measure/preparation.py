"""Making ready what is to be run: exports and builds, in a process that is not measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.backends.base import Recipe, backends
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
        """Make one row ready; a ``DabnetError`` says why it cannot be."""
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


def prepared_recipes(
    request: Request,
    logs: Path,
    progress: ProgressBar,
    found: Callable[[Setting, str, Recipe | str], None],
) -> None:
    """Prepare every row in every setting; ``found`` gets each recipe, or the reason for none.

    One process prepares them all, for the time that importing takes; where it dies, the rest is
    prepared by another.
    """
    rows = [(setting, name) for setting in request.settings for name in request.names]
    helper: Isolated | None = None
    try:
        with progress("preparing", len(rows), "rows") as step:
            for setting, name in rows:
                try:
                    if helper is None or not helper.alive:
                        log = logs / f"preparation-{name}.log"
                        helper = Isolated("preparation", Preparer, (request,), log, progress)
                    found(setting, name, helper.call("prepare", name, setting))
                except ProcessFailed as error:
                    found(setting, name, str(error))
                step()
    finally:
        if helper is not None:
            helper.close()
