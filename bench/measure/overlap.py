"""Whether an artifact is scored on images that its INT8 ranges were calibrated on.

Ranges that saw an image round it better than any other, so such a score says nothing of new images.
Images are compared by the hash of their pixels (``image_sha256``): a copy under another
name, in another format or another split is still the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dabnet.data.images import SizedImages
from dabnet.errors import InputError
from dabnet.runtime.manifest import CalibrationInfo

UNKNOWN = "unknown images"


def calibrated_on(precision: str, calibration: CalibrationInfo | None) -> str:
    """Say in words what an artifact was calibrated on; "" where it was not.

    ``UNKNOWN`` is a calibration whose images cannot be compared with those that are scored: a cache
    of TensorRT without its origin. Ranges of quantisation-aware training count as no calibration:
    they come from the images that trained the network.
    """
    if precision != "int8" or (calibration and calibration.method == "trained"):
        return ""
    if calibration is None or not calibration.image_sha256:
        return UNKNOWN
    return f"{calibration.images} images of {calibration.dataset} {calibration.split}"


def overlapping(
    calibrations: Mapping[str, CalibrationInfo | None],
    images: SizedImages,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, tuple[str, ...]]:
    """Return the names of the scored images that calibrated each row; () for most.

    Args:
        calibrations: row → where its ranges came from.
        images: what is scored; each is read once.
        progress: called after each image.
    """
    known = {name: set(c.image_sha256) for name, c in calibrations.items() if c}
    found: dict[str, list[str]] = {name: [] for name in calibrations}
    for item in images:
        for name, hashes in known.items():
            if item.sha256 in hashes:
                found[name].append(item.name)
        progress()
    return {name: tuple(names) for name, names in found.items()}


def refuse(overlaps: Mapping[str, tuple[str, ...]], images: int, split: str) -> None:
    """Raise ``InputError`` where a row would be scored on images that calibrated it.

    Args:
        overlaps: as ``overlapping`` returns them.
        images: how many are scored.
        split: data set and split in words.
    """
    rows = {name: names for name, names in overlaps.items() if names}
    if not rows:
        return
    raise InputError(
        " and ".join(
            f"{name} was calibrated on {len(names)} of the {images} images of {split} that would"
            f" be scored, such as {names[0]!r}"
            for name, names in rows.items()
        ),
        "images that it has not seen",
        "calibrate on the training split alone, or mark the row with --allow-overlap",
    )
