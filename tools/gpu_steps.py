"""What ``gpu_check.py`` does on the card: each function is one step, in a process of its own.

A step notes figures as it goes, so that a crash keeps those before it. What a step needs is
imported where it is used: onnxruntime and TensorRT run in processes without torch, as in
``dabnet-bench``, for torch would bring its CUDA libraries along.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gpu_task import (
    CALIBRATION_IMAGES,
    IMAGES,
    ROOT,
    WEIGHTS,
    CommandFailed,
    NotAccepted,
    NotInstalled,
    Setup,
    StepFailed,
    Task,
    command,
    product_command,
    reason_of,
)
from step_process import OK, OUTCOME

from dabnet.errors import DabnetError, MissingPackage
from dabnet.precision import FP16, FP32, PRECISIONS

if TYPE_CHECKING:
    from dabnet.runtime.cuda import DeviceMemory
    from dabnet.runtime.runner import Runner

RECORD, STREAMS_RECORD = "bench.json", "bench-streams.json"
PRODUCTS = ("tensorrt_rtx", "tensorrt")  # the one first whose builds take no minutes
SETS = ("portable", "ort-cuda", "tensorrt", "tensorrt-rtx")  # of --optimize-for, on a GPU
COPIED_BYTES = 1 << 26
CAPTURED_COPIES, SMALL_BYTES = 20, 1 << 12
WARM_UPS, RUNS, REPEATS = 10, 50, 5


# --- versions, memory, graphs -----------------------------------------------------------------


def versions(task: Task) -> None:
    from bench.machine.environment import describe_environment

    task.note(**describe_environment(task.setup.device.index))


def memory(task: Task) -> None:
    """Pinned memory → GPU → GPU → pinned memory: the same bytes, and how fast."""
    import numpy as np

    with closing(task.setup.opened_memory()) as card, card.active(), ExitStack() as held:
        stream = _held(held, card.create_stream, card.destroy_stream)
        up, down = (_held(held, _pinned(card, COPIED_BYTES), card.free_pinned) for _ in range(2))
        first, second = (
            _held(held, partial(card.allocate, COPIED_BYTES), card.free) for _ in range(2)
        )
        up[:] = np.arange(COPIED_BYTES // 4, dtype=np.uint32).view(np.uint8)
        copies = {
            "up": partial(card.copy_to_device, first, up, stream),
            "on_device": partial(card.copy_on_device, second, first, COPIED_BYTES, stream),
            "down": partial(card.copy_to_host, down, second, stream),
        }
        for name, copy in copies.items():
            seconds = min(_events_s(card, stream, copy) for _ in range(REPEATS))
            task.note(**{f"{name}_gb_per_s": COPIED_BYTES / 1e9 / seconds})
        if not np.array_equal(up, down):
            raise StepFailed(f"{int((up != down).sum())} of {COPIED_BYTES} bytes changed on a copy")


def graphs(task: Task) -> None:
    """Events around copies, the same copies as a CUDA graph, and all of it in a second thread."""
    from dabnet.runtime.cuda import PycudaMemory

    with closing(task.setup.opened_memory()) as card:
        captures = not isinstance(card, PycudaMemory)
        task.note(**_copies_and_graph(card, captures))
        with ThreadPoolExecutor(1) as other:
            found = other.submit(_copies_and_graph, card, captures).result()
        task.note(**{f"thread_{name}": figure for name, figure in found.items()})
        if not captures:
            raise NotInstalled("pycuda captures no CUDA graphs", fix="pip install cuda-python")


def _copies_and_graph(card: DeviceMemory, captures: bool) -> dict[str, float]:
    """Time of small copies on a stream, one by one and as a graph, in µs of one copy."""
    import numpy as np

    with card.active(), ExitStack() as held:
        stream = _held(held, card.create_stream, card.destroy_stream)
        up, down = (_held(held, _pinned(card, SMALL_BYTES), card.free_pinned) for _ in range(2))
        places = [
            _held(held, partial(card.allocate, SMALL_BYTES), card.free)
            for _ in range(CAPTURED_COPIES + 1)
        ]

        def work() -> None:
            for source, target in pairwise(places):
                card.copy_on_device(target, source, SMALL_BYTES, stream)

        def checked(run: Callable[[], None], filled: int, name: str) -> float:
            up[:], down[:] = filled, 0
            card.copy_to_device(places[0], up, stream)
            run()
            card.copy_to_host(down, places[-1], stream)
            card.synchronize(stream)
            if not np.array_equal(up, down):
                raise StepFailed(f"{name}: the copies did not arrive")
            start_s = time.perf_counter()
            seconds = [_events_s(card, stream, run) for _ in range(REPEATS)]
            if not 0 < sum(seconds) < time.perf_counter() - start_s:
                given = f"{name}: events of {1e6 * sum(seconds):.1f} µs"
                raise StepFailed(given, "more than 0 and less than the clock of the host")
            return 1e6 * min(seconds) / CAPTURED_COPIES

        found = {"copy_us": checked(work, 1, "stream")}
        if captures:
            graph = card.capture(stream, work)
            held.callback(graph.close)
            held.callback(card.synchronize, stream)
            found["graph_copy_us"] = checked(partial(graph.launch, stream), 2, "graph")
        return found


def _pinned(card: DeviceMemory, nbytes: int) -> Callable[[], Any]:
    return partial(card.pinned, (nbytes,), "uint8")


def _held(stack: ExitStack, make: Callable[[], Any], release: Callable[[Any], None]) -> Any:
    made = make()
    stack.callback(release, made)
    return made


def _events_s(card: DeviceMemory, stream: int, run: Callable[[], None]) -> float:
    """Seconds between an event before what ``run`` starts on the stream, and one behind it."""
    with ExitStack() as held:
        start, end = (_held(held, card.create_event, card.destroy_event) for _ in range(2))
        card.record(start, stream)
        run()
        card.record(end, stream)
        return card.elapsed_s(start, end)


# --- pytest -----------------------------------------------------------------------------------


def gpu_tests(tests: Path) -> dict[str, list[Path]]:
    """Folder below ``tests``, with dots → its files with tests that are marked ``gpu``."""
    marked = re.compile(r"^(@|pytestmark = (\[\s*)?)pytest\.mark\.gpu", re.M)
    found: dict[str, list[Path]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        if marked.search(path.read_text(encoding="utf-8")):
            folder = ".".join(path.parent.relative_to(tests).parts)
            found.setdefault(folder, []).append(path)
    return found


def tests(task: Task, folder: str) -> None:
    files = gpu_tests(ROOT / "tests")[folder]
    words = ["-m", "gpu", "-rfEs", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml"]
    words += ["--rootdir", ROOT, "--basetemp", task.setup.work / "pytest", *files]
    if index := task.setup.device.index:  # the tests use cuda:0
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        chosen = visible[index] if len(visible) > index else str(index)
        os.environ["CUDA_VISIBLE_DEVICES"] = chosen
    try:
        lines = command("-m", "pytest", *words)
    except CommandFailed as error:
        _count_tests(task, error.lines)
        first = next((line for line in error.lines if line.startswith(("FAILED", "ERROR"))), "")
        raise StepFailed(_from_root(first) or str(error)) from error
    _count_tests(task, lines)
    skipped = [line for line in lines if line.startswith("SKIPPED")]
    if skipped and not task.figures.get("passed"):
        raise NotInstalled(_from_root(skipped[0]))


def _from_root(line: str) -> str:
    """With the path as seen from the source tree: pytest writes it as seen from where it runs."""
    return line.replace(os.path.relpath(ROOT) + os.sep, "")


def _count_tests(task: Task, lines: Sequence[str]) -> None:
    """Note the counts of pytest's last line, ``3 passed, 2 skipped in 1.2s``."""
    last = next((line for line in reversed(lines) if re.search(r" in [\d.]+s", line)), "")
    task.note(**{kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped)", last)})


# --- runners ----------------------------------------------------------------------------------


def pytorch(task: Task, modes: Sequence[str] | None = None) -> None:
    """Modes of ``TorchRunner``; None for all but ``compiled``."""
    import torch

    from dabnet.artifact import open_checkpoint
    from dabnet.runtime.torch_runner import MODES

    if torch.version.cuda is None:
        raise NotInstalled(
            f"PyTorch {torch.__version__} is built without CUDA",
            fix="install another build: https://pytorch.org/get-started/locally",
        )
    task.note(cuda=torch.version.cuda, built_for=" ".join(torch.cuda.get_arch_list()))
    shape, device = (1, *task.setup.size, 3), str(task.setup.device)
    with _all_cases() as case:
        for mode in modes or [mode for mode in MODES if mode != "compiled"]:
            opened = partial(open_checkpoint, WEIGHTS, None, shape, device, mode=mode)
            case(mode, partial(measure, task, mode, opened, MODES[mode].precision))


def onnxruntime(task: Task, precision: str) -> None:
    """The CUDA provider, without and with a CUDA graph."""
    from dabnet.runtime.ort.providers import CUDA
    from dabnet.runtime.ort.runner import OnnxRuntimeRunner

    _require_provider(CUDA)
    path, device = task.setup.exported("ort-cuda", precision), str(task.setup.device)
    with _all_cases() as case:
        for name, graph in (("plain", False), ("graph", True)):
            opened = partial(OnnxRuntimeRunner, path, device, cuda_graph=graph)
            case(name, partial(measure, task, name, opened, precision))


def onnxruntime_on_tensorrt(task: Task, product: str, precision: str) -> None:
    """Onnxruntime's provider of a product, which captures its own CUDA graph."""
    from dabnet.runtime.ort.providers import OF_TENSORRT, TensorRTProvider
    from dabnet.runtime.ort.runner import OnnxRuntimeRunner
    from dabnet.runtime.trt.product import TENSORRT

    if product == TENSORRT:
        _require_provider(OF_TENSORRT[product])
    path = task.setup.exported(product.replace("_", "-"), precision)
    provider = TensorRTProvider(precision, task.setup.work / f"ort-{product}", product)
    opened = partial(OnnxRuntimeRunner, path, str(task.setup.device), tensorrt=provider)
    with accepted(task, product, in_onnxruntime=True):
        measure(task, "graph", opened, precision)


def engine(task: Task, product: str, precision: str) -> None:
    """An engine of the graph for the product, without and with a CUDA graph."""
    with accepted(task, product):
        path = built(task, product, product.replace("_", "-"), precision)
        with _all_cases() as case:
            for name, opened in _runners_of(task, path).items():
                case(name, partial(measure, task, name, opened, precision))


def graph_sets(task: Task, product: str) -> None:
    """Engines of the graphs for each target, timed in turns; FP16, but on Pascal FP32."""
    with closing(task.setup.opened_memory()) as card:
        precision = FP16 if card.compute_capability >= (7, 0) else FP32
    with accepted(task, product), ExitStack() as stack, _all_cases() as case:
        runners: dict[str, Runner] = {}

        def open_set(target: str) -> None:
            path = built(task, product, target, precision)
            for name, opened in _runners_of(task, path).items():
                label = f"{target}_{name}"
                runner = stack.enter_context(closing(opened()))
                if fault := _masks_fault(task, label, runner, precision):
                    raise fault
                runners[label] = runner

        for target in SETS:
            case(target, partial(open_set, target))
        task.note(**events_ms(task.setup, runners))


def built(task: Task, product: str, target: str, precision: str) -> Path:
    """The engine of one graph for this GPU, by ``dabnet-export trt`` unless it is there."""
    from dabnet.runtime.trt.product import find_product

    found, setup = find_product(product), task.setup
    source = setup.exported(target, precision, "int32" if found.is_generation_8 else "uint8")
    path = setup.work / f"{product}-{source.stem}.engine"
    if not path.is_file():
        words = ["trt", source, "-o", path, "--product", product.replace("_", "-")]
        words += ["--device", setup.device]
        if found.has_timing_cache:
            words += ["--timing-cache", setup.work / f"{product}.timing"]
        start_s = time.monotonic()
        product_command("export.cli.main", *words)
        task.note(**{f"{target}_build_s": time.monotonic() - start_s})
    return path


def _runners_of(task: Task, path: Path) -> dict[str, Callable[[], Any]]:
    """How to run an engine; its kernels are noted."""
    from dabnet.runtime.manifest import read_engine_manifest
    from dabnet.runtime.trt.runner import TensorRTRunner

    manifest, info = read_engine_manifest(path)
    task.note(**{f"{manifest.optimized_for}_kernels": len(info.plan)})
    device = str(task.setup.device)
    opened = partial(TensorRTRunner, path, device)
    return {"plain": opened, "graph": partial(TensorRTRunner, path, device, cuda_graph=True)}


@contextmanager
def accepted(task: Task, product: str, in_onnxruntime: bool = False) -> Iterator[None]:
    """Raise NotAccepted for a failure on a card that NVIDIA does not list for the product.

    It is tried all the same, for the lists differ between pages. TensorRT-RTX: 7.5, 8.6, 8.9, and
    12.0 on (its support matrix); inside onnxruntime without 7.5 (``IsComputeCapabilitySupported``
    of onnxruntime-ep-nv-tensorrt-rtx). TensorRT 10 and 11: 7.5 on.
    """
    from dabnet.runtime.trt.product import TENSORRT_RTX, find_product

    with closing(task.setup.opened_memory()) as card:
        capability, name = card.compute_capability, card.name
    if product == TENSORRT_RTX:
        listed = {(8, 6), (8, 9)} | (set() if in_onnxruntime else {(7, 5)})
        serves = capability in listed or capability >= (12, 0)
    else:
        serves = find_product(product).is_generation_8 or capability >= (7, 5)
    try:
        yield
    except MissingPackage:
        raise
    except Exception as error:
        # What the export refuses of a card that is served: FP16 on the GTX 10 series, and the like.
        refused = any(words in str(error) for words in ("runs at 1/64", "lacks fast"))
        if serves and not refused:
            raise
        number = "{}.{}".format(*capability)
        raise NotAccepted(f"{name}, compute capability {number}: {reason_of(error)}") from error


def measure(task: Task, label: str, opened: Callable[[], Runner], precision: str) -> None:
    """Note the agreement and the times of a runner, under names that begin with ``label``."""
    setup = task.setup
    with closing(opened()) as runner:
        fault = _masks_fault(task, label, runner, precision)
        task.note(**events_ms(setup, {label: runner}))
        task.note(**{f"{label}_device_ms": _device_ms(runner)})
    if fault:
        raise fault


def _masks_fault(task: Task, label: str, runner: Runner, precision: str) -> StepFailed | None:
    """Note on how many pixels the masks are those of PyTorch on the CPU; the fault if too few."""
    import numpy as np

    images, masks = task.setup.reference()
    found = np.stack([runner.infer(image[None])[0] for image in images])
    percent, least = 100 * float((found == masks).mean()), PRECISIONS[precision].sound_agreement
    notes = [*runner.info.notes, *([runner.info.arithmetic] if runner.info.arithmetic else [])]
    told = {f"{label}_notes": "; ".join(notes)} if notes else {}
    task.note(**{f"{label}_agreement_percent": round(percent, 3)}, **told)
    if percent >= 100 * least:
        return None
    given = f"its masks are those of PyTorch FP32 on the CPU on {percent:.3f} % of pixels"
    return StepFailed(given, f"at least {100 * least:g} %")


def events_ms(setup: Setup, runners: Mapping[str, Runner]) -> dict[str, float]:
    """Median of the GPU's own time of a run; the runners take turns."""
    images, _ = setup.reference()
    for runner in runners.values():
        runner.stage([image[None] for image in images])
        for number in range(WARM_UPS):
            runner.launch(number % IMAGES)
        runner.synchronize()
    times: dict[str, list[float]] = {label: [] for label in runners}
    for number in range(RUNS):
        for label, runner in runners.items():
            timed: Any = runner  # ``HasGpuTimes``: all that run here have it
            times[label].append(1e3 * timed.gpu_seconds(number % IMAGES))
    return {f"{label}_events_ms": median(found) for label, found in times.items()}


def _device_ms(runner: Runner) -> float:
    """Median time of a run that is waited for, by the host's clock; the inputs are staged."""
    times = []
    for number in range(RUNS):
        start_s = time.perf_counter()
        runner.launch(number % IMAGES)
        runner.synchronize()
        times.append(1e3 * (time.perf_counter() - start_s))
    return median(times)


def _require_provider(name: str) -> None:
    from dabnet.runtime.runner import import_backend

    module = import_backend("onnxruntime", "gpu")
    if name not in module.get_available_providers():
        given = f"onnxruntime {module.__version__} is built without {name}"
        fix = "replace it: pip uninstall onnxruntime; pip install '.[gpu]'"
        raise NotInstalled(given, fix=fix)


@contextmanager
def _all_cases() -> Iterator[Callable[[str, Callable[[], None]], None]]:
    """Yield what runs one case; a case that fails does not stop the others, but fails the block."""
    faults: list[str] = []

    def case(name: str, run: Callable[[], None]) -> None:
        try:
            run()
        except MissingPackage:
            raise
        except Exception as error:
            if not isinstance(error, DabnetError):
                traceback.print_exc()
            faults.append(f"{name}: {reason_of(error)}")

    yield case
    if faults:
        raise StepFailed(faults[0] + (f"; and {len(faults) - 1} more" if faults[1:] else ""))


# --- commands ---------------------------------------------------------------------------------


def bench(task: Task, streams: int = 1) -> None:
    """``dabnet-bench`` of the rows whose steps were sound; its record goes to the folder."""
    from bench.record.file import read_record

    setup, name = task.setup, RECORD if streams == 1 else STREAMS_RECORD
    rows = ["pytorch-fp32"]
    with closing(setup.opened_memory()) as card:
        usual = (FP16, FP32) if card.compute_capability >= (7, 0) else (FP32,)
    for runtime in ("onnxruntime", *PRODUCTS):
        sound = [precision for precision in usual if _ok(setup, f"{runtime}-{precision}")]
        rows += [f"{runtime.replace('_', '')}-{precision}" for precision in sound[:1]]
    output = setup.work / name.removesuffix(".json")
    words = [WEIGHTS, "--device", setup.device, "--size", "{}x{}".format(*setup.size)]
    words += [word for row in rows for word in ("--backend", row)]
    words += ["--max-images", 4, "--calibration-images", CALIBRATION_IMAGES, "--pictures", 0]
    words += ["--rounds", 5, "--min-time", 2, "--timeout", 60, "--restart"]
    words += ["--cache-dir", setup.work / "bench-cache", "--output", output]
    if streams > 1:
        words += ["--scenario", "throughput", "--streams", streams]
    product_command("bench.cli.main", *words)
    shutil.copyfile(output / RECORD, setup.work.parent / name)
    report = read_record(output / RECORD)
    for row in report.rows:
        for timing in row.timings:
            if timing.latency:
                task.note(**{f"{row.name}_{timing.scope}_p50_ms": timing.latency.p50_ms})
            if timing.fps and streams > 1:
                task.note(**{f"{row.name}_{timing.scope}_fps": timing.fps.value})
    if failed := [f"{row.name}: {row.reason}" for row in report.rows if row.reason]:
        raise StepFailed("; ".join(failed))


def _ok(setup: Setup, step: str) -> bool:
    file = setup.work / f"{step}.json"
    return file.is_file() and OUTCOME.read(file).verdict == OK


def training(task: Task) -> None:
    """A minute of ``dabnet-train``, less if less is left."""
    setup, output = task.setup, task.setup.work / "train"
    minutes = max(0.5, min(1.0, (task.limit_s - 15) / 60))
    words: list[object] = ["--dataset", "toy-street", "--max-minutes", f"{minutes:.2f}"]
    words += ["--max-epochs", 1000]  # more than fit
    words += ["--device", setup.device, "--output", output, "--cache-dir", setup.work / "counts"]
    product_command("dabnet.cli", *words)
    with (output / "log.csv").open(newline="", encoding="utf-8") as stream:
        epochs = list(csv.DictReader(stream))
    speeds = [float(row["images_per_s"]) for row in epochs if row["images_per_s"]]
    scores = [float(row["val_miou"]) for row in epochs if row["val_miou"]]
    task.note(minutes=minutes, epochs=len(epochs))
    task.note(**({"images_per_s": median(speeds)} if speeds else {}))
    task.note(**({"val_miou": scores[-1]} if scores else {}))
