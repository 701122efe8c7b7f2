"""The file of kernel timings that makes the next build of the same network fast.

API: ``IBuilderConfig.create_timing_cache``, ``set_timing_cache``, ``get_timing_cache``. A cache
holds for one version and one GPU model; of any other TensorRT says in its log that it is not used.

A calibration file → the calibration cache that TensorRT 8 and 10 read.

The cache is text: a header with version and algorithm, then one tensor a line with its scale, the
bits of a big-endian float32 in hexadecimal (NVIDIA's sampleINT8, "Calibration file")::

    TRT-8601-EntropyCalibration2
    /network/init_conv/init_conv.0/conv/Conv_output_0: 3d8fd0b7

TensorRT refuses a cache of another version or algorithm and would calibrate anew.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibration.calibration_file import Calibration
from calibration.qdq import MIN_SCALE
from calibration.ranges import LEVELS
from dabnet.errors import InputError
from dabnet.files import replacing, writable_target
from dabnet.runtime.manifest import CalibrationInfo
from dabnet.runtime.trt.product import Product, logger_of
from export.engine.calibrator import CalibrationCache


def attach_timing_cache(
    product: Product, config: Any, path: Path, tell: Callable[[str], None]
) -> None:
    """Give ``config`` the timings in ``path``, or none where they are not for this build.

    Raises:
        InputError: the file is there and cannot be read.
    """
    try:
        stored = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(
            f"the timing cache {str(path)!r} cannot be read ({error.strerror})", "a readable file"
        ) from error
    # What is said of a cache that does not fit is no reason for a build that fails later.
    with logger_of(product).collect() as messages:
        cache = config.create_timing_cache(stored)
        taken = cache is not None and config.set_timing_cache(cache, False)
    said = [*messages.errors, *messages.warnings]
    if taken and not any("timing cache" in text.lower() for text in said):
        return
    tell(f"{path.name} is no timing cache of this version and GPU: starts an empty one")
    if not taken:
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Write the timings, those of the build included, atomically."""
    content = config.get_timing_cache().serialize()
    with replacing(path) as temporary:
        temporary.write_bytes(content)


ALGORITHMS = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}


def write_cache(
    calibration: Calibration, output: Path, version: str, method: str, calibrator: str
) -> int:
    """Write the cache, and beside it (``.json``) where it comes from; return how many tensors.

    Args:
        calibration: of the graph of an FP32 file for TensorRT.
        output: the file to write.
        version: of the TensorRT that is to read it, ``major.minor.patch``.
        method: how ranges are chosen; see ``calibration.ranges``.
        calibrator: ``entropy`` or ``minmax``: TensorRT's class that will read it. The ranges are
            ``method``'s whatever it is called.

    Raises:
        InputError: the version has no calibrators, or the statistics are of another target.
    """
    output = writable_target(output)
    if calibration.subject.optimized_for != "tensorrt":
        raise InputError(
            f"a calibration of the graph for {calibration.subject.optimized_for}",
            "one collected with --optimize-for tensorrt",
            "collect it again",
        )
    ranges = calibration.ranges(method)
    lines = [f"TRT-{_version_number(version)}-{ALGORITHMS[calibrator]}"]
    lines += [f"{name}: {_bits(threshold)}" for name, threshold in ranges.items()]
    info = CalibrationInfo(
        f"{method} in a cache for TensorRT {version}",
        calibration.dataset,
        calibration.split,
        len(calibration.images),
        tuple(image.sha256 for image in calibration.images),
    )
    content = ("\n".join(lines) + "\n").encode()
    CalibrationCache(output, calibration.subject.graph_sha256).write(content, info)
    return len(ranges)


def _bits(threshold: float) -> str:
    """The scale of a threshold: 8 hexadecimal digits, most significant first."""
    return struct.pack(">f", max(threshold / LEVELS, MIN_SCALE)).hex()


def _version_number(version: str) -> int:
    """``NV_TENSORRT_VERSION`` of NvInferVersion.h, whose digits were widened in TensorRT 10."""
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(\.\d+)*", version)
    major, minor, patch = (int(part) for part in match.groups()[:3]) if match else (0, 0, 0)
    if major == 8:
        return major * 1000 + minor * 100 + patch
    if major == 10:
        return major * 10000 + minor * 100 + patch
    raise InputError(
        f"TensorRT {version!r}",
        "8.x.y or 10.x.y, which have calibrators",
        "later versions take INT8 as Q/DQ: dabnet-export onnx --precision int8",
    )
