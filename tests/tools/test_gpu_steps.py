"""The steps of ``tools/gpu_check.py``: what each calls sound, not installed or not accepted."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.cli.main import run_command
from bench.record.file import write_record
from dabnet.cli import train_command
from dabnet.device import Device
from dabnet.errors import InputError
from dabnet.files import existing_file
from dabnet.runtime import cuda
from dabnet.runtime.runner import RunnerInfo
from dabnet.training.log import COLUMNS
from tests.support import ROOT
from tests.support.cuda_double import FakeHeap, fake_cuda_python, fake_pycuda
from tests.support.device_double import FakeDeviceMemory
from tests.support.sample_reports import ROWS, sample_report
from tests.support.tensorrt_double import make_double

sys.path.insert(0, str(ROOT / "tools"))

import gpu_steps
from gpu_steps import accepted
from gpu_task import Setup, StepFailed, Task, command, in_process, perform
from step_process import FAILED, NOT_ACCEPTED, NOT_INSTALLED, OK, OUTCOME, OUTCOME_FILE, Outcome

GB_PER_S = pytest.approx(
    gpu_steps.COPIED_BYTES / 2.5e-3 / 1e9, rel=1e-5
)  # the doubles' events say 2.5 ms


@pytest.fixture
def task(tmp_path: Path) -> Task:
    work = tmp_path / "out" / "work"
    work.mkdir(parents=True)
    return Task(Setup(work, Device.parse("cuda"), (32, 64)))


@pytest.fixture(params=["cuda-python", "pycuda"])
def heap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeHeap:
    """The memory of a double of one of the two packages, whose clock is slow."""
    heap = FakeHeap()
    if request.param == "cuda-python":
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cuda_python(heap))
    else:
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
        monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
        monkeypatch.setitem(sys.modules, "pycuda.driver", fake_pycuda(heap))
    seconds = iter(range(1000))
    clock = SimpleNamespace(perf_counter=lambda: next(seconds))
    monkeypatch.setattr(gpu_steps, "time", clock)
    return heap


def test_memory_through_both_packages(task: Task, heap: FakeHeap) -> None:
    assert perform(gpu_steps.memory, task).verdict == OK
    names = ("up_gb_per_s", "on_device_gb_per_s", "down_gb_per_s")
    assert task.figures == dict.fromkeys(names, GB_PER_S)
    assert not heap.blocks


def test_graphs_through_both_packages(task: Task, heap: FakeHeap) -> None:
    outcome = perform(gpu_steps.graphs, task)
    if "pycuda.driver" in sys.modules:
        assert outcome.verdict == NOT_INSTALLED
        assert outcome.reason == "pycuda captures no CUDA graphs; pip install cuda-python"
        names = {"copy_us", "thread_copy_us"}
    else:
        assert outcome.verdict == OK
        names = {"copy_us", "graph_copy_us", "thread_copy_us", "thread_graph_copy_us"}
    assert outcome.figures == dict.fromkeys(names, 2500 / gpu_steps.CAPTURED_COPIES)
    assert not heap.blocks


@pytest.mark.parametrize("heap", ["cuda-python"], indirect=True)
@pytest.mark.parametrize(
    ("step", "call", "answer", "reason"),
    [
        (gpu_steps.memory, "cudaMemcpyAsync", (0,), "bytes changed on a copy"),
        (gpu_steps.memory, "cudaMalloc", (2, None), "CUDA failed (cudaMalloc: the reason)"),
        (gpu_steps.graphs, "cudaGraphLaunch", (0,), "graph: the copies did not arrive"),
        (gpu_steps.graphs, "cudaEventElapsedTime", (0, 0.0), "stream: events of 0.0 µs; expected"),
        (gpu_steps.graphs, "cudaEventElapsedTime", (0, 9e3), "less than the clock of the host"),
    ],
)
def test_what_fails(
    task: Task, heap: FakeHeap, step: Any, call: str, answer: Any, reason: str
) -> None:
    setattr(sys.modules["cuda.bindings.runtime"], call, lambda *_: answer)
    outcome = perform(step, task)
    assert outcome.verdict == FAILED
    assert reason in outcome.reason


def test_without_both_packages(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings.runtime", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    outcome = perform(gpu_steps.memory, task)
    assert outcome.verdict == NOT_INSTALLED
    assert outcome.reason.startswith("neither 'cuda.bindings' (cuda-python) nor 'pycuda' is")


@pytest.mark.parametrize(
    ("product", "version", "card", "fault", "verdict"),
    [
        ("tensorrt_rtx", "rtx-1.7.1", (9, 0), "built no engine", NOT_ACCEPTED),
        ("tensorrt_rtx", "rtx-1.7.1", (8, 0), "built no engine", NOT_ACCEPTED),
        ("tensorrt_rtx", "rtx-1.7.1", (7, 5), "built no engine", FAILED),
        ("tensorrt_rtx", "rtx-1.7.1", (12, 1), "built no engine", FAILED),
        ("tensorrt", "10.16.1", (9, 0), "built no engine", FAILED),
        ("tensorrt", "11.4.0", (6, 1), "does not run on this GPU", NOT_ACCEPTED),
        ("tensorrt", "8.6.1", (6, 1), "whose FP16 arithmetic runs at 1/64 of FP32", NOT_ACCEPTED),
        ("tensorrt", "8.6.1", (6, 1), "int8: built no engine", FAILED),
        ("tensorrt", "8.6.1", (9, 0), "", OK),
        ("tensorrt_rtx", "rtx-1.7.1", (9, 0), "", OK),  # it is tried on every card
    ],
)
def test_a_card_that_is_not_served_is_no_fault(
    task: Task,
    monkeypatch: pytest.MonkeyPatch,
    product: str,
    version: str,
    card: tuple[int, int],
    fault: str,
    verdict: str,
) -> None:
    opened = partial(FakeDeviceMemory, compute_capability=card)
    monkeypatch.setattr(cuda, "open_device_memory", opened)
    monkeypatch.setitem(sys.modules, product, make_double(version))

    def step(task: Task) -> None:
        with accepted(task, product):
            task.note(before=1)
            if fault:
                raise StepFailed(fault)

    outcome = perform(step, task)
    assert outcome.verdict == verdict
    assert outcome.reason.endswith(fault)
    assert outcome.figures == {"before": 1}
    if verdict == NOT_ACCEPTED:
        assert outcome.reason.startswith(
            "NVIDIA Double 3090, compute capability {}.{}".format(*card)
        )


def test_a_product_that_is_not_installed(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "open_device_memory", FakeDeviceMemory)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    step = partial(gpu_steps.engine, product="tensorrt", precision="fp16")
    assert perform(step, task).verdict == NOT_INSTALLED


def test_onnxruntime_without_cuda(task: Task) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    outcome = perform(partial(gpu_steps.onnxruntime, precision="fp32"), task)
    assert outcome.verdict == NOT_INSTALLED
    assert "is built without CUDAExecutionProvider" in outcome.reason


class Zeros:
    """A runner on a GPU whose masks are all of class 0."""

    info = RunnerInfo("tensorrt", "10", "a card", "fp16", (1, 32, 64, 3), ("a note",), "int8")

    def infer(self, images: Any) -> Any:
        return np.zeros(images.shape[:3], np.uint8)

    def stage(self, batches: Any) -> None:
        self.staged = len(batches)

    def launch(self, index: int) -> None:
        assert index < self.staged

    def gpu_seconds(self, index: int) -> float:
        self.launch(index)
        return 2e-3

    def synchronize(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(("right", "sound"), [(2048, True), (2030, True), (2000, False)])
def test_masks_that_are_not_those_of_pytorch(task: Task, right: int, sound: bool) -> None:
    """FP16 must agree on 99 % of pixels; the figures are kept, and other cases run."""
    images = np.zeros((2, 32, 64, 3), np.uint8)
    masks = np.ones((2, 2048), np.uint8)
    masks[:, :right] = 0
    np.savez(task.setup.work / "reference.npz", images=images, masks=masks.reshape(2, 32, 64))

    def step(task: Task) -> None:
        with gpu_steps._all_cases() as case:
            for name in ("plain", "graph"):
                case(name, lambda name=name: gpu_steps.measure(task, name, Zeros, "fp16"))

    outcome = perform(step, task)
    percent = round(100 * right / 2048, 3)
    assert outcome.verdict == (OK if sound else FAILED)
    expected = f"plain: its masks are those of PyTorch FP32 on the CPU on {percent:.3f} % of pixels"
    assert outcome.reason == ("" if sound else f"{expected}; expected at least 99 %; and 1 more")
    for name in ("plain", "graph"):
        assert outcome.figures[f"{name}_agreement_percent"] == percent
        assert outcome.figures[f"{name}_events_ms"] == 2
        assert outcome.figures[f"{name}_notes"] == "a note; int8"


def test_the_outcome_is_written_with_every_figure(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "outcome.json"
    monkeypatch.setenv(OUTCOME_FILE, str(file))

    def step(task: Task) -> None:
        task.note(first=1.23456789, second="text")
        assert OUTCOME.read(file) == Outcome(figures={"first": 1.23457, "second": "text"})
        raise ZeroDivisionError("of a library\nsecond line")

    outcome = perform(step, task)
    assert OUTCOME.read(file) == outcome
    assert (outcome.verdict, outcome.reason) == (FAILED, "ZeroDivisionError: of a library")


def test_an_error_of_another_process_is_that_of_the_step() -> None:
    with pytest.raises(InputError, match="no file at 'nowhere'"):
        in_process(existing_file, "nowhere", "a file")


def test_the_last_words_of_a_command() -> None:
    with pytest.raises(StepFailed, match="^no engine; build it$"):
        command("-c", "print('error: no engine; build it\\nbye'); raise SystemExit(2)")
    with pytest.raises(StepFailed, match="^ValueError: x$"):
        command("-c", "raise ValueError('x')")
    with pytest.raises(StepFailed, match="^ended by SIGSEGV$"):
        command("-c", "import os, signal; print('a'); os.kill(os.getpid(), signal.SIGSEGV)")
    assert command("-c", "print('a'); print('b')") == ["a", "b"]


Commands = Callable[[Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Instead of a command, a function gets its options, which the command must know."""
    known = {"bench.cli.main": run_command, "dabnet.cli": train_command}

    def replace(run: Callable[[dict[str, Any]], None]) -> None:
        def product_command(module: str, *words: object) -> None:
            run(known[module].make_context("", [str(word) for word in words]).params)

        monkeypatch.setattr(gpu_steps, "product_command", product_command)

    return replace


