"""The TensorRT that is installed, and its logger.

``tensorrt`` (8.6, 10, 11) and ``tensorrt_rtx`` share one API with small differences. Those are met
by attribute (``hasattr(module.BuilderFlag, "INT8")``), never by version number: RTX counts its own
versions from 1, and the integers behind the enum names shift between releases.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from dabnet.errors import PASCAL_STACK, BackendUnavailable, InputError, MissingPackage

TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt_rtx"
PRODUCTS = (TENSORRT, TENSORRT_RTX)

# With ProfilingVerbosity.DETAILED the builder of TensorRT-RTX logs all layers in one such message.
LAYER_REPORT = "Layers:"


@dataclass(frozen=True, slots=True)
class Product:
    """An imported TensorRT."""

    module: Any
    name: str  # ``tensorrt`` or ``tensorrt_rtx``
    version: str  # such as ``10.16.1.11``

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def builds_ahead_of_time(self) -> bool:
        """Whether engines for other GPUs than this one can be built (TensorRT-RTX)."""
        return hasattr(self.module, "ComputeCapability")

    @property
    def graph_target(self) -> str:
        """The ``--optimize-for`` of the graphs that it builds best."""
        return self.name.replace("_", "-")

    @property
    def is_generation_8(self) -> bool:
        """Whether this is TensorRT 8, the last that runs on Pascal and has ``num_bindings``."""
        return hasattr(self.module.ICudaEngine, "num_bindings")

    @property
    def is_strongly_typed(self) -> bool:
        """Whether a network can take its types from the ONNX file: all but TensorRT 8."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def has_calibrators(self) -> bool:
        """Whether the builder can choose INT8 ranges itself (TensorRT 8 and 10)."""
        return hasattr(self.module, "IInt8EntropyCalibrator2")

    @property
    def has_timing_cache(self) -> bool:
        """Whether the builder times kernels: TensorRT-RTX calls its timing cache a no-op (1.2)."""
        return not self.builds_ahead_of_time

    @property
    def is_version_compatible(self) -> bool:
        """Whether engines for later versions can be built.

        TensorRT-RTX has the flag, but lacks ``libnvinfer_lean``: its builder fails (1.7.1).
        """
        has_flag = hasattr(self.module.BuilderFlag, "VERSION_COMPATIBLE")
        return has_flag and not self.builds_ahead_of_time

    @property
    def hardware_levels(self) -> tuple[str, ...]:
        """Names of ``HardwareCompatibilityLevel`` that can be asked for; () for TensorRT-RTX.

        It has the names, but logs "unsupported in TensorRT-RTX" and ignores a level that is set.
        """
        levels = getattr(self.module, "HardwareCompatibilityLevel", None)
        names = () if self.builds_ahead_of_time else ("AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")
        return tuple(name for name in names if hasattr(levels, name))

    @property
    def targets(self) -> tuple[str, ...]:
        """What ``--target`` takes, such as ``sm86``; () where nothing is built ahead of time."""
        names = dir(self.module.ComputeCapability) if self.builds_ahead_of_time else []
        return tuple(n.lower() for n in names if n.startswith("SM") and n[2:].isdigit())


def find_product(name: str | None = None) -> Product:
    """Import the TensorRT product ``name``, or else the first that is installed.

    Raises:
        InputError: the product is unknown.
        MissingPackage: it is not installed.
        BackendUnavailable: it is installed but fails to import, such as for a missing library.
    """
    if name is not None and name not in PRODUCTS:
        raise InputError(f"unknown product {name!r}", f"one of {', '.join(PRODUCTS)}")
    for candidate in (name,) if name else PRODUCTS:
        try:
            module = importlib.import_module(candidate)
        except (ImportError, OSError, RuntimeError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name in (None, candidate):
                continue
            raise BackendUnavailable(
                f"the package {candidate!r} is installed but does not import ({error})",
                fix="install it again, with the libraries that its version asks for",
            ) from error
        return Product(module, candidate, str(module.__version__))
    fix = "pip install '.[gpu]' for tensorrt, '.[rtx]' for tensorrt_rtx; for the GTX 10 series "
    raise MissingPackage(name or TENSORRT, fix=fix + PASCAL_STACK)


@dataclass(slots=True, eq=False)  # one collection is another, though both may be empty
class Messages:
    """What TensorRT said during one build or load, in order."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layer_report: str = ""  # the message that lists the layers of the built engine

    def record(self, severity: str, text: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        elif severity == "WARNING":
            self.warnings.append(text)
        elif text.startswith(LAYER_REPORT):
            self.layer_report = text

    def first_error(self) -> str:
        """The first error: those that follow are its consequences."""
        return self.errors[0] if self.errors else "it gave no reason"


class CollectingLogger:
    """The one logger of a TensorRT module, whose messages go to whoever collects at the time.

    TensorRT keeps a single logger per process and ignores any later one while a builder or a
    runtime is alive, so there is one for each module.
    """

    def __init__(self, module: Any) -> None:
        self._stack: list[Messages] = []

        def log(_: Any, severity: Any, text: str) -> None:
            # Called from C++: an exception here would end the process.
            if self._stack:
                self._stack[-1].record(str(severity.name), str(text))

        # The base class is known only at run time, so ``class`` cannot be used under mypy strict.
        self.handle: Any = type("CollectingLoggerHandle", (module.ILogger,), {"log": log})()

    @contextmanager
    def collect(self) -> Iterator[Messages]:
        messages = Messages()
        self._stack.append(messages)
        try:
            yield messages
        finally:
            self._stack.remove(messages)


@cache
def logger_of(product: Product) -> CollectingLogger:
    """Return the process-wide logger of the product's module."""
    return CollectingLogger(product.module)


def create(product: Product, kind: str) -> Any:
    """Return a new ``Builder`` or ``Runtime`` with the product's logger.

    Raises:
        BackendUnavailable: the library could not be set up, for want of a GPU or a driver.
    """
    try:
        return getattr(product.module, kind)(logger_of(product).handle)
    except TypeError as error:  # "factory function returned nullptr"
        raise BackendUnavailable(
            f"{product} gave no {kind} ({error})",
            fix="check nvidia-smi; the driver may be older than this version asks for",
        ) from error
