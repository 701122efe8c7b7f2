"""The registry of backends, ours and those of other packages; see ``docs/bench_backends.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points

from bench.backends.base import GROUP, Backend
from bench.backends.null_backend import NullBackend
from bench.backends.onnxruntime_backend import OnnxRuntimeBackend
from bench.backends.openvino_backend import OpenVinoBackend
from bench.backends.pytorch_backend import PyTorchBackend
from bench.backends.tensorrt_backend import TensorRTBackend
from bench.record import REFERENCE
from dabnet.errors import InputError

BACKENDS: tuple[Backend, ...] = (
    PyTorchBackend(),
    OnnxRuntimeBackend(),
    OpenVinoBackend(),
    TensorRTBackend("tensorrt", "tensorrt"),
    TensorRTBackend("tensorrtrtx", "tensorrt_rtx"),
    NullBackend(),
)
"""The backends of this project, in the order of the table."""


def backends() -> dict[str, Backend]:
    """Our backends and those of installed packages, by name, in the order of the table.

    Raises:
        InputError: one of another package cannot be loaded, or takes a name that is in use.
    """
    found = {backend.name: backend for backend in BACKENDS}
    for entry in entry_points(group=GROUP):
        try:
            backend: Backend = entry.load()
        except Exception as error:  # a foreign package may raise anything
            package = entry.dist.name if entry.dist else entry.name
            raise InputError(
                f"the backend {entry.value!r} cannot be loaded ({type(error).__name__}: {error})",
                f"an object of the group {GROUP!r}",
                f"uninstall or repair the package {package}",
            ) from error
        if backend.name in found:
            raise InputError(
                f"the backend {entry.value!r} has the name {backend.name!r} of another one",
                "a name that is not in use",
            )
        found[backend.name] = backend
    return found


def row_names(asked: Sequence[str], known: Mapping[str, Backend], device: str) -> tuple[str, ...]:
    """The rows that were asked for, the reference first, each once.

    ``asked`` are rows (``onnxruntime-int8``), backends with all their variants (``onnxruntime``) or
    ``all``; none: each backend's variants by default on the device, ``cpu`` or ``cuda``.
    """
    every = [f"{b.name}-{variant}" for b in known.values() for variant in b.variants]
    usual = [f"{b.name}-{variant}" for b in known.values() for variant in b.by_default(device)]
    chosen = set() if asked else set(usual)
    for name in asked:
        matching = [row for row in every if name in ("all", row, row.partition("-")[0])]
        if not matching:
            raise InputError(f"unknown backend {name!r}", ", ".join(["all", *known, *every]))
        chosen.update(matching)
    return tuple(sorted(filter(chosen.__contains__, every), key=lambda row: row != REFERENCE))
