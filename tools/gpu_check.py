"""Check everything on one NVIDIA card within minutes, and write one folder to send.

    make gpu-check
    python tools/gpu_check.py --device cuda:1 --output runs/gpu-check --minutes 10

Each step runs in a process of its own with its own limit of time; the cheap and most telling come
first, and none stops the others. It runs what is installed and says what was not. It needs no
network, and writes nothing outside its folder. See docs/gpu_check.md.
"""

# ruff: noqa: E402
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # the source tree may be read-only
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import math
import os
import resource
import shutil
import signal
import site
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from importlib import metadata

import click
import gpu_steps
from gpu_steps import PRODUCTS, RECORD, STREAMS_RECORD
from gpu_task import ROOT, Setup, Task, perform
from step_process import INTERRUPTED, LIMIT_S, SOUND, Step, StepRecord, StepRunner

from dabnet.console import CONTEXT, FILE, DeviceName, Finite, Size, run
from dabnet.device import Device
from dabnet.errors import BackendUnavailable, InputError
from dabnet.files import writable_directory
from dabnet.interrupt import EXIT_INTERRUPTED
from dabnet.precision import EXPORTED, FP16
from dabnet.records import Codec
from dabnet.runtime.trt.product import TENSORRT_RTX

FORMAT = 1
CHECK, LOG, WORK = "gpu-check.json", "gpu-check.log", "gpu-check-work"
EXIT_FAILED = 1
_PROBE_S = 120.0  # a driver that takes longer to answer will not
_VERSIONS_OF = ("torch", "triton", "onnx", "cuda", "nvidia", "tensorrt", "pycuda", "numpy")

