"""A calibration file → the calibration cache that TensorRT 8 and 10 read.

The cache is text: a header with version and algorithm, then one tensor a line with its scale, the
bits of a big-endian float32 in hexadecimal (NVIDIA's sampleINT8, "Calibration file")::

    TRT-8601-EntropyCalibration2
    /network/init_conv/init_conv.0/conv/Conv_output_0: 3d8fd0b7

TensorRT refuses a cache of another version or algorithm and would calibrate anew.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from calibration.calibration_file import Calibration
from calibration.qdq import MIN_SCALE
from calibration.ranges import LEVELS
from dabnet.errors import InputError
from dabnet.files import writable_target
from dabnet.runtime.manifest import CalibrationInfo
from export.engine_calibrator import CalibrationCache

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
