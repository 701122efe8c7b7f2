"""The state of a row while it is measured, and the row of the record that it becomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench.backends.base import Recipe
from bench.candidates import Candidate
from bench.machine.limit import limit_of
from bench.measure.accuracy import Scored
from bench.measure.overlap import calibrated_on
from bench.measure.timer import Opened
from bench.record import (
    PAPER,
    REFERENCE,
    Accuracy,
    Footprint,
    Limit,
    Peaks,
    Row,
    Score,
    first_reference,
)
from bench.record.timing import Setting, Timing, Turn
from dabnet import metrics
from dabnet.data.labels import Category
from dabnet.errors import DabnetError
from dabnet.intervals import miou_difference, miou_interval
from dabnet.metrics import Counts, Floats
from dabnet.runtime.runner import LayerTime


@dataclass(slots=True)
class RowState:
    """One row of one setting."""

    name: str
    setting: Setting
    candidate: Candidate
    on: str  # backend and variant
    of: str = ""  # label of its subject; "" where the run has one
    recipe: Recipe | None = None  # None until it is prepared
    reason: str = ""  # why it cannot run or did not finish
    scored: Scored | None = None
    accuracy: Accuracy | None = None
    opened: Opened | None = None  # None until it is timed
    footprint: Footprint = field(default_factory=Footprint)
    layers: tuple[LayerTime, ...] = ()
    turns: dict[str, list[Turn]] = field(default_factory=dict)  # by scope
    note: str = ""  # what a timed row lacks, and why
    limit: Limit | None = None  # of its graph, without the share that was reached

    @property
    def of_paper(self) -> bool:
        """Whether it is timed by the published protocol, and not scored."""
        return self.on.endswith(f"-{PAPER}")

    @property
    def is_reference(self) -> bool:
        """Whether the masks of its subject are compared with its own."""
        return self.on == REFERENCE

    @property
    def file_name(self) -> str:
        """Its name in names of files."""
        return self.name.replace("/", "_")

    def find_limit(self, peaks: Peaks | None) -> None:
        """Count the work of the graph; a foreign backend's graph may be of any kind."""
        if peaks and self.recipe and self.recipe.graph and self.opened:
            try:
                precision = self.opened.info.precision
                self.limit = limit_of(self.recipe.graph, self.setting, precision, peaks)
            except DabnetError:
                self.limit = None

    def summarise(
        self,
        reference: RowState | None,
        labelled: bool,
        categories: Sequence[Category],
        overlap: tuple[str, ...],
        trained_on: str = "",
    ) -> None:
        """Turn ``scored`` into ``accuracy``.

        Args:
            reference: the reference row; None for that row itself, or where it was not scored.
            labelled: whether the images have labels.
            overlap: names of the scored images that calibrated the row.
            trained_on: a split that the network trained on, and that holds these images.
        """
        scored, other = self.scored, reference.scored if reference else None
        if scored is None:
            return
        score = native = timed = None
        if labelled:
            score = _score(scored.per_image, other.per_image if other else None, categories)
            if scored.native is not None:
                native = _score(scored.native, other.native if other else None, categories)
            if scored.timed is not None:
                timed = float(metrics.mean_iou(scored.timed.sum(0)))
        agreement, of_timed = scored.agreement, scored.timed_agreement
        self.accuracy = Accuracy(
            score=score,
            native_score=native,
            agreement=None if agreement is None else tuple(agreement.tolist()),
            arithmetic=scored.arithmetic,
            timed_agreement=None if of_timed is None else float(of_timed.mean()),
            timed_miou=timed,
            calibrated_on=calibrated_on(self.recipe.manifest if self.recipe else None),
            overlap=overlap,
            trained_on=trained_on,
        )

    def record(self, reference: RowState | None) -> Row:
        """The row as the record holds it; ``reference``: of the speed of its setting."""
        recipe, info, batch = self.recipe, None, self.setting.batch
        if self.opened:
            notes = (self.note,) if self.note else ()
            info = replace(self.opened.info, notes=(*self.opened.info.notes, *notes))
        others = {} if reference is None or reference is self else reference.turns
        timings = {s: Timing.of(s, turns, batch, others.get(s)) for s, turns in self.turns.items()}
        limit, device = self.limit, timings.get("device")
        if limit and device and device.latency:
            # Streams share the device: the time a call takes from all is what the limit is of.
            seconds = device.latency.p50_ms / 1e3 / self.setting.streams
            limit = replace(limit, share=limit.seconds / seconds)
        return Row(
            self.name,
            self.setting,
            self.reason,
            info,
            recipe.artifact.name if recipe else "",
            json.loads(recipe.manifest.to_json()) if recipe and recipe.manifest else {},
            self.accuracy,
            tuple(timings.values()),
            self.footprint,
            limit,
            self.layers,
            self.of,
        )


@dataclass(frozen=True, slots=True)
class State:
    """The rows of one setting, by name in the order of the table."""

    setting: Setting
    rows: dict[str, RowState]

    @classmethod
    def of(cls, setting: Setting, candidates: Sequence[Candidate], names: Sequence[str]) -> State:
        """The rows of each candidate: of a network those of ``names``, backend and variant."""
        rows = []
        for candidate in candidates:
            label = candidate.subject.label if len(candidates) > 1 else ""
            for on in candidate.rows(names):
                name = f"{label}/{on}" if label else on
                rows.append(RowState(name, setting, candidate, on, label))
        return cls(setting, {row.name: row for row in rows})

    @property
    def reference(self) -> RowState | None:
        """The row that the speed of all others is compared with."""
        return first_reference(self.rows.values())

    def own_reference(self, row: RowState) -> RowState | None:
        """The row that the masks of another are compared with; None for itself."""
        found = first_reference(each for each in self.rows.values() if each.of == row.of)
        return None if found is row else found

    @property
    def runnable(self) -> list[RowState]:
        """Rows of the artifact contract that nothing has stopped yet."""
        return [row for row in self.rows.values() if not row.reason and not row.of_paper]

    @property
    def scorable(self) -> list[RowState]:
        """Those of them whose masks mean something."""
        return [row for row in self.runnable if not row.candidate.subject.untrained]

    @property
    def of_paper(self) -> list[RowState]:
        """Rows of the published protocol, neither stopped nor timed yet."""
        rows = (row for row in self.rows.values() if row.of_paper)
        return [row for row in rows if not row.reason and not row.turns]

    def record(self) -> tuple[Row, ...]:
        return tuple(row.record(self.reference) for row in self.rows.values())


def _score(per_image: Counts, reference: Counts | None, categories: Sequence[Category]) -> Score:
    def shares(values: Floats) -> tuple[float | None, ...]:
        return tuple(None if np.isnan(value) else float(value) for value in values)

    matrix = per_image.sum(0)
    hits, unions = metrics.hits_and_unions(per_image)
    return Score(
        miou=miou_interval(per_image),
        miou_difference=None if reference is None else miou_difference(per_image, reference),
        class_iou=shares(metrics.class_iou(matrix)),
        category_iou=shares(metrics.category_iou(matrix, categories)) if categories else (),
        pixel_accuracy=metrics.pixel_accuracy(matrix),
        hits=tuple(map(tuple, hits.tolist())),
        unions=tuple(map(tuple, unions.tolist())),
    )
