"""Peaks: rates by hand, what is kept and what is not, and real kernels in their own process."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import bench.machine.environment
import bench.machine.peaks
from bench.isolation import Isolated
from bench.machine.kernels import BYTES, PeakKernel, cpu_kernels, gpu_kernels
from bench.machine.peaks import CACHE_FILE, PeakMeter, best_rates
from bench.record import Peaks
from dabnet.errors import BackendUnavailable
from tests.support.seeded_checkpoint import no_bar


def kernel(kind: str, work: float, *seconds: float) -> PeakKernel:
    """A kernel whose calls take ``seconds``, the last for ever."""
    times = list(seconds)

    def call() -> float:
        return times.pop(0) if len(times) > 1 else times[0]

    return PeakKernel(f"{kind} of {work}", kind, work, lambda: call)


def failing(kind: str) -> PeakKernel:
    def prepare() -> Callable[[], float]:
        raise RuntimeError("no such kernel here")

    return PeakKernel("failing", kind, 1.0, prepare)


def test_the_fastest_call_of_the_best_kernel_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.machine.peaks, "BUDGET_S", 0.01)
    kernels = [
        kernel(BYTES, 100.0, 0.009, 0.004, 0.002, 0.005),
        kernel("fp32", 100.0, 0.005, 0.002, 0.004),
        kernel("fp32", 10.0, 0.0001),
        failing("fp32"),
        failing("int8"),
    ]
    assert best_rates(kernels, no_bar) == pytest.approx({BYTES: 50_000.0, "fp32": 100_000.0})


def test_a_kernel_that_is_slow_here_is_called_once() -> None:
    slow = kernel("int8", 600.0, 60.0, 1.0)
    assert slow.best_rate(0.5) == 10.0
    assert slow.prepare()() == 1.0  # the second call was not made


class Kernels:
    """Kernels in place of a processor's, and how often they were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.foreign = 0, 0.0
        monkeypatch.setattr(bench.machine.peaks, "cpu_kernels", self.kernels)
        monkeypatch.setattr(bench.machine.peaks.CpuWatch, "foreign_cores", lambda _: self.foreign)
        monkeypatch.setattr(bench.machine.peaks, "BUDGET_S", 0.001)

    def kernels(self, threads: int) -> tuple[PeakKernel, ...]:
        self.asked += 1
        rate = 100.0 * self.asked * threads
        return kernel(BYTES, rate, 1.0), kernel("fp32", 2 * rate, 1.0), failing("int8")


def measured(cache: Path, threads: int = 2) -> Peaks:
    return PeakMeter("cpu", threads, cache, no_bar).peaks()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    return Kernels(monkeypatch)


def test_peaks_are_kept_for_the_same_machine(drawn: Kernels, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = measured(cache)
    assert (first.bytes_per_s, first.multiply_adds_per_s) == (200.0, {"fp32": 400.0})
    assert measured(cache) == first
    assert measured(cache, threads=3).bytes_per_s == 600.0
    assert measured(cache) == first
    assert drawn.asked == 2


def test_other_libraries_are_measured_anew(
    drawn: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(tmp_path)
    monkeypatch.setattr(bench.machine.environment.importlib.metadata, "version", lambda _: "99")
    measured(tmp_path)
    assert drawn.asked == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "fields", "negative", "no fp32"])
def test_a_cache_that_cannot_be_read_is_measured_anew(
    drawn: Kernels, tmp_path: Path, damage: str
) -> None:
    measured(tmp_path)
    file = tmp_path / CACHE_FILE
    raw: Any = json.loads(file.read_text())
    (key,) = raw
    if damage == "fields":
        del raw[key]["device"]
    elif damage == "negative":
        raw[key]["bytes_per_s"] = -1.0
    elif damage == "no fp32":
        raw[key]["multiply_adds_per_s"] = {}
    known = damage in ("fields", "negative", "no fp32")
    file.write_text(json.dumps(raw) if known else damage)
    assert measured(tmp_path).bytes_per_s == 400.0
    assert measured(tmp_path).bytes_per_s == 400.0
    assert drawn.asked == 2


def test_what_others_disturbed_is_used_and_not_kept(drawn: Kernels, tmp_path: Path) -> None:
    drawn.foreign = 0.5
    assert measured(tmp_path).bytes_per_s == 200.0
    drawn.foreign = 0.05
    assert measured(tmp_path).bytes_per_s == 400.0
    assert measured(tmp_path).bytes_per_s == 400.0


def test_without_memory_or_float32_there_is_no_limit(
    drawn: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.machine.peaks, "cpu_kernels", lambda _: (kernel(BYTES, 1.0, 1.0),))
    with pytest.raises(BackendUnavailable, match="no kernel measured fp32"):
        measured(tmp_path)
    assert not (tmp_path / CACHE_FILE).exists()


def test_every_kernel_of_a_processor_runs() -> None:
    pytest.importorskip("onnxruntime")
    for each in cpu_kernels(1):
        assert each.work / each.prepare()() > 0, each.name


@pytest.mark.gpu
def test_every_kernel_of_a_gpu_runs() -> None:
    rates = best_rates(gpu_kernels(), no_bar)
    assert {BYTES, "fp32", "fp16"} <= set(rates)


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    steps: list[str] = []

    @contextmanager
    def bar(what: str, total: int, unit: str) -> Any:
        yield lambda: steps.append(unit)

    with Isolated("peaks", PeakMeter, ("cpu", 1, cache), tmp_path / "log", bar) as meter:
        peaks = meter.call("peaks", timeout_s=300)
    assert isinstance(peaks, Peaks)
    assert peaks.bytes_per_s > 0
    assert peaks.multiply_adds_per_s["fp32"] > 0
    assert len(steps) == len(cpu_kernels(1))
