"""Records as a run leaves them, with numbers that are drawn and not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.record import (
    REFERENCE,
    Accuracy,
    Footprint,
    Limit,
    Peaks,
    Report,
    Row,
    Score,
    Setting,
    Subject,
    Telemetry,
    Timing,
    Turn,
)
from dabnet.intervals import Interval
from dabnet.runtime.runner import LayerTime, RunnerInfo

CLASSES = ("road", "car", "person")
PALETTE = ((128, 64, 128), (0, 0, 142), (220, 20, 60))
SETTING = Setting((512, 1024))
IMAGES = tuple(f"street_{number:03d}" for number in range(8))
FORMATS = {name: name for name in ("fp32", "fp16", "bf16", "int8")}

SUBJECT = Subject(
    *("dabnet", "dabnet", "dabnet_toy_street.pth", "0123456789abcdef" * 4, "toy-street"),
    *(754_571, {"512x1024": 10_165_000_000}),
)

# name → (median milliseconds on the host, mIoU, megabytes); None is a row that could not run.
ROWS: dict[str, tuple[float, float, float] | None] = {
    REFERENCE: (86.0, 0.6631, 3.1),
    "onnxruntime-fp32": (52.0, 0.6631, 3.2),
    "onnxruntime-int8": (88.0, 0.6617, 1.0),
    "openvino-fp32": (170.0, 0.6630, 3.2),
    "tensorrt-fp16": None,
}


def sample_report(
    rows: dict[str, tuple[float, float, float] | None] | None = None,
    settings: tuple[Setting, ...] = (SETTING,),
    seed: int = 0,
    **changes: Any,
) -> Report:
    """Return a record of those rows in each setting; ``changes`` are attributes of the report."""
    rng = np.random.default_rng(seed)
    made: list[Row] = []
    for setting in settings:
        reference: Row | None = None
        for name, figures in (rows or ROWS).items():
            made.append(_row(name, figures, setting, reference, rng))
            if name == REFERENCE:
                reference = made[-1]
    values: dict[str, Any] = {
        "subjects": (SUBJECT,),
        "dataset": "toy-street",
        "split": "val",
        "images": IMAGES,
        "labelled": True,
        "classes": CLASSES,
        "palette": PALETTE,
        "categories": ("flat", "other"),
        "scenario": {"name": "latency", "rounds": 4, "min_time_s": 10.0, "cpu_threads": 2},
        "environment": {"processor": "a processor (2 logical cores)", "gpu": "none"},
        "rows": tuple(made),
        "peaks": Peaks("a processor", 2e10, {"fp32": 1.1e11}, "2026-01-31T12:00:00Z"),
        "harness_ns": 900.0,
        "started": "2026-01-31T12:00:00Z",
        "key": "k",
    }
    return Report(**(values | changes))


def timed_report(rows: Mapping[str, tuple[Sequence[float], float, float]]) -> Report:
    """A record of those rows: milliseconds in each round, one call a turn; mIoU; megabytes."""
    report = sample_report({name: (ms[0], miou, mb) for name, (ms, miou, mb) in rows.items()})
    made: list[Row] = []
    for row in report.rows:
        times = [ms / 1e3 for ms in rows[row.name][0]]
        turns = [Turn(n, 0.0, s, (round(1e9 * s),)) for n, s in enumerate(times)]
        base = made[0].timings[0].turns if made else None
        made.append(replace(row, timings=(Timing.of("host", turns, 1, base),)))
    return replace(report, rows=tuple(made))


SEVERAL = {
    # label: network, how many times slower than ``ROWS``, higher mIoU, 10⁹ multiply-adds
    "dabnet": ("dabnet", 1.0, 0.0, 10),
    "lednet": ("lednet", 1.2, 0.02, 11),
    "enet": ("enet", 0.4, 0.0, 4),
    "mine": ("unknown", 0.9, 0.03, 55),
}


def several_report() -> Report:
    """A record of two networks, one with random weights, which is the fastest, and a file."""
    ran = {name: figures for name, figures in ROWS.items() if figures}
    subjects, rows = [], list[Row]()
    for seed, (label, (model, slower, better, work)) in enumerate(SEVERAL.items()):
        untrained, file = label == "enet", "" if label == "enet" else f"{label}.pth"
        facts = (10**5 * work, {"512x1024": 10**9 * work}, untrained)
        subjects.append(Subject(label, model, file, str(seed) * 64, "", *facts))
        figures = {"onnxruntime-file": (86.0, 0.66, 30.0)} if label == "mine" else ran
        own = {name: (slower * ms, miou + better, mb) for name, (ms, miou, mb) in figures.items()}
        for row in sample_report(dict(own), seed=seed).rows:
            rows.append(
                replace(
                    row,
                    name=f"{label}/{row.name}",
                    of=label,
                    timings=tuple(_to(rows[0] if rows else None, t) for t in row.timings),
                    accuracy=None if untrained else row.accuracy,
                )
            )
    return replace(sample_report(), subjects=tuple(subjects), rows=tuple(rows))


def _to(base: Row | None, timing: Timing) -> Timing:
    """The timing with its ratio to ``base``; None for that row itself."""
    other = base.timing(timing.scope) if base else None
    return Timing.of(timing.scope, timing.turns, 1, other.turns if other else None)


def _row(
    name: str,
    figures: tuple[float, float, float] | None,
    setting: Setting,
    reference: Row | None,
    rng: np.random.Generator,
) -> Row:
    if figures is None:
        return Row(name, setting, reason="no CUDA driver; expected an NVIDIA GPU")
    ms, miou, megabytes = figures
    precision = FORMATS.get(name.partition("-")[2], "fp32")
    timings = tuple(
        _timing(scope, ms * setting.batch * share, setting, reference, rng)
        for scope, share in (("host", 1.0), ("device", 0.97))
    )
    return Row(
        name,
        setting,
        info=RunnerInfo(
            name.partition("-")[0], "1.0", "cpu (2 threads)", precision, (1, *setting.size, 3)
        ),
        artifact=f"{name}.onnx",
        manifest={"precision": precision, "opset": 17},
        accuracy=_accuracy(miou, reference, precision),
        timings=timings,
        footprint=Footprint(int(megabytes * 1e6), 0.3, 0.2, 300_000_000, None),
        limit=Limit(0.031, 0.028, 0.012, 10_200_000_000, 250_000_000, 86, 31 / ms),
        layers=LayerTime.ranked([("conv_1", "Conv", 0.02), ("resize", "Resize", 0.01)]),
    )


def _timing(
    scope: str, ms: float, setting: Setting, reference: Row | None, rng: np.random.Generator
) -> Timing:
    turns = []
    for number in range(4):
        samples = (ms * 1e6 * rng.lognormal(0, 0.03, 12)).astype(int)
        telemetry = Telemetry(foreign_cores=0.01, cpu_mhz=3000.0 + number)
        wall = float(samples.sum()) / 1e9
        turns.append(Turn(number, number * wall, wall, tuple(int(s) for s in samples), telemetry))
    other = reference.timing(scope) if reference else None
    return Timing.of(scope, turns, setting.batch, other.turns if other else None)


def _accuracy(miou: float, reference: Row | None, precision: str) -> Accuracy:
    difference = None
    if reference is not None and reference.accuracy and reference.accuracy.score:
        value = miou - reference.accuracy.score.miou.value
        difference = Interval(value, value - 0.001, value + 0.001)
    unions = tuple((1000, 500, 100) for _ in IMAGES)
    share = 0.995 if precision == "int8" else 0.9995
    ious = (min(1.0, miou + 0.2), miou, max(0.0, miou - 0.2))
    hits = tuple(tuple(int(u * i) for u, i in zip(row, ious, strict=True)) for row in unions)
    return Accuracy(
        Score(
            Interval(miou, miou - 0.02, miou + 0.02),
            difference,
            ious,
            (0.9, 0.7),
            0.93,
            hits,
            unions,
        ),
        agreement=None if reference is None else (share,) * len(IMAGES),
        arithmetic="exact Q/DQ in float32" if precision == "int8" else "",
        calibrated_on="48 images of toy-street train" if precision == "int8" else "",
    )
