"""What is known of the rows of one setting, while they are measured.

What one row says, from what was measured of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench.backends.base import Recipe
from bench.machine.limit import limit_of
from bench.measure.accuracy import Scored
from bench.measure.overlap import calibrated_on
from bench.measure.rounds import Turns
from bench.measure.timer import Opened
from bench.record import (
    REFERENCE,
    Accuracy,
    Footprint,
    Limit,
    Peaks,
    Row,
    Score,
    Setting,
    Timing,
    Turn,
)
from bench.statistics import fps_of_turns, latency, speed_ratio, verdict
from dabnet.data.labels import Category
from dabnet.errors import DabnetError
from dabnet.intervals import hits_and_unions, miou_difference, miou_interval
from dabnet.metrics import Counts, Floats, category_iou, class_iou, mean_iou, pixel_accuracy
from dabnet.runtime.runner import LayerTime, RunnerInfo


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


PAPER = "paper"
"""Scope of the original protocol, whose row is called ``pytorch-paper``."""


@dataclass(slots=True)
class State:
    """The rows of one setting.

    Attributes:
        names: in the order of the table.
        recipes: of those that can run.
        reasons: why others did not, or did not come to their end.
        scored, accuracy: of those that were scored.
        opened, footprints, layers: of those that were timed.
        turns: of the timing so far.
        notes: what is missing of rows that have their times, and why.
        limits: of the rows' graphs, without the shares that were reached.
    """

    setting: Setting
    names: tuple[str, ...]
    recipes: dict[str, Recipe] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    scored: dict[str, Scored] = field(default_factory=dict)
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    opened: dict[str, Opened] = field(default_factory=dict)
    footprints: dict[str, Footprint] = field(default_factory=dict)
    layers: dict[str, tuple[LayerTime, ...]] = field(default_factory=dict)
    turns: Turns = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Limit | None] = field(default_factory=dict)

    @property
    def runnable(self) -> tuple[str, ...]:
        """Rows of the artifact contract that nothing has stopped yet."""
        return tuple(name for name in self._unstopped if not _is_of_paper(name))

    @property
    def of_paper(self) -> tuple[str, ...]:
        """Rows of the original protocol, neither stopped nor timed yet."""
        names = (name for name in self._unstopped if not self.turns.get(name))
        return tuple(name for name in names if _is_of_paper(name))

    @property
    def _unstopped(self) -> list[str]:
        return [name for name in self.names if name not in self.reasons]

    def summarise(
        self,
        name: str,
        labelled: bool,
        categories: Sequence[Category],
        overlap: tuple[str, ...],
    ) -> None:
        """Keep what a scored row's masks are worth, compared with the reference's."""
        recipe = self.recipes[name]
        self.accuracy[name] = accuracy_of(
            self.scored[name],
            self.scored.get(REFERENCE) if name != REFERENCE else None,
            recipe,
            str(recipe.manifest.get("precision", "")),
            labelled,
            categories,
            overlap,
        )

    def rows(self, peaks: Peaks | None) -> tuple[Row, ...]:
        """The rows as the record holds them."""
        return tuple(self._row(name, peaks) for name in self.names)

    def _row(self, name: str, peaks: Peaks | None) -> Row:
        recipe = self.recipes.get(name)
        row = Row(
            name,
            self.setting,
            self.reasons.get(name, ""),
            self._info(name),
            recipe.artifact.name if recipe else "",
            dict(recipe.manifest) if recipe else {},
            self.accuracy.get(name),
            tuple(
                timing_of(scope, self.setting, turns, self._reference_turns(name, scope))
                for scope, turns in self.turns.get(name, {}).items()
            ),
            self.footprints.get(name, Footprint()),
            layers=self.layers.get(name, ()),
        )
        return replace(row, limit=self._limit(row, recipe, peaks))

    def _info(self, name: str) -> RunnerInfo | None:
        opened, note = self.opened.get(name), self.notes.get(name)
        if opened is None:
            return None
        return replace(opened.info, notes=(*opened.info.notes, note)) if note else opened.info

    def _reference_turns(self, name: str, scope: str) -> list[Turn] | None:
        if name == REFERENCE or scope == PAPER:
            return None
        return self.turns.get(REFERENCE, {}).get(scope)

    def _limit(self, row: Row, recipe: Recipe | None, peaks: Peaks | None) -> Limit | None:
        if peaks is None or recipe is None or recipe.graph is None or row.info is None:
            return None
        if row.name not in self.limits:
            precision = row.info.precision
            try:
                found = limit_of(recipe.graph, self.setting, precision, peaks, None)
            except DabnetError:  # a foreign backend's graph may be of any kind
                found = None
            self.limits[row.name] = found
        limit, timing = self.limits[row.name], row.timing("device")
        if limit is None or timing is None or timing.latency is None:
            return limit
        # Streams share the device: the time a call takes from all is what the limit is of.
        seconds = timing.latency.p50_ms / 1e3 / self.setting.streams
        return replace(limit, share=limit.seconds / seconds)


def _is_of_paper(name: str) -> bool:
    return name.endswith(f"-{PAPER}")
