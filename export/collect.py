"""Statistics of activations as a file: collected from a checkpoint, or added up from such files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from calibration.calibration_file import (
    Calibration,
    Subject,
    load_calibration,
    save_calibration,
)
from dabnet.checkpoint import Given, load_checkpoint
from dabnet.console import ProgressBar
from dabnet.data.images import ImageFolder, SizedImages, Unreadable
from dabnet.errors import DabnetError, InputError
from dabnet.files import sha256_of_file
from dabnet.models import network_named
from export.int8.quantise import Int8Export
from export.onnx_export import float_graph
from export.spec import ExportSpec


def merged(sources: Sequence[Path]) -> Calibration:
    """Read calibration files of one graph on different images and add them up.

    Raises:
        DabnetError: a file is damaged, or two of them do not belong together.
    """
    return reduce(Calibration.merged, map(load_calibration, sources))


def collected(
    checkpoint_path: Path,
    partial: Path,
    spec: ExportSpec,
    *,
    given: Given | None,
    data_dir: Path | None,
    folder: Path | None,
    unreadable: Unreadable,
    progress: ProgressBar,
) -> Calibration:
    """Collect the statistics of the FP32 graph that ``spec`` asks for.

    Args:
        checkpoint_path, given, data_dir: as for ``export.onnx_export.export_onnx``.
        partial: file that keeps the statistics so far; a run that finds that of the same graph and
            images goes on from it. It is left to the caller.
        spec: the graph, and how many images.
        folder: take the pictures of this folder instead of the data set's ``train``.
        unreadable: how many images may be passed over.
    """
    if folder is not None and data_dir is not None:
        raise InputError("--images and --data-dir", "one of them")
    checkpoint = load_checkpoint(checkpoint_path, given)
    network_named(checkpoint.model).check_size(*spec.size)
    graph = float_graph(checkpoint, spec)
    source = (checkpoint, sha256_of_file(checkpoint_path), data_dir)
    export = Int8Export(graph.model, graph.logits, *source, spec, progress)
    if folder is None:
        images = export.images(spec.calibration_images)
    else:
        pictures = ImageFolder(folder, checkpoint.labels)
        images = SizedImages.first(pictures, spec.size, spec.calibration_images)
    return export.collected(
        replace(images, unreadable=unreadable),
        _begun(partial, images, export.subject),
        lambda so_far: save_calibration(so_far, partial),
    )


def _begun(partial: Path, images: SizedImages, subject: Subject) -> Calibration | None:
    """The statistics that an interrupted run of the same graph and images left, if any."""
    try:
        found = load_calibration(partial)
    except DabnetError:
        return None  # there is none, or half of one: start again
    same = found.subject == subject and (found.dataset, found.split) == images.origin
    return found if same and len(found.images) <= len(images) else None
