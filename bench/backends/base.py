"""What a backend is to the benchmark, and how a third party adds one.

A backend is one object of the entry-point group ``dabnet.backends``::

    [options.entry_points]
    dabnet.backends =
        mine = my_package.my_backend:BACKEND

Its rows are called ``name-variant``. ``prepare`` may export, build and compile what it likes: that
is done in a process of its own and timed by nobody. What is scored and timed is what the returned
``Recipe`` opens, in another fresh process that holds nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.record import REFERENCE, Setting
from dabnet.errors import InputError
from dabnet.runtime.manifest import CalibrationInfo
from dabnet.runtime.runner import Runner

if TYPE_CHECKING:
    from bench.backends.cache import Workshop

GROUP = "dabnet.backends"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to open a candidate that is ready to run. It is pickled to the process that does.

    Attributes:
        open: a class or function of a module, by which the runner is made; its module is all that
            is imported, so that a row's memory is that of its own backend.
        arguments: for ``open``, by name.
        artifact: the file that it runs.
        exact: other arguments, where integer kernels take the place of the file's Q/DQ nodes in
            ``arguments``: those give the masks of the file, and are scored.
        manifest: of the artifact, as JSON holds it.
        calibration: where its INT8 ranges came from.
        graph: ONNX file with the operations of one call, for the roofline; None if there is none.
    """

    open: Callable[..., Runner]
    arguments: Mapping[str, Any]
    artifact: Path
    exact: Mapping[str, Any] | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    calibration: CalibrationInfo | None = None
    graph: Path | None = None

    def opened(self) -> Runner:
        """The runner that is timed."""
        return self.open(**self.arguments)

    def scored(self) -> Runner:
        """The runner whose masks are the candidate's accuracy."""
        return self.open(**(self.exact or self.arguments))


class Backend(Protocol):
    """One way to run a network.

    Attributes:
        name: of the backend.
        variants: what it can run, in the order of the table.
    """

    name: str
    variants: Sequence[str]

    def by_default(self, device: str) -> Sequence[str]:
        """The variants that are measured on ``cpu`` or ``cuda`` where none is named."""
        ...

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        """Make ready what the variant runs in this setting.

        Raises:
            BackendUnavailable: it cannot run here; the message is the row's reason.
            DabnetError: an export or a build failed.
        """
        ...


def backends() -> dict[str, Backend]:
    """Our own and those of installed packages, by name, in the order of the table."""
    from bench.backends import BACKENDS

    found = {backend.name: backend for backend in BACKENDS}
    for entry in entry_points(group=GROUP):
        try:
            backend: Backend = entry.load()
        except Exception as error:  # a foreign package may raise anything
            raise InputError(
                f"the backend {entry.value!r} cannot be loaded ({type(error).__name__}: {error})",
                f"an object of the group {GROUP!r}",
                f"uninstall or mend the package {entry.dist.name if entry.dist else entry.name!r}",
            ) from error
        if backend.name in found:
            raise InputError(
                f"the backend {entry.value!r} is called {backend.name!r}, as another one is",
                "a name of its own",
            )
        found[backend.name] = backend
    return found


def row_names(asked: Sequence[str], known: Mapping[str, Backend], device: str) -> tuple[str, ...]:
    """Return the rows that were asked for, the reference first, each once.

    Args:
        asked: rows (``onnxruntime-int8``), backends with all their variants (``onnxruntime``), or
            ``all``; none: each backend's variants by default.
        known: as ``backends`` returns them.
        device: ``cpu`` or ``cuda``.
    """
    every = [f"{b.name}-{variant}" for b in known.values() for variant in b.variants]
    if not asked:
        chosen = [f"{b.name}-{v}" for b in known.values() for v in b.by_default(device)]
    else:
        chosen = []
        for name in asked:
            matching = [row for row in every if name in ("all", row, row.partition("-")[0])]
            if not matching:
                raise InputError(
                    f"unknown backend {name!r}",
                    "all, " + ", ".join(known) + ", " + ", ".join(every),
                )
            chosen += matching
    ordered = [row for row in every if row in chosen]
    return tuple(sorted(ordered, key=lambda row: row != REFERENCE))