@pytest.mark.parametrize("streams", [1, 2])
def test_bench(
    task: Task, commands: Commands, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It measures the runtimes whose step was sound."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cuda_python(FakeHeap()))
    for name, verdict in (("onnxruntime", OK), ("tensorrt", OK), ("tensorrt_rtx", FAILED)):
        OUTCOME.write(Outcome(verdict), task.setup.work / f"{name}-fp16.json")
    rows: dict[str, Any] = {name: ROWS[name] for name in ("pytorch-fp32", "onnxruntime-fp32")}

    def run(options: dict[str, Any]) -> None:
        asked = ("pytorch-fp32", "onnxruntime-fp16", "tensorrt-fp16")
        assert options["backends"] == asked
        assert (options["device"], options["sizes"]) == ("cuda:0", ((32, 64),))
        assert options["streams"] == (streams if streams > 1 else None)
        for name in ("cache", "output"):
            assert options[name].parent == task.setup.work
        options["output"].mkdir(exist_ok=True)
        write_record(sample_report(rows), options["output"] / "bench.json")

    commands(run)
    step = partial(gpu_steps.bench, streams=streams)
    assert perform(step, task).verdict == OK
    assert task.figures["pytorch-fp32_host_p50_ms"] == pytest.approx(86, rel=0.05)
    assert ("onnxruntime-fp32_device_fps" in task.figures) == (streams > 1)
    record = task.setup.work.parent / ("bench.json" if streams == 1 else "bench-streams.json")
    assert record.read_bytes() == next(task.setup.work.rglob("bench.json")).read_bytes()
    rows["tensorrt-fp16"] = None
    outcome = perform(step, task)
    assert (outcome.verdict, outcome.reason) == (
        FAILED,
        "tensorrt-fp16: no CUDA driver; expected an NVIDIA GPU",
    )


@pytest.mark.parametrize(("limit_s", "minutes"), [(100, 1.0), (60, 0.75), (10, 0.5)])
def test_training(task: Task, commands: Commands, limit_s: float, minutes: float) -> None:
    def run(options: dict[str, Any]) -> None:
        assert (options["dataset"], options["device"]) == ("toy-street", "cuda:0")
        assert options["max_minutes"] == minutes
        assert options["cache_dir"].parent == options["output"].parent == task.setup.work
        options["output"].mkdir()
        with (options["output"] / "log.csv").open("w", newline="") as stream:
            log = csv.DictWriter(stream, COLUMNS)
            log.writeheader()
            for number, speed in enumerate((100.0, 800.0, 900.0), 1):
                row = {
                    "epoch": number,
                    "images_per_s": speed,
                    "val_miou": 0.25 if number == 3 else "",
                }
                log.writerow(row)

    commands(run)
    outcome = perform(gpu_steps.training, Task(task.setup, limit_s))
    assert outcome.verdict == OK, outcome.reason
    expected = {"minutes": minutes, "epochs": 3, "images_per_s": 800.0, "val_miou": 0.25}
    assert outcome.figures == expected
