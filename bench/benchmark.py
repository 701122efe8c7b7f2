"""One run: open every candidate, score them, time them, and make the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import Accuracy, assess
from bench.candidates import REFERENCE, Opened, Workshop
from bench.disturbance import CpuWatch
from bench.environment import describe_environment
from bench.overlap import calibrated_on, overlapping, refuse
from bench.record import Report, Row
from bench.statistics import latency, speed_ratio, verdict
from bench.timing import Rounds, Scenario, measure
from dabnet.console import ProgressBar
from dabnet.data.dataset import Dataset, evenly_spaced
from dabnet.data.transforms import resize_image
from dabnet.errors import DabnetError, InputError
from dabnet.files import sha256_of_file
from dabnet.intervals import miou_difference, miou_interval
from dabnet.metrics import class_iou, mean_iou
from dabnet.runtime.runner import Runner, Uint8Array

TIMED_INPUTS = 4


def benchmark(
    workshop: Workshop,
    names: tuple[str, ...],
    dataset: Dataset,
    scenario: Scenario,
    images: int,
    progress: ProgressBar,
    allow_overlap: bool = False,
) -> tuple[Report, dict[str, Opened]]:
    """Measure ``names`` and return the record and what ran, which the caller closes.

    Args:
        names: candidates; those that cannot run become rows with a reason.
        dataset: the split that is scored; some of its images are also the ones that are timed.
        images: how many of its images are scored.
        allow_overlap: score a row on images that calibrated it, and mark it; without it that is an
            ``InputError``, before anything is measured.
    """
    environment = describe_environment()
    opened, reasons = _open(workshop, names)
    if not opened:
        raise InputError(
            "none of the backends can run here: "
            + "; ".join(f"{name}: {reason}" for name, reason in reasons.items()),
            "at least one that can",
        )
    images = min(images, len(dataset))
    overlaps = _overlaps(opened, dataset, images, progress, allow_overlap)
    runners = {name: candidate.runner for name, candidate in opened.items()}
    reference = REFERENCE if REFERENCE in runners else None
    scored, compared = _scored(opened, reference)
    with progress("accuracy", images) as step:
        scores = assess(scored, compared, dataset, workshop.spec.size, images, step)
    inputs = _timed_inputs(workshop, dataset)
    watch = CpuWatch()
    with progress("timing", scenario.rounds * len(runners), "turns") as step:
        rounds = measure(runners, inputs, scenario, step)
    foreign_cores = watch.foreign_cores()
    rows = tuple(
        _row(name, scenario, opened[name], scores, rounds, reference, overlaps.get(name, ()))
        if name in opened
        else Row(name, scenario.scope, reasons[name])
        for name in names
    )
    report = Report(
        model=workshop.checkpoint.model,
        checkpoint=workshop.checkpoint_path.name,
        checkpoint_sha256=sha256_of_file(workshop.checkpoint_path),
        dataset=dataset.name,
        split=dataset.split,
        images=images,
        classes=dataset.labels.classes,
        size=workshop.spec.size,
        scenario={**dataclasses.asdict(scenario), "cpu_threads": workshop.threads},
        environment=environment,
        rows=rows,
        foreign_cores=foreign_cores,
    )
    return report, opened


def _open(workshop: Workshop, names: tuple[str, ...]) -> tuple[dict[str, Opened], dict[str, str]]:
    opened: dict[str, Opened] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            opened[name] = workshop.open(name)
        except DabnetError as error:
            reasons[name] = str(error)
    return opened, reasons


def _overlaps(
    opened: Mapping[str, Opened],
    dataset: Dataset,
    images: int,
    progress: ProgressBar,
    allowed: bool,
) -> dict[str, tuple[str, ...]]:
    """Scored images that calibrated a row; an ``InputError`` unless that is allowed."""
    calibrations = {
        name: candidate.calibration
        for name, candidate in opened.items()
        if candidate.calibration and candidate.calibration.image_sha256
    }
    if not calibrations:
        return {}
    with progress("comparing with calibration images", images) as step:
        overlaps = overlapping(calibrations, dataset, images, step)
    if not allowed:
        refuse(overlaps, images, f"{dataset.name} {dataset.split}")
    return overlaps


def _scored(
    opened: Mapping[str, Opened], reference: str | None
) -> tuple[dict[str, Runner], dict[str, str]]:
    """Whose masks are taken, and with whose each is compared."""
    runners = {name: candidate.scored for name, candidate in opened.items()}
    compared = dict.fromkeys(runners, reference) if reference else {}
    for name, candidate in opened.items():
        if candidate.exact is not None:
            runners[_timed(name)] = candidate.runner
            compared[_timed(name)] = name
    return runners, compared


def _timed(name: str) -> str:
    return f"{name}, as timed"


def _timed_inputs(workshop: Workshop, dataset: Dataset) -> list[Uint8Array]:
    """Real images, several, so that a call never sees the input of the call before."""
    indices = evenly_spaced(len(dataset), TIMED_INPUTS)
    images = [resize_image(dataset[index].image, workshop.spec.size) for index in indices]
    return [np.repeat(image[None], workshop.spec.batch, axis=0) for image in images]


def _row(
    name: str,
    scenario: Scenario,
    candidate: Opened,
    scores: dict[str, Accuracy],
    rounds: dict[str, Rounds],
    reference: str | None,
    overlap: tuple[str, ...],
) -> Row:
    score, samples, timed = scores[name], rounds[name], scores.get(_timed(name))
    ratio = speed_ratio(rounds[reference], samples) if reference not in (None, name) else None
    iou = class_iou(score.per_image.sum(0))
    info = candidate.runner.info
    return Row(
        name=name,
        scope=scenario.scope,
        info=info,
        artifact=candidate.artifact.name,
        artifact_bytes=candidate.artifact.stat().st_size,
        miou=miou_interval(score.per_image),
        miou_difference=miou_difference(score.per_image, scores[reference].per_image)
        if reference not in (None, name)
        else None,
        class_iou=tuple(None if np.isnan(value) else float(value) for value in iou),
        agreement=_mean(score.agreement),
        arithmetic=candidate.scored.info.arithmetic,
        timed_agreement=_mean(timed.agreement) if timed else None,
        timed_miou=float(mean_iou(timed.per_image.sum(0))) if timed else None,
        calibrated_on=calibrated_on(info.precision, candidate.calibration),
        overlap=overlap,
        latency=latency(np.concatenate(samples), scenario.batch),
        speed_ratio=ratio,
        verdict=verdict(ratio) if ratio else "",
        rounds_ns=tuple(tuple(int(sample) for sample in turn) for turn in samples),
    )


def _mean(shares: NDArray[np.float64] | None) -> float | None:
    return None if shares is None else float(shares.mean())
