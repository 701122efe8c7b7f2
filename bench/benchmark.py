"""One run: open every candidate, score them, time them, and make the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from bench.accuracy import Accuracy, assess
from bench.candidates import REFERENCE, Workshop
from bench.disturbance import CpuWatch
from bench.environment import describe_environment
from bench.record import Report, Row
from bench.statistics import latency, miou_difference, miou_interval, speed_ratio, verdict
from bench.timing import Rounds, Scenario, measure
from dabnet.data.dataset import Dataset
from dabnet.data.transforms import resize_image
from dabnet.errors import DabnetError, InputError
from dabnet.files import sha256_of_file
from dabnet.metrics import class_iou
from dabnet.runtime.runner import Runner, Uint8Array

TIMED_INPUTS = 4

ProgressBar = Callable[..., AbstractContextManager[Callable[[], None]]]


def benchmark(
    workshop: Workshop,
    names: tuple[str, ...],
    dataset: Dataset,
    scenario: Scenario,
    images: int,
    progress: ProgressBar,
) -> tuple[Report, dict[str, Runner]]:
    """Measure ``names`` and return the record and the runners, which the caller closes.

    Args:
        names: candidates; those that cannot run become rows with a reason.
        dataset: the split that is scored; some of its images are also the ones that are timed.
        images: how many of its images are scored.
    """
    environment = describe_environment()
    runners, artifacts, reasons = _open(workshop, names)
    if not runners:
        raise InputError(
            "none of the backends can run here: "
            + "; ".join(f"{name}: {reason}" for name, reason in reasons.items()),
            "at least one that can",
        )
    reference = REFERENCE if REFERENCE in runners else None
    with progress("accuracy", min(images, len(dataset))) as step:
        scores = assess(runners, reference, dataset, workshop.spec.size, images, step)
    inputs = _timed_inputs(workshop, dataset)
    watch = CpuWatch()
    with progress("timing", scenario.rounds * len(runners), "turns") as step:
        rounds = measure(runners, inputs, scenario, step)
    foreign_cores = watch.foreign_cores()
    rows = tuple(
        _row(name, scenario, runners[name], artifacts[name], scores, rounds, reference)
        if name in runners
        else Row(name, scenario.scope, reasons[name])
        for name in names
    )
    report = Report(
        model=workshop.checkpoint.model,
        checkpoint=workshop.checkpoint_path.name,
        checkpoint_sha256=sha256_of_file(workshop.checkpoint_path),
        dataset=dataset.name,
        split=dataset.split,
        images=len(next(iter(scores.values())).per_image),
        classes=dataset.labels.classes,
        size=workshop.spec.size,
        scenario={**dataclasses.asdict(scenario), "cpu_threads": workshop.threads},
        environment=environment,
        rows=rows,
        foreign_cores=foreign_cores,
    )
    return report, runners


def _open(
    workshop: Workshop, names: tuple[str, ...]
) -> tuple[dict[str, Runner], dict[str, Path], dict[str, str]]:
    runners: dict[str, Runner] = {}
    artifacts: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            runners[name], artifacts[name] = workshop.open(name)
        except DabnetError as error:
            reasons[name] = str(error)
    return runners, artifacts, reasons


def _timed_inputs(workshop: Workshop, dataset: Dataset) -> list[Uint8Array]:
    """Real images, several, so that a call never sees the input of the call before."""
    indices = np.linspace(0, len(dataset) - 1, TIMED_INPUTS).round().astype(int)
    images = [resize_image(dataset[int(index)].image, workshop.spec.size) for index in indices]
    return [np.repeat(image[None], workshop.spec.batch, axis=0) for image in images]


def _row(
    name: str,
    scenario: Scenario,
    runner: Runner,
    artifact: Path,
    scores: dict[str, Accuracy],
    rounds: dict[str, Rounds],
    reference: str | None,
) -> Row:
    score, samples = scores[name], rounds[name]
    ratio = speed_ratio(rounds[reference], samples) if reference not in (None, name) else None
    iou = class_iou(score.per_image.sum(0))
    return Row(
        name=name,
        scope=scenario.scope,
        info=runner.info,
        artifact=artifact.name,
        artifact_bytes=artifact.stat().st_size,
        miou=miou_interval(score.per_image),
        miou_difference=miou_difference(score.per_image, scores[reference].per_image)
        if reference not in (None, name)
        else None,
        class_iou=tuple(None if np.isnan(value) else float(value) for value in iou),
        agreement=float(score.agreement.mean()) if score.agreement is not None else None,
        latency=latency(np.concatenate(samples), scenario.batch),
        speed_ratio=ratio,
        verdict=verdict(ratio) if ratio else "",
        rounds_ns=tuple(tuple(int(sample) for sample in turn) for turn in samples),
    )