# Where libraries put caches and settings. HOME is where they look by default, the others are what
# the user may have set.
_PLACES = (
    *("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "CUDA_CACHE_PATH"),
    *("TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "PYTORCH_KERNEL_CACHE_PATH"),
    *("TRITON_HOME", "TRITON_CACHE_DIR", "TRITON_DUMP_DIR", "MPLCONFIGDIR"),
    "HYPOTHESIS_STORAGE_DIRECTORY",
)


@dataclass(frozen=True, slots=True)
class Check:
    """A whole check: what ``gpu-check.json`` holds.

    Attributes:
        started: date and time, ISO 8601, UTC.
        environment: machine, card and driver, as in the records of ``dabnet-bench``.
        versions: of the installed packages that matter here.
        complete: False until the last step.
    """

    device: str
    size: tuple[int, int]
    minutes: float
    started: str
    versions: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    steps: tuple[StepRecord, ...] = ()
    complete: bool = False
    format: int = FORMAT


CODEC = Codec(
    Check,
    "check",
    "tools/gpu_check.py",
    "check again with: make gpu-check",
    version=("format", FORMAT),
)


@dataclass(frozen=True, slots=True)
class Own:
    """A step of ours; see ``step_process.Step``."""

    function: Callable[[Task], None]
    limit_s: float
    packages: tuple[str, ...] = ()
    after: str = ""
    later: float = 0.36  # enough for a short bench and the training


def own_steps() -> dict[str, Own]:
    """The steps by name, in the order of their importance."""
    steps = {
        "versions": Own(gpu_steps.versions, 60),
        "memory": Own(gpu_steps.memory, 60),
        "graphs": Own(gpu_steps.graphs, 60),
    }
    for folder in gpu_steps.gpu_tests(ROOT / "tests"):
        steps[f"pytest-{folder}"] = Own(partial(gpu_steps.tests, folder=folder), 120, ("pytest",))
    steps["pytorch"] = Own(gpu_steps.pytorch, 120, ("torch",))
    compiled = partial(gpu_steps.pytorch, modes=["compiled"])
    steps["pytorch-compiled"] = Own(compiled, 150, after="pytorch")
    for runtime in ("onnxruntime", *PRODUCTS):
        first = f"{runtime}-{EXPORTED[0]}"
        for precision in EXPORTED:
            function = partial(gpu_steps.onnxruntime, precision=precision)
            if runtime in PRODUCTS:
                function = partial(gpu_steps.engine, product=runtime, precision=precision)
            name = f"{runtime}-{precision}"
            steps[name] = Own(function, 180, (runtime,), first if name != first else "")
        if runtime in PRODUCTS:
            sets = partial(gpu_steps.graph_sets, product=runtime)
            steps[f"{runtime}-graph-sets"] = Own(sets, 240, (runtime,), first)
    steps["bench-latency"] = Own(gpu_steps.bench, 180, after="pytorch", later=0.2)
    streams = partial(gpu_steps.bench, streams=2)
    steps["bench-streams"] = Own(streams, 120, after="pytorch", later=0.12)
    steps["training"] = Own(gpu_steps.training, 100, after="pytorch", later=0)
    for product in PRODUCTS:
        plug_in = "onnxruntime_ep_nv_tensorrt_rtx" if product == TENSORRT_RTX else product
        function = partial(gpu_steps.onnxruntime_on_tensorrt, product=product, precision=FP16)
        packages = ("onnxruntime", plug_in)
        steps[f"onnxruntime-on-{product}"] = Own(function, 180, packages, later=0)
    return steps


@click.command(context_settings=CONTEXT)
@click.option(
    "--device", type=DeviceName(), metavar="cuda|cuda:N", default="cuda", show_default=True
)
@click.option("--output", type=FILE, default="runs/gpu-check", show_default=True)
@click.option("--minutes", type=Finite(0, min_open=True), default=10.0, show_default=True)
@click.option("--size", type=Size(), default="512x1024", hidden=True)
@click.option("--step", hidden=True, help="Run this step alone, in this process.")
def command(
    device: str, output: Path, minutes: float, size: tuple[int, int], step: str | None
) -> int:
    """Check memory, tests, PyTorch, onnxruntime, TensorRT, dabnet-bench and training on one GPU.

    Steps for which no time is left say so. Writes gpu-check.json, gpu-check.log, bench.json and
    bench-streams.json; what lies beside them may be deleted. Exit code 0: all that is installed
    works; 1: a step failed, or time ran out; 2: there is no GPU.
    """
    if device == "auto" or not Device.parse(device).is_gpu:
        raise InputError(f"--device {device}", "cuda or cuda:N, such as cuda:1")
    setup = Setup((output / WORK).resolve(), Device.parse(device), size)
    if step is not None:
        if step not in (known := own_steps()):
            raise InputError(f"--step {step}", f"one of {', '.join(known)}")
        limit_s = float(os.environ.get(LIMIT_S, math.inf))
        outcome = perform(known[step].function, Task(setup, limit_s))
        return 0 if outcome.verdict in SOUND else EXIT_FAILED
    require_gpu(setup.device)
    writable_directory(output)
    check = Check(
        device=str(setup.device),
        size=size,
        minutes=minutes,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
    )
    words = (sys.executable, __file__, "--device", device, "--output", str(output.resolve()))
    sized = ("--size", "{}x{}".format(*size))
    listed = [
        Step(
            name, (*words, *sized, "--step", name), own.limit_s, own.packages, own.after, own.later
        )
        for name, own in own_steps().items()
    ]
    return checked(check, listed, setup.work)


def require_gpu(device: Device) -> None:
    """Raise BackendUnavailable unless there is that GPU; asked in a process that may hang."""
    program = "import sys, gpu_task; print(gpu_task.missing_gpu(int(sys.argv[1])))"
    words = [sys.executable, "-B", "-c", program, str(device.index)]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    try:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        given = f"the GPU did not answer within {_PROBE_S:g} s"
        raise BackendUnavailable(given, fix="check nvidia-smi") from None
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if reason := lines[-1] if lines else "":
        raise BackendUnavailable(reason)


def checked(check: Check, steps: list[Step], work: Path) -> int:
    """Run the steps, write the record after each, print the table; return the exit code.

    Args:
        work: folder that is made anew; the files to send go to its parent.
    """
    output = work.parent
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for name in (CHECK, LOG, RECORD, STREAMS_RECORD):
        (output / name).unlink(missing_ok=True)
    # Core dumps of a process that maps a GPU's memory are huge.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    runner = StepRunner(work, output / LOG, environment(work), check.minutes)
    width = max(len(step.name) for step in steps)
    for number, step in enumerate(steps, 1):
        click.echo(f"[{number}/{len(steps)}] {step.name:<{width}} ", nl=False, err=True)
        record = runner.run(step)
        click.echo(f"{record.verdict}, {record.seconds:.0f} s", err=True)
        if step.name == "versions":
            facts = {name: str(fact) for name, fact in record.figures.items()}
            check = replace(check, environment=facts)
        check = replace(check, steps=(*check.steps, record), complete=number == len(steps))
        CODEC.write(check, output / CHECK)
        if record.verdict == INTERRUPTED:
            break
    print_table(check, output)
    verdicts = {record.verdict for record in check.steps}
    if INTERRUPTED in verdicts:
        return EXIT_INTERRUPTED
    return 0 if verdicts <= set(SOUND) else EXIT_FAILED


def environment(work: Path) -> dict[str, str]:
    """Of the steps' processes: all that they write by themselves goes below ``work``."""
    places = {name: work / "places" / name.lower() for name in _PLACES}
    places["TMPDIR"] = work / "t"  # short: names of sockets have 107 characters at most
    for place in places.values():
        place.mkdir(parents=True)
    before = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        **{name: str(place) for name, place in places.items()},
        "PYTHONUSERBASE": site.getuserbase(),  # below the HOME of before
        "PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",  # reasons are not cut off
        "PYTHONFAULTHANDLER": "1",  # a crash, and the end at a limit, write a traceback to the log
    }


def versions() -> dict[str, str]:
    """Of the packages that compute, and those that bring their libraries."""
    found = {}
    for package in metadata.distributions():
        name = str(package.metadata["Name"]).lower()
        if name.startswith(_VERSIONS_OF):
            found[name] = package.version
    return dict(sorted(found.items()))


def print_table(check: Check, output: Path) -> None:
    from dabnet.tables import line, row, table, terminal

    made = table("step", "verdict", "s", "figures", left=("verdict", "figures"))
    for record in check.steps:
        numbers = {k: v for k, v in record.figures.items() if not isinstance(v, str)}
        figures = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        said = "; ".join(text for text in (record.reason, figures) if text)
        row(made, record.name, record.verdict, f"{record.seconds:.0f}", said)
    console = terminal()
    line(console, check.environment.get("gpu", check.device))
    console.print(made)
    counts = Counter(record.verdict for record in check.steps)
    line(console, ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    names = (CHECK, LOG, RECORD, STREAMS_RECORD)
    files = [str(output / name) for name in names if (output / name).is_file()]
    line(console, "wrote " + ", ".join(files))


if __name__ == "__main__":
    run(command)
