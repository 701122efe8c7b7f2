"""Files that make the next build faster: kernel timings, and the ranges of INT8 calibrators.

Timing cache: ``IBuilderConfig.create_timing_cache``, ``set_timing_cache``, ``get_timing_cache``. It
holds for one version and one GPU model; TensorRT says in its log that it does not use another.

Calibration cache of TensorRT 8 and 10: text, a header with version and algorithm, then one tensor
per line with its scale, the bits of a big-endian float32 in hexadecimal (NVIDIA's sampleINT8,
"Calibration file"). TensorRT refuses one of another version or algorithm and calibrates anew::

    TRT-8601-EntropyCalibration2
    /network/init_conv/init_conv.0/conv/Conv_output_0: 3d8fd0b7
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.calibration_file import Calibration
from calibration.qdq import MIN_SCALE
from calibration.ranges import LEVELS, check_method
from dabnet.errors import ArtifactError, InputError, printable
from dabnet.files import existing_file, replacing, restored_on_failure, writable_target
from dabnet.outputs import CALIBRATION_CACHE
from dabnet.records import Codec, Name
from dabnet.runtime.manifest import CalibrationInfo
from dabnet.runtime.trt.product import Product, logger_of

# The target whose FP32 files a calibrator takes: ranges belong to tensors, which passes replace.
PLAIN = "portable"

MOST_BYTES = 200_000_000  # of a cache; TensorRT's have some megabytes

ALGORITHMS = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}


def attach_timing_cache(
    product: Product, config: Any, path: Path, tell: Callable[[str], None]
) -> None:
    """Give ``config`` the timings in ``path``, or none where they are not for this build."""
    filled = path.exists() and path.stat().st_size > 0
    stored = _content(path, "a timing cache") if filled else b""
    # Complaints about a cache that does not fit are no reason for a build that fails later.
    with logger_of(product).collect() as messages:
        cache = config.create_timing_cache(stored)
        taken = cache is not None and config.set_timing_cache(cache, False)
    said = [*messages.errors, *messages.warnings]
    if taken and not any("timing cache" in text.lower() for text in said):
        return
    tell(f"{path.name} is no timing cache of this version and GPU: starts an empty one")
    if not taken:
        config.set_timing_cache(config.create_timing_cache(b""), False)


def timings_of(config: Any) -> bytes:
    """The timings, those of the build included."""
    return bytes(config.get_timing_cache().serialize())


def cache_origin_path(cache: Path) -> Path:
    """The file beside a calibration cache."""
    return cache.with_name(cache.name + ".json")


@dataclass(frozen=True, slots=True)
class CacheOrigin:
    """The file beside a calibration cache (``.json``): which graph and images it is of."""

    graph_sha256: Name
    calibration: CalibrationInfo


ORIGIN = Codec(
    CacheOrigin,
    "origin of a calibration cache",
    "dabnet-export",
    "delete it and the cache, and calibrate again",
    error=ArtifactError,
)


@dataclass(frozen=True, slots=True)
class CalibrationCache:
    """TensorRT's file of ranges, in its own format, and beside it where they come from."""

    path: Path
    graph_sha256: str  # of the graph that is built: ranges belong to the names of its tensors

    def read(self) -> tuple[bytes, CalibrationInfo | None] | None:
        """Return the content and its origin (None if unknown); None where there is no file.

        Raises:
            InputError: it was made for another graph.
            ArtifactError: the file beside it is damaged.
        """
        if not self.path.exists():
            return None
        content = _content(self.path, "a calibration cache")
        beside = cache_origin_path(self.path)
        if not beside.exists():
            return content, None
        origin = ORIGIN.read(beside)
        if origin.graph_sha256 != self.graph_sha256:
            given = f"the calibration cache {str(self.path)!r} was made for another ONNX graph"
            fix = "delete it, or name another --calibration-cache"
            raise InputError(given, "one of this ONNX file", fix)
        return content, origin.calibration

    def write(self, content: bytes, info: CalibrationInfo) -> None:
        """Write both files, or neither."""
        beside = cache_origin_path(self.path)
        with restored_on_failure(beside), replacing(self.path) as temporary:
            temporary.write_bytes(content)
            ORIGIN.write(CacheOrigin(self.graph_sha256, info), beside)


def _content(path: Path, what: str) -> bytes:
    with existing_file(path, what).open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        given = f"{str(path)!r} is larger than {MOST_BYTES // 1_000_000} MB"
        raise InputError(given, what, "name another file, or delete it")
    return content


def check_cache(optimized_for: str, version: str, method: str) -> None:
    """Raise InputError unless TensorRT ``version`` can read such ranges of a graph for a target."""
    if optimized_for != PLAIN:
        given = f"a calibration of the graph for {optimized_for}"
        expected = f"one collected with --optimize-for {PLAIN}"
        raise InputError(given, expected, "collect it again")
    check_method(method)
    _version_number(version)


def write_cache(
    calibration: Calibration, output: Path, version: str, method: str, calibrator: str
) -> int:
    """Write a calibration file as such a cache; return how many tensors it holds.

    ``version`` (``major.minor.patch``) and ``calibrator`` are those of the TensorRT that reads it.
    The ranges are those of ``method`` (``calibration.ranges``) whatever that calibrator is called.

    Raises:
        InputError: the version has no calibrators, or the statistics are of another target.
    """
    output = writable_target(output, kind=CALIBRATION_CACHE)
    check_cache(calibration.subject.optimized_for, version, method)
    ranges = calibration.ranges(method)
    lines = [f"TRT-{_version_number(version)}-{ALGORITHMS[calibrator]}"]
    for name, threshold in ranges.items():
        if printable(name) != name or "\n" in name:  # it would be another line of the cache
            raise InputError(f"a tensor called {name!r}", "the name of a tensor on one line")
        lines.append(f"{name}: {struct.pack('>f', max(threshold / LEVELS, MIN_SCALE)).hex()}")
    info = calibration.info(f"{method} in a cache for TensorRT {version}")
    content = ("\n".join(lines) + "\n").encode()
    CalibrationCache(output, calibration.subject.graph_sha256).write(content, info)
    return len(ranges)


def _version_number(version: str) -> int:
    """``NV_TENSORRT_VERSION`` of NvInferVersion.h, whose digits were widened in TensorRT 10."""
    match = re.fullmatch(r"(8|10)\.(\d+)\.(\d+)(\.\d+)*", version)
    if not match:
        fix = "later versions take INT8 as Q/DQ: dabnet-export onnx --precision int8"
        raise InputError(f"TensorRT {version!r}", "8.x.y or 10.x.y, which have calibrators", fix)
    major, minor, patch = map(int, match.groups()[:3])
    return major * (1000 if major == 8 else 10000) + minor * 100 + patch
