"""Checkpoint and images → a calibration file, in pieces that survive an interruption."""

from __future__ import annotations

from pathlib import Path

from calibration.calibration_file import Calibration, load_calibration, save_calibration
from dabnet.checkpoint import load_checkpoint
from dabnet.console import ProgressBar
from dabnet.data.images import CalibrationSource, Unreadable, calibration_source, image_folder
from dabnet.errors import DabnetError, InputError
from dabnet.files import sha256_of_file, writable_target
from export.int8.quantise import calibrated_graph, collected, subject_of
from export.spec import ExportSpec


def collect_file(
    checkpoint_path: Path,
    output: Path,
    spec: ExportSpec,
    *,
    dataset: str | None,
    data_dir: Path | None,
    folder: Path | None,
    unreadable: Unreadable,
    progress: ProgressBar,
) -> Calibration:
    """Write the calibration file of the graph that ``spec`` asks for.

    The statistics so far lie in ``OUTPUT.partial`` while it runs; a run that finds this file of
    the same graph and images goes on from it.

    Args:
        checkpoint_path, dataset, data_dir: as for ``export.onnx_export.export_onnx``.
        output: the file to write.
        spec: the graph, and how many images.
        folder: pictures of a folder, instead of the data set's ``train``.
        unreadable: how many images may be passed over.
    """
    output = writable_target(output, checkpoint_path)
    partial = output.with_name(output.name + ".partial")
    checkpoint = load_checkpoint(checkpoint_path, dataset)
    images: CalibrationSource
    if folder is None:
        count = spec.calibration_images
        images = calibration_source(checkpoint.dataset, data_dir, count, spec.size)
    elif data_dir is not None:
        raise InputError("--images and --data-dir", "one of them")
    else:
        images = image_folder(folder, spec.size, spec.calibration_images)
    graph = calibrated_graph(checkpoint, data_dir, spec, progress)
    subject = subject_of(graph, sha256_of_file(checkpoint_path), spec)
    calibration = collected(
        graph,
        subject,
        images,
        progress,
        unreadable=unreadable,
        before=_begun(partial, images, subject),
        keep=lambda so_far: save_calibration(so_far, partial),
    )
    save_calibration(calibration, output)
    partial.unlink(missing_ok=True)
    return calibration


def _begun(partial: Path, images: CalibrationSource, subject: object) -> Calibration | None:
    """The statistics that an interrupted run of the same graph and images left, if any."""
    try:
        found = load_calibration(partial)
    except DabnetError:
        return None  # there is none, or half of one: start again
    same = found.subject == subject and (found.dataset, found.split) == images.origin
    return found if same and len(found.images) <= len(images) else None
