"""The accuracy budget of an export: which layers of this checkpoint stay in float."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from calibration.calibration_file import graph_sha256
from dabnet.checkpoint import Checkpoint
from dabnet.console import ProgressBar
from dabnet.data.registry import open_dataset
from export.budget import Budget, Notebook, Search, search
from export.budget_report import save_report
from export.export_spec import ExportSpec
from export.float_graph import FloatGraph
from export.int8 import Ranges
from export.int8_cost import CostModel, card_of
from export.int8_trial import Int8Trial, held_out


def layers_within_budget(
    graph: FloatGraph,
    ranges: Ranges,
    checkpoint: Checkpoint,
    data_dir: Path | None,
    spec: ExportSpec,
    output: Path,
    progress: ProgressBar,
) -> Search:
    """Search, and keep what was found beside ``output``.

    ``OUTPUT.budget.json`` keeps each measurement while it runs, so that the same export goes on
    from there; ``OUTPUT.budget.md`` and ``.png`` are the table and the plot.

    Args:
        graph, ranges: the FP32 graph and what would be its int8.
        checkpoint, data_dir: whose ``train`` the held-out images are taken from.
        spec: with a budget.
        output: of the export.
    """
    train = open_dataset(checkpoint.dataset, "train", data_dir, spec.size)
    calibrated = set(ranges.info.image_sha256)
    images = held_out(train, calibrated, spec.budget_images, spec.size)
    trial = Int8Trial(
        graph.model,
        ranges.thresholds,
        spec.placement,
        graph.logits,
        images,
        len(checkpoint.labels.classes),
        spec.rest == "fp16",
        ranges.fitted,
    )
    card = card_of(spec.card)
    cost = CostModel(graph.model, trial.layers, card, (spec.batch, *spec.size))
    key = _key(graph, ranges, spec, [item.name for item in images])
    notebook = Notebook(_beside(output, "json"), key)
    budget = Budget(spec.max_drop, spec.max_disagreement)
    with progress("measuring layers", 2 * len(trial.layers) + 1, "choices") as step:
        found = search(trial, cost.gain, cost.seconds, budget, notebook, step)
    save_report(found, budget, cost, _beside(output, "md"), _beside(output, "png"))
    return found


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(f"{output.name}.budget.{suffix}")


def _key(graph: FloatGraph, ranges: Ranges, spec: ExportSpec, images: list[str]) -> str:
    """What every measurement depends on."""
    sha256 = graph_sha256(graph.model)
    fitted = ranges.fitted and graph_sha256(ranges.fitted)
    content = [sha256, ranges.thresholds, spec.placement, spec.rest, images, fitted]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
