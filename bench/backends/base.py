"""The protocol of a backend, and the recipe that it makes of a row.

A backend of another package is one object of the entry-point group ``GROUP``::

    [options.entry_points]
    dabnet.backends =
        mine = my_package.my_backend:BACKEND

Its rows are called ``name-variant``. ``prepare`` may export, build and compile what it likes: it
runs in a process of its own that nobody times. What is scored and timed is what the returned
``Recipe`` opens, in another fresh process that holds nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.record import Setting
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.runner import Runner

if TYPE_CHECKING:
    from bench.backends.cache import Workshop

GROUP = "dabnet.backends"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to open a candidate that is ready to run. It is pickled to the process that opens it."""

    # A class or function of a module, which makes what is run: a runner, or ``PaperProtocol``. Its
    # module is all that is imported, so that a row's memory is that of its own backend.
    open: Callable[..., Runner]
    arguments: Mapping[str, Any]  # for ``open``, by name
    artifact: Path  # the file that it runs
    # Other arguments, if integer kernels replace the file's Q/DQ nodes with ``arguments``: these
    # give the masks of the file, and are scored.
    exact: Mapping[str, Any] | None = None
    manifest: Manifest | None = None  # of the artifact
    graph: Path | None = None  # ONNX file with the operations of one call, for the roofline

    def opened(self) -> Runner:
        """The runner that is timed."""
        return self.open(**self.arguments)

    def scored(self) -> Runner:
        """The runner whose masks are the candidate's accuracy."""
        return self.open(**(self.exact or self.arguments))


class Backend(Protocol):
    """One way to run a network."""

    name: str  # without ``-``
    variants: Sequence[str]  # what it can run, in the order of the table

    def by_default(self, device: str) -> Sequence[str]:
        """The variants that are measured on ``cpu`` or ``cuda`` if none is named."""
        ...

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        """Prepare what the variant runs in this setting.

        Raises:
            BackendUnavailable: it cannot run here; the message is the row's reason.
            DabnetError: an export or a build failed.
        """
        ...
