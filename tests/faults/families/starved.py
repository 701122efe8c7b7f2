"""Machines that have too little: memory, disk, open files, processes, folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.case import EITHER, REFUSED, Case, Expected
from tests.faults.damage import NOBODY
from tests.faults.originals import SIZE, Originals
from tests.faults.verdict import Result

FAMILY = "starved"
KIB, MIB = 1 << 10, 1 << 20
OUT = "out"
"""The folder that outputs go to; some cases mount a small disk there."""

SMALL = "small"
"""A folder for temporary files, on which some cases mount a small disk."""

Words = Callable[[Originals], Sequence[object]]


@dataclass(frozen=True)
class Job:
    """A command that writes into ``OUT``.

    Attributes:
        rooms: bytes of disks that are too small for what it writes.
        sizes: of files in bytes (RLIMIT_FSIZE) that are too small for what it writes.
        works: whether it computes, for which it needs memory.
    """

    words: Words
    rooms: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    works: bool = True


JOBS = {
    "export": Job(
        lambda o: [
            *("dabnet-export", "onnx", o.weights, "--size", SIZE, "-o", f"{OUT}/x.onnx"),
        ],
        rooms=(16 * KIB, 1 * MIB, 2 * MIB),
        sizes=(1 * MIB,),
    ),
    "int8": Job(
        lambda o: [
            *("dabnet-export", "onnx", o.weights, "--size", SIZE, "-o", f"{OUT}/x.onnx"),
            *("--precision", "int8", "--calibration-images", 2),
        ],
        rooms=(16 * KIB,),
        sizes=(300 * KIB,),
    ),
    "collect": Job(
        lambda o: [
            *("dabnet-export", "calibration", o.weights, "--size", SIZE, "--count", 2),
            *("-o", f"{OUT}/x.json"),
        ],
        rooms=(16 * KIB, 100 * KIB),
        sizes=(50 * KIB,),
    ),
    "merge": Job(
        lambda o: ["dabnet-export", "calibration", o.calibration, "-o", f"{OUT}/x.json"],
        rooms=(8 * KIB, 100 * KIB),
        sizes=(50 * KIB,),
        works=False,
    ),
    "cache": Job(
        lambda o: [
            *("dabnet-export", "calibration", o.calibration, "-o", f"{OUT}/x.cache"),
            *("--tensorrt", "8.6.1"),
        ],
        rooms=(4 * KIB,),
        sizes=(1 * KIB,),
        works=False,
    ),
    "verify": Job(
        lambda o: [
            *("dabnet-export", "verify", o.fp32, o.int8, "--limit", 1),
            *("--json", f"{OUT}/x.json", "--output", f"{OUT}/worst"),
        ],
        rooms=(8 * KIB,),
        sizes=(8 * KIB,),
    ),
    "report": Job(
        lambda o: ["dabnet-bench", "report", o.record / "bench.json", "--output", f"{OUT}/r"],
        rooms=(8 * KIB, 60 * KIB),
        sizes=(10 * KIB,),
        works=False,
    ),
    "compare": Job(
        lambda o: [
            *("dabnet-bench", "compare", *[o.record / "bench.json"] * 2),
            *("--json", f"{OUT}/x.json"),
        ],
        sizes=(100,),
        works=False,
    ),
    "data check": Job(
        lambda o: [
            *("dabnet-data", "check", o.data, "--dataset", "camvid"),
            *("--sheet", f"{OUT}/sheet.png"),
        ],
        rooms=(8 * KIB,),
        sizes=(5 * KIB,),
        works=False,
    ),
    "train": Job(
        lambda o: [
            *("dabnet-train", "--data-dir", o.data, "--output", f"{OUT}/run"),
            *(*o.tiny, "--max-epochs", 1),
        ],
        rooms=(16 * KIB, 3 * MIB, 9 * MIB),
        sizes=(1 * MIB,),
    ),
}


def cases() -> Iterator[Case]:
    for name, job in JOBS.items():
        yield from _disks(name, job)
        yield from _limits(name, job)
    yield from _memory()
    yield from _workers()
    yield from _temporary()


def _case(name: str, words: Words, expected: Expected = REFUSED) -> Case:
    def lay(folder: Path, originals: Originals) -> Sequence[object]:
        (folder / OUT).mkdir()
        (folder / SMALL).mkdir()
        folder.chmod(0o755)
        (folder / OUT).chmod(0o777)
        return words(originals)

    return Case(FAMILY, name, lay, expected, seconds=90)


def _disks(name: str, job: Job) -> Iterator[Case]:
    for room in job.rooms:
        case = _case(f"{name} on a disk of {room // KIB} KiB", job.words)
        yield replace(case, disks={OUT: room}, check=_names("space"))
    yield replace(_case(f"{name} on a read-only disk", job.words), disks={OUT: 0})
    for most in job.sizes:
        case = _case(f"{name} with files of at most {most} bytes", job.words)
        # A part of the outputs, each of them whole, may be there.
        yield replace(case, limits={"RLIMIT_FSIZE": most}, changes=(f"{OUT}/*", "*/[!.]*"))


def _limits(name: str, job: Job) -> Iterator[Case]:
    """Too few open files or processes: a result, or one line."""
    for most in (64, 24, 12, 8):
        case = _case(f"{name} with {most} open files", job.words, EITHER)
        yield replace(case, limits={"RLIMIT_NOFILE": most}, changes=(f"{OUT}/[!.]*",))
    case = _case(f"{name} with one process", job.words, EITHER)
    yield replace(case, limits={"RLIMIT_NPROC": 1}, user=NOBODY, changes=(f"{OUT}/[!.]*",))
    for room in (50 * MIB, 300 * MIB) if job.works else (20 * MIB,):
        case = _case(f"{name} with {room // MIB} MiB of memory", job.words, EITHER)
        yield replace(case, limits={"RLIMIT_AS": room}, changes=(f"{OUT}/[!.]*",))


def _memory() -> Iterator[Case]:
    """Work that is too large for a machine with 1.5 GB left."""
    large = ("--size", "2048x4096")
    for name, words in {
        "export of a large size": lambda o: [
            *("dabnet-export", "onnx", o.weights, "-o", f"{OUT}/x.onnx", *large),
        ],
        "collection of a large size": lambda o: [
            *("dabnet-export", "calibration", o.weights, "-o", f"{OUT}/x.json", *large),
        ],
        "verification of a large size": lambda o: [
            *("dabnet-export", "verify", o.weights, o.weights, *large, "--limit", 1),
        ],
        "export of a large batch": lambda o: [
            *("dabnet-export", "onnx", o.weights, "-o", f"{OUT}/x.onnx"),
            *("--size", "512x1024", "--batch", 64),
        ],
        "training on large crops": lambda o: [
            *("dabnet-train", "--data-dir", o.data, "--output", f"{OUT}/run", *o.tiny),
            *("--input-size", "4096x4096", "--scales", 10),
        ],
    }.items():
        case = _case(name, words)
        limits = {"RLIMIT_AS": 1536 * MIB}
        yield replace(case, limits=limits, check=_names("memory"), seconds=120)


def _workers() -> Iterator[Case]:
    """Workers whose batches do not fit into /dev/shm."""

    def words(originals: Originals) -> Sequence[object]:
        large = ("--input-size", "512x512", "--num-workers", 2, "--max-epochs", 1)
        return [
            *("dabnet-train", "--data-dir", originals.data, "--output", f"{OUT}/run"),
            *(*originals.tiny, *large),
        ]

    for room in (64 * KIB, 1 * MIB):
        case = _case(f"train with workers and {room // KIB} KiB of /dev/shm", words)
        yield replace(case, disks={"/dev/shm": room}, check=_names("--num-workers 0"))


def _temporary() -> Iterator[Case]:
    """No folder for temporary files, or one without room."""
    for name in ("export", "int8", "verify", "train"):
        words = JOBS[name].words
        for what, folder in (("missing", "/nonexistent"), ("a file", "/etc/passwd")):
            case = _case(f"{name} with a TMPDIR that is {what}", words, EITHER)
            yield replace(case, environment={"TMPDIR": folder}, changes=(f"{OUT}/*",))
        case = _case(f"{name} with a full TMPDIR", words, EITHER)
        yield replace(
            case,
            environment={"TMPDIR": SMALL},
            disks={SMALL: 4 * KIB},
            changes=(f"{OUT}/*",),
        )


def _names(way_out: str) -> Callable[[Path, Result], str]:
    def check(_: Path, result: Result) -> str:
        return "" if way_out in result.err else f"not named: {way_out}"

    return check
