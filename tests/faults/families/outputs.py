"""What is in the way of an output: links, devices, files of others, odd names, no room."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from tests.faults.case import FINE, REFUSED, Case, Expected
from tests.faults.damage import NOBODY
from tests.faults.originals import SIZE, Originals
from tests.faults.verdict import Result

FAMILY = "output"

Words = Callable[[Originals, str], Sequence[object]]
"""The command line that writes to a name."""


@dataclass(frozen=True)
class Writer:
    """A command and one file that it writes.

    Attributes:
        name: for the names of cases.
        words: the command line for an output.
        output: the name that is given to the command.
        file: what it writes for that; "" if it is ``output`` itself.
        own: the kinds of ``OCCUPANTS`` that it replaces.
        cheap: whether it ends within a second, so that it may be run to its end often.
    """

    name: str
    words: Words
    output: str
    file: str = ""
    own: tuple[str, ...] = ()
    cheap: bool = False

    @property
    def target(self) -> str:
        return self.file or self.output


def _onnx(made: Originals, output: str) -> list[object]:
    return ["dabnet-export", "onnx", made.weights, "--size", SIZE, f"--output={output}"]


def _budget(made: Originals, output: str) -> list[object]:
    asked = ("--precision", "int8", "--data-dir", made.data, "--max-drop", 1)
    return [*_onnx(made, output), *asked]


def _engine(made: Originals, output: str) -> list[object]:
    return ["dabnet-export", "trt", made.fp32, f"--output={output}", "--target", "sm86"]


def _calibration(made: Originals, output: str) -> list[object]:
    return ["dabnet-export", "calibration", made.calibration, f"--output={output}"]


def _collection(made: Originals, output: str) -> list[object]:
    asked = ("--size", SIZE, "--count", 2, f"--output={output}")
    return ["dabnet-export", "calibration", made.weights, *asked]


def _calibration_cache(made: Originals, output: str) -> list[object]:
    fast = ("--calibration-method", "minmax")
    return [*_calibration(made, output), "--tensorrt", "8.6.1", *fast]


def _verification(made: Originals, output: str) -> list[object]:
    return [*_compared(made), f"--json={output}"]


def _worst(made: Originals, output: str) -> list[object]:
    return [*_compared(made), f"--output={output}"]


def _compared(made: Originals) -> list[object]:
    return ["dabnet-export", "verify", made.fp32, made.int8, "--limit", 1]


def _comparison(made: Originals, output: str) -> list[object]:
    record = made.record / "bench.json"
    return ["dabnet-bench", "compare", record, record, f"--json={output}"]


def _report(made: Originals, output: str) -> list[object]:
    return ["dabnet-bench", "report", made.record / "bench.json", f"--output={output}"]


def _sheet(made: Originals, output: str) -> list[object]:
    asked = ("--dataset", "camvid", f"--sheet={output}")
    return ["dabnet-data", "check", made.data, *asked]


def _clip(made: Originals, output: str) -> list[object]:
    return ["dabnet-run", made.fp32, "toy-street", "--max-frames", 2, f"--output={output}"]


def _train(made: Originals, output: str) -> list[object]:
    asked = ("--data-dir", made.data, f"--output={output}", *made.tiny, "--max-epochs", 1)
    return ["dabnet-train", *asked]


def _bench(made: Originals, output: str) -> list[object]:
    asked = ("--backend", "pytorch-fp32", "--size", SIZE, "--rounds", 2, "--min-time", 0.01)
    where = (f"--output={output}", "--cache-dir", made.folder / "bench-cache")
    return ["dabnet-bench", made.weights, *asked, "--max-images", 1, *where]


REPORT_FILES = ("bench.json", "bench.csv", "bench.md", "bench.html")
RUN_FILES = ("last.pth", "previous.pth", "best.pth", "log.csv", "curves.png", "predictions.png")
WRITERS = (
    Writer("onnx", _onnx, "x.onnx", own=("an ONNX file",)),
    *(
        Writer(f"budget.{e}", _budget, "x.onnx", f"x.onnx.budget.{e}", own=("a drawn picture",))
        for e in ("json", "md", "png")
    ),
    Writer("trt", _engine, "x.engine", own=("an engine",)),
    Writer("manifest of trt", _engine, "x", "x.json", own=("a manifest",)),
    Writer("calibration", _calibration, "x.json", own=("a calibration",), cheap=True),
    Writer("partial calibration", _collection, "x.json", "x.json.partial", own=("a calibration",)),
    Writer("calibration cache", _calibration_cache, "x.cache", cheap=True),
    Writer("origin of it", _calibration_cache, "x.cache", "x.cache.json", cheap=True),
    Writer("verify --json", _verification, "x.json", own=("a verification",)),
    Writer("verify --output", _worst, "w", "w/worst_01_x.png", own=("a drawn picture",)),
    Writer("compare --json", _comparison, "x.json", own=("a comparison",), cheap=True),
    *(
        Writer(f"report {name}", _report, "r", f"r/{name}", own=("a record",), cheap=True)
        for name in REPORT_FILES
    ),
    Writer("data check --sheet", _sheet, "x.png", own=("a drawn picture",), cheap=True),
    *(Writer(f"run {name}", _clip, name, own=("a drawn picture",)) for name in ("x.mp4", "x.gif")),
    *(Writer(f"train {name}", _train, "o", f"o/{name}") for name in RUN_FILES),
    *(
        Writer(f"bench {name}", _bench, "o", f"o/{name}", own=("a record",))
        for name in REPORT_FILES
    ),
    Writer("bench picture", _bench, "o", "o/pictures/00000_image.jpg", own=("a drawn picture",)),
)
CHEAP = tuple(writer for writer in WRITERS if writer.cheap and not writer.file)
FOLDERS = (
    Writer("report folder", _report, "r", cheap=True),
    Writer("verify folder", _worst, "w"),
    Writer("run folder", _clip, "o"),
    Writer("train folder", _train, "o"),
    Writer("train boards", _train, "o", "o/tensorboard"),
    Writer("bench folder", _bench, "o"),
    Writer("bench logs", _bench, "o", "o/logs"),
    Writer("bench pictures", _bench, "o", "o/pictures"),
)


def _socket(path: Path) -> None:
    """Bind within the folder: an address is at most 107 bytes."""
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(before)


def _link_to_file(path: Path) -> None:
    path.with_name("precious").write_text("precious")
    path.symlink_to("precious")


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a device": lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3)),
    "a link to /dev/null": lambda path: path.symlink_to("/dev/null"),
    "a link to stdout": lambda path: path.symlink_to("/proc/self/fd/1"),
    "a link to a file": _link_to_file,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a socket": _socket,
}
Occupant = Callable[[Path, Originals], object]


def _copy(of: Callable[[Originals], Path]) -> Occupant:
    return lambda path, made: shutil.copy(of(made), path)


def _photo(path: Path, _: Originals) -> None:
    Image.new("RGB", (40, 30), "red").save(path, format="PNG")


def _drawn(path: Path, made: Originals) -> None:
    shutil.copy(made.run / "predictions.png", path)


def _as_json(value: object) -> Occupant:
    return lambda path, _: path.write_text(json.dumps(value))


OCCUPANTS: dict[str, Occupant] = {
    "a checkpoint": _copy(lambda made: made.weights),
    "an ONNX file": _copy(lambda made: made.fp32),
    "an engine": _copy(lambda made: made.engine),
    "a manifest": _copy(lambda made: made.engine.with_name(made.engine.name + ".json")),
    "a calibration": _copy(lambda made: made.calibration),
    "a record": _copy(lambda made: made.record / "bench.json"),
    "a verification": _as_json({"a": "x", "b": "y", "agreement": {"mean": 1.0}}),
    "a comparison": _as_json({"format": 1, "old": "x", "new": "y", "limits": {}}),
    "a photo": _photo,
    "a drawn picture": _drawn,
    "a text": lambda path, _: path.write_text("thesis\n"),
    "a table": lambda path, _: path.write_text("a,b\n1,2\n"),
    "other JSON": _as_json({"my": "settings"}),
    "a script": lambda path, _: path.write_text("#!/bin/sh\nexit 0\n"),
    "zeros": lambda path, _: path.write_bytes(bytes(5000)),
}


def cases() -> Iterator[Case]:
    yield from _not_plain()
    yield from _of_another_kind()
    yield from _replaced()
    yield from _inputs()
    yield from _folders_of_others()
    yield from _names()
    yield from _no_room()


def _case(
    name: str,
    writer: Writer,
    occupy: Callable[[Path, Originals], object],
    expected: Expected,
    check: Callable[[Path, Result], str] | None = None,
) -> Case:
    def lay(folder: Path, made: Originals) -> Sequence[object]:
        target = folder / writer.target
        target.parent.mkdir(parents=True, exist_ok=True)
        occupy(target, made)
        return writer.words(made, writer.output)

    return Case(FAMILY, name, lay, expected, check=check, seconds=60)


def _not_plain() -> Iterator[Case]:
    """What must not be replaced by a file, and a file that must not become a folder."""
    for writer in WRITERS:
        for what, make in SPECIAL.items():
            yield _case(
                f"{writer.name} to {what}",
                writer,
                lambda path, _, make=make: make(path),
                REFUSED,
            )
        yield _case(f"{writer.name} to a folder", writer, lambda path, _: path.mkdir(), REFUSED)
    for writer in FOLDERS:
        for what in ("a FIFO", "a device", "a link to nothing", "a link to itself", "a socket"):
            make = SPECIAL[what]
            yield _case(
                f"{writer.name} is {what}",
                writer,
                lambda path, _, make=make: make(path),
                REFUSED,
            )
        yield _case(
            f"{writer.name} is a file",
            writer,
            lambda path, _: path.write_text("thesis"),
            REFUSED,
        )


def _of_another_kind() -> Iterator[Case]:
    for number, writer in enumerate(WRITERS):
        for turn, (what, occupy) in enumerate(OCCUPANTS.items(), number):
            # Of a command that writes several files, each meets a third of the kinds.
            if what not in writer.own and not (writer.file and turn % 3):
                yield _case(f"{writer.name} over {what}", writer, occupy, REFUSED)


def _replaced() -> Iterator[Case]:
    """A file of the own kind, or an empty one, is replaced, and keeps its mode."""
    for writer in CHEAP:
        for mode in (0o600, 0o640, 0o444):

            def occupy(path: Path, made: Originals, writer=writer, mode=mode) -> None:
                own = OCCUPANTS[writer.own[0]] if writer.own else lambda path, _: path.touch()
                own(path, made)
                path.chmod(mode)

            def check(folder: Path, _: Result, writer=writer, mode=mode) -> str:
                found = stat.S_IMODE((folder / writer.target).stat().st_mode)
                return "" if found == mode else f"MODE {mode:o} became {found:o}"

            yield _case(f"{writer.name} keeps mode {mode:o}", writer, occupy, FINE, check)

        def empty(path: Path, _: Originals) -> None:
            path.touch()

        def filled(folder: Path, _: Result, writer=writer) -> str:
            return "" if (folder / writer.target).stat().st_size else "LOST it is still empty"

        yield _case(f"{writer.name} over an empty file", writer, empty, FINE, filled)

        def linked(path: Path, made: Originals, writer=writer) -> None:
            OCCUPANTS[writer.own[0]](path, made) if writer.own else path.write_text("TRT-8601-")
            path.with_name("other name").hardlink_to(path)

        def kept(folder: Path, _: Result, writer=writer) -> str:
            same = (folder / "other name").samefile(folder / writer.target)
            return "LOST the other name of the file shows the new one" if same else ""

        yield _case(f"{writer.name} over a hard link", writer, linked, FINE, kept)


Prepare = Callable[[Path, Originals], Sequence[object]]


def _inputs() -> Iterator[Case]:
    """An output that is an input of the same command, by its name, a link or a hard link."""
    for name, prepare in _commands_over_inputs():
        for how in ("itself", "a link", "a hard link", "a way round"):

            def lay(folder: Path, made: Originals, prepare=prepare, how=how) -> Sequence[object]:
                words = [str(word) for word in prepare(folder, made)]
                given, output = folder / "input", folder / "output"
                (folder / "sub").mkdir()
                if how == "a link":
                    output.symlink_to("input")
                elif how == "a hard link":
                    output.hardlink_to(given)
                called = {"itself": "input", "a way round": "sub/../input"}.get(how, "output")
                return [word.replace("OUTPUT", called) for word in words]

            yield Case(FAMILY, f"{name} by {how}", lay)


def _commands_over_inputs() -> Iterator[tuple[str, Prepare]]:
    def command(of: Callable[[Originals], Path], *words: object) -> Prepare:
        def prepare(folder: Path, made: Originals) -> Sequence[object]:
            shutil.copy(of(made), folder / "input")
            return [made.weights if word is Originals else word for word in words]

        return prepare

    def weights(made: Originals) -> Path:
        return made.weights

    def calibration(made: Originals) -> Path:
        return made.calibration

    def record(made: Originals) -> Path:
        return made.record / "bench.json"

    def class_file(made: Originals) -> Path:
        return made.data / "camvid_val_list.txt"

    onnx = ("dabnet-export", "onnx")
    sized = ("--size", SIZE, "-o", "OUTPUT")
    int8 = ("--precision", "int8", "--calibration", "input")
    yield "onnx over its checkpoint", command(weights, *onnx, "input", *sized)
    yield "onnx over its calibration", command(calibration, *onnx, Originals, *int8, *sized)
    yield (
        "trt over its checkpoint",
        command(weights, "dabnet-export", "trt", "input", "--target", "sm86", *sized),
    )
    yield (
        "calibration over its checkpoint",
        command(weights, "dabnet-export", "calibration", "input", *sized),
    )
    yield (
        "calibration over one of those it adds",
        command(calibration, "dabnet-export", "calibration", "input", "-o", "OUTPUT"),
    )
    yield (
        "verify --json over A",
        command(
            weights, "dabnet-export", "verify", "input", Originals, "--limit", 1, "--json", "OUTPUT"
        ),
    )
    yield (
        "verify --json over B",
        command(
            weights, "dabnet-export", "verify", Originals, "input", "--limit", 1, "--json", "OUTPUT"
        ),
    )
    yield (
        "compare --json over OLD",
        command(record, "dabnet-bench", "compare", "input", "input", "--json", "OUTPUT"),
    )
    yield (
        "onnx over a class file",
        command(
            class_file,
            *(*onnx, Originals, "--classes", "input", *sized),
        ),
    )
    yield (
        "sheet over a class file",
        command(
            class_file,
            *("dabnet-data", "check", ".", "--classes", "input", "--sheet", "OUTPUT"),
        ),
    )


def _folders_of_others() -> Iterator[Case]:
    """A folder with a run, with the start of this one, or with the images that are read."""
    begins = ("--max-epochs", 1, "--cache-dir", "c")

    def train(*words: object, files: Sequence[tuple[str, str]]) -> Prepare:
        def lay(folder: Path, made: Originals) -> Sequence[object]:
            (folder / "o").mkdir()
            for name, copy in files:
                shutil.copy(made.run / name, folder / "o" / copy)
            common = ("--data-dir", made.data, *made.tiny, *begins)
            return ["dabnet-train", *common, *words]

        return lay

    into = ("--output", "o")
    for option in ("--qat", "--init"):
        start = train(option, "o/best.pth", *into, files=[("best.pth", "best.pth")])
        yield Case(FAMILY, f"train {option} into the folder of its start", start)
    for name in RUN_FILES:
        alone = train(*into, files=[(name, name)])
        yield Case(FAMILY, f"train into a folder with {name} alone", alone)
    both = [("last.pth", "last.pth"), ("previous.pth", "mine.pth")]
    other = train("--resume", "o/mine.pth", files=both)
    yield Case(FAMILY, "a resumed copy beside another run", other)

    def images(words: Callable[[Originals], Sequence[object]]) -> Prepare:
        def lay(folder: Path, made: Originals) -> Sequence[object]:
            shutil.copytree(made.data / "val", folder / "d")
            return words(made)

        return lay

    def verify(made: Originals) -> Sequence[object]:
        return [*_compared(made), "--images", "d", "--output", "d/worst"]

    def bench(made: Originals) -> Sequence[object]:
        return [*_bench(made, "d/bench"), "--images", "d"]

    def round_about(made: Originals) -> Sequence[object]:
        return [*_compared(made), "--images", "d", "--output", "d/../d"]

    yield Case(FAMILY, "verify --output among its images", images(verify))
    yield Case(FAMILY, "verify --output among its images, a way round", images(round_about))
    yield Case(FAMILY, "bench --output among its images", images(bench))

    for split in ("train", "trainannot", "val", "valannot"):

        def sheet(folder: Path, made: Originals, split=split) -> Sequence[object]:
            shutil.copytree(made.data, folder / "d")
            image = min((folder / "d" / split).iterdir()).relative_to(folder)
            return ["dabnet-data", "check", "d", "--dataset", "camvid", "--sheet", image]

        yield Case(FAMILY, f"data check --sheet over an image of {split}", sheet)


ODD_NAMES = {
    "spaces": "a b  c",
    "words beyond ASCII": "ünï-日本語-😀",
    "a line feed": "new\nline",
    "a dash": "-dash",
    "an option": "--help",
    "quotes": "a'b\"c",
    "a call": "$(touch x)`id`",
    "markup": "[red][/bold]",
    "a closing tag": "[/red]",
    "a format": "%s%n{0}",
    "bytes that are not UTF-8": os.fsdecode(b"\xff\xfe"),
    "ESC": "\x1b[31m\x07",
    "a dot first": ".hidden",
    "a backslash": "a\\b",
    "a space last": "x ",
    "a tag of HTML": "<script>",
    "a pattern": "*?[a]",
    "a tilde": "~root",
    "right to left": "a\u202eb",
    "200 letters": "n" * 200,
    "240 letters": "n" * 240,
}
TOO_LONG = {"255 letters and more": "n" * 252, "5000 letters": "n" * 5000}


def _names() -> Iterator[Case]:
    for writer in (*CHEAP, *(writer for writer in FOLDERS if writer.cheap)):
        suffix = Path(writer.output).suffix
        for what, name in ODD_NAMES.items():
            odd = replace(writer, output=name + suffix)

            def made(folder: Path, result: Result, odd=odd) -> str:
                lost = result.code == 0 and not (folder / odd.output).exists()
                return "LOST exit 0 and no output" if lost else ""

            yield replace(
                _case(f"{writer.name} to {what}", odd, lambda path, _: None, FINE, made),
                changes=("*",),  # a name may begin with a dot
            )
        for what, name in (TOO_LONG | {"nowhere": "none/x", "its own folder": "."}).items():
            odd = replace(writer, output=name + suffix if name != "." else ".")
            if writer in FOLDERS and what != "5000 letters":
                continue

            def lay(_: Path, made: Originals, odd=odd) -> Sequence[object]:
                return odd.words(made, odd.output)

            yield Case(FAMILY, f"{writer.name} to {what}", lay)


def _no_room() -> Iterator[Case]:
    """A full disk, a folder that may not be written to."""
    for writer in (*CHEAP, *(writer for writer in FOLDERS if writer.cheap)):
        for most in (400, 1000):
            case = _case(f"{writer.name}, files of {most} bytes", writer, _nothing, REFUSED)
            yield replace(case, limits={"RLIMIT_FSIZE": most})

        def locked(path: Path, _: Originals) -> None:
            for folder in list(path.parents)[1:4]:
                folder.chmod(0o755)
            path.parent.chmod(0o555)

        case = _case(f"{writer.name} to a folder of another user", writer, locked, REFUSED)
        yield replace(case, user=NOBODY)


def _nothing(_: Path, __: Originals) -> None:
    pass
