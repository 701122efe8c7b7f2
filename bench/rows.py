"""What one row says, from what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.accuracy import Scored
from bench.backend import Recipe
from bench.overlap import calibrated_on
from bench.record import Accuracy, Score, Setting, Timing, Turn
from bench.statistics import fps_of_turns, latency, speed_ratio, verdict
from dabnet.data.labels import Category
from dabnet.intervals import hits_and_unions, miou_difference, miou_interval
from dabnet.metrics import Counts, Floats, category_iou, class_iou, mean_iou, pixel_accuracy


def timing_of(
    scope: str, setting: Setting, turns: Sequence[Turn], reference: Sequence[Turn] | None
) -> Timing:
    """Summarise one scope of a row.

    Args:
        turns: of the row.
        reference: of the reference in that scope; None of the reference itself, or without one.
    """
    ratio = speed_ratio(reference, turns) if reference is not None else None
    return Timing(
        scope,
        latency(turns),
        fps_of_turns(turns, setting.batch),
        ratio,
        verdict(ratio) if ratio else "",
        tuple(turns),
    )


def accuracy_of(
    scored: Scored,
    reference: Scored | None,
    recipe: Recipe,
    precision: str,
    labelled: bool,
    categories: Sequence[Category],
    overlap: tuple[str, ...],
) -> Accuracy:
    """Summarise the masks of a row.

    Args:
        scored: of the row.
        reference: of the reference; None of the reference itself, or without one.
        precision: of what ran.
        labelled: whether the images have a truth.
        overlap: names of the scored images that calibrated the row.
    """
    native = score = None
    if labelled:
        other = reference.per_image if reference else None
        score = _score(scored.per_image, other, categories)
        if scored.native is not None:
            native = _score(scored.native, reference.native if reference else None, categories)
    timed, agreement = scored.timed, scored.agreement
    return Accuracy(
        score=score,
        native_score=native,
        agreement=None if agreement is None else tuple(float(share) for share in agreement),
        arithmetic=scored.arithmetic,
        timed_agreement=_mean(scored.timed_agreement),
        timed_miou=float(mean_iou(timed.sum(0))) if labelled and timed is not None else None,
        calibrated_on=calibrated_on(precision, recipe.calibration),
        overlap=overlap,
    )


def _score(per_image: Counts, reference: Counts | None, categories: Sequence[Category]) -> Score:
    matrix = per_image.sum(0)
    hits, unions = hits_and_unions(per_image)
    return Score(
        miou=miou_interval(per_image),
        miou_difference=None if reference is None else miou_difference(per_image, reference),
        class_iou=_shares(class_iou(matrix)),
        category_iou=_shares(category_iou(matrix, categories)) if categories else (),
        pixel_accuracy=pixel_accuracy(matrix),
        hits=_rows(hits),
        unions=_rows(unions),
    )


def _shares(values: Floats) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)


def _rows(counts: Counts) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(count) for count in row) for row in counts)


def _mean(shares: Floats | None) -> float | None:
    return None if shares is None else float(shares.mean())
