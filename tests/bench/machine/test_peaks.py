"""Peaks: rates by hand, what is kept and what is not, and real kernels in their own process."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bench.machine.environment
import bench.machine.peaks
from bench.isolation import Isolated
from bench.machine.kernels import (
    BYTES,
    CACHE_BYTES,
    GPU_BYTES,
    PeakKernel,
    _copies,
    cpu_kernels,
    gpu_kernels,
)
from bench.machine.peaks import CACHE_FILE, PeakMeter, best_rates
from bench.record import Cache, Peaks
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


@pytest.mark.parametrize("other", ["{", "[]", "null", '{"machine": {"name": 1}}'])
def test_a_file_of_another_kind_is_left_as_it_was(
    drawn: Kernels, tmp_path: Path, other: str
) -> None:
    (tmp_path / CACHE_FILE).write_text(other)
    measured(tmp_path)
    measured(tmp_path)
    assert drawn.asked == 2
    assert (tmp_path / CACHE_FILE).read_text() == other


@pytest.mark.parametrize("damage", ["", "fields", "negative", "no fp32"])
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


class Cards:
    """torch.cuda with two GPUs, and what a driver says of them; the second has a cache."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = 0
        self.facts = {"gpu": "card 1 (compute capability 9.0), driver 1"}
        self.properties = [SimpleNamespace(), SimpleNamespace(L2_cache_size=48 * 2**20)]
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "is_available", lambda: True)
        monkeypatch.setattr(cuda, "get_device_name", lambda index: f"card {index}")
        monkeypatch.setattr(cuda, "get_device_properties", lambda index: self.properties[index])
        monkeypatch.setattr(cuda, "set_device", lambda index: setattr(self, "current", index))
        monkeypatch.setattr(bench.machine.peaks, "describe_environment", lambda index: self.facts)


def test_kernels_are_those_of_the_gpu_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = Cards(monkeypatch)
    within = [kernel for kernel in gpu_kernels(1) if kernel.kind == CACHE_BYTES]
    assert cards.current == 1
    assert [kernel.name for kernel in within] == ["copies within 24 MiB", "copies within 12 MiB"]
    for kernel in within:  # much more than a launch, yet within the cache
        assert 0.9 * GPU_BYTES < kernel.work / 2 <= GPU_BYTES
    # An older torch does not tell the size.
    assert not [kernel for kernel in gpu_kernels() if kernel.kind == CACHE_BYTES]
    assert cards.current == 0


def test_peaks_of_a_gpu_hold_its_cache_and_are_kept_for_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards, asked = Cards(monkeypatch), []

    def kernels(index: int) -> tuple[PeakKernel, ...]:
        asked.append(index)
        fast = [kernel(CACHE_BYTES, work, 1.0) for work in (50.0, 30.0)]
        return (kernel(BYTES, 10.0, 1.0), *fast[: 2 * index], kernel("fp32", 5.0, 1.0))

    monkeypatch.setattr(bench.machine.peaks, "gpu_kernels", kernels)
    monkeypatch.setattr(bench.machine.peaks, "BUDGET_S", 0.001)
    monkeypatch.setattr(bench.machine.peaks.CpuWatch, "foreign_cores", lambda _: 0.0)

    def measured(device: str) -> Peaks:
        return PeakMeter(device, 1, tmp_path, no_bar).peaks()

    found = measured("cuda:1")
    assert (found.device, found.cache) == ("card 1", Cache(48 * 2**20, 50.0))
    assert (found.bytes_per_s, found.multiply_adds_per_s) == (10.0, {"fp32": 5.0})
    assert measured("cuda:1") == found
    assert measured("cuda").cache is None
    assert asked == [1, 0]
    cards.facts = {"gpu": "card 1 (compute capability 9.0), driver 2"}
    measured("cuda:1")
    assert asked == [1, 0, 1]


def test_copies_within_a_cache_move_each_element() -> None:
    """torch takes rows that overlap; if it ever refuses, the cache is not measured any more."""
    made: list[Any] = []
    zeros = torch.zeros

    def ones(*shape: Any, **options: Any) -> Any:
        made.append(zeros(*shape, **options).fill_(len(made) + 1))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", ones)
        call = _copies("cpu", rows=5, columns=100)
    assert call() > 0
    assert [len(side) for side in made] == [100 + 4 * 8] * 2
    assert made[1].real.tolist() == [1.0] * len(made[0])


def test_every_kernel_of_a_processor_runs() -> None:
    pytest.importorskip("onnxruntime")
    for each in cpu_kernels(1):
        assert each.work / each.prepare()() > 0, each.name


@pytest.mark.gpu
def test_every_kernel_of_a_gpu_runs() -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    rates = best_rates(gpu_kernels(), no_bar)
    assert {BYTES, CACHE_BYTES, "fp32", "fp16"} <= set(rates)
    assert rates[CACHE_BYTES] > rates[BYTES]


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
