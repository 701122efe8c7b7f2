"""Whether an artifact is scored on images that trained it, or calibrated its INT8 ranges.

Such a score says nothing of new images. What trained a network is known by the name of its split.
What calibrated it is compared by the hash of its pixels: a copy under another name, in another
format or in another split is still the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from bench.candidates import Candidate
from bench.record import UNKNOWN
from dabnet.data.images import SizedImages
from dabnet.errors import InputError
from dabnet.precision import INT8
from dabnet.runtime.manifest import Manifest

Overlaps = dict[str, tuple[str, ...]]  # row → names of the scored images that calibrated it


def calibrated_on(manifest: Manifest | None) -> str:
    """The images that an artifact was calibrated on, in words; "" if it was not calibrated.

    ``UNKNOWN`` is a calibration whose images cannot be compared with those that are scored: a cache
    of TensorRT without its origin. Ranges of quantisation-aware training count as no calibration:
    they come from the images that trained the network.
    """
    calibration = manifest.calibration if manifest else None
    if (
        manifest is None
        or manifest.precision != INT8
        or (calibration and calibration.method == "trained")
    ):
        return ""
    if calibration is None or not calibration.image_sha256:
        return UNKNOWN
    return f"{calibration.images} images of {calibration.dataset} {calibration.split}"


def refuse_trained(candidates: Iterable[Candidate], images: SizedImages) -> None:
    """Raise ``InputError`` if a network would be scored on images that trained it."""
    for candidate in candidates:
        if seen := images.seen_by(candidate.trained_on):
            raise InputError(
                f"{str(candidate.path)!r} was trained on {seen}, which holds images of the"
                f" {images.description} that would be scored",
                "images that it has not seen",
                "train on the training split alone, or mark its rows with --allow-overlap",
            )


def overlapping(
    hashes: Mapping[str, Collection[str]],
    images: SizedImages,
    progress: Callable[[], None] = lambda: None,
) -> Overlaps:
    """Find the scored images that calibrated each row; () for most rows.

    Args:
        hashes: row → hashes of the images that calibrated it.
        progress: called after each of the scored images, which are read once.
    """
    found: dict[str, list[str]] = {name: [] for name in hashes}
    for item in images:
        for name in (name for name, known in hashes.items() if item.sha256 in known):
            found[name].append(item.name)
        progress()
    return {name: tuple(names) for name, names in found.items()}


def refuse(overlaps: Overlaps, images: SizedImages) -> None:
    """Raise ``InputError`` if a row would be scored on images that calibrated it."""
    rows = {name: names for name, names in overlaps.items() if names}
    if rows:
        raise InputError(
            " and ".join(
                f"{name} was calibrated on {len(names)} of the {images.description} that would be"
                f" scored, such as {names[0]!r}"
                for name, names in rows.items()
            ),
            "images that it has not seen",
            "calibrate on the training split alone, or mark the row with --allow-overlap",
        )
