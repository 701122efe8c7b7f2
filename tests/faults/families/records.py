"""Records of dabnet-bench from other people, and what the commands make of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.faults.case import EITHER, FINE, JUDGED, REFUSED, Case, Expected
from tests.faults.damage import WRONG, as_json, cut, dotted, flipped, no_files, places, put, without
from tests.faults.damage import texts as other_texts
from tests.faults.originals import Originals

FAMILY = "record"
REPORT, PAGE, OUTPUT = "report", "report --html", "report --output out"
COMPARED, BASE, RECOMMEND = "compare good.json", "compare as old", "recommend"
BESIDE = "report beside good.json --output out"
USES = (REPORT, PAGE, OUTPUT, COMPARED, BASE, RECOMMEND)
WRITTEN = ("bench.html", "out", "out/*", ".dabnet-lock", "out/.dabnet-lock")

Document = dict[str, Any]


@lru_cache(maxsize=1)
def document() -> Document:
    """A good record: two rows in two scopes, on eight images of three classes."""
    from bench.record.file import record_text
    from tests.support.sample_reports import sample_report

    rows = {"pytorch-fp32": (86.0, 0.66, 3.1), "onnxruntime-int8": (52.0, 0.65, 1.0)}
    made: Document = json.loads(record_text(sample_report(dict(rows))))
    return made


def words(use: str) -> list[str]:
    """The command line of a use of ``bench.json``."""
    return {
        REPORT: ["dabnet-bench", "report", "bench.json"],
        PAGE: ["dabnet-bench", "report", "bench.json", "--html"],
        OUTPUT: ["dabnet-bench", "report", "bench.json", "--output", "out"],
        BESIDE: ["dabnet-bench", "report", "good.json", "bench.json", "--output", "out"],
        COMPARED: ["dabnet-bench", "compare", "good.json", "bench.json"],
        BASE: ["dabnet-bench", "compare", "bench.json", "good.json"],
        RECOMMEND: ["dabnet-bench", "recommend", "bench.json"],
    }[use]


def record_case(
    name: str,
    make: Callable[[], Document | str | bytes],
    use: str = REPORT,
    expected: Expected = REFUSED,
    **more: Any,
) -> Case:
    """A case whose ``bench.json`` is what ``make`` returns, beside a good one."""

    def lay(folder: Path, _: Originals) -> Sequence[str]:
        made = make()
        text = made if isinstance(made, (str, bytes)) else as_json(made)
        data = text if isinstance(text, bytes) else text.encode()
        (folder / "bench.json").write_bytes(data)
        (folder / "good.json").write_text(as_json(document()))
        return words(use)

    judges = use in (COMPARED, BASE, RECOMMEND) and expected is not REFUSED
    changes = more.pop("changes", WRITTEN)
    return Case(
        more.pop("family", FAMILY),
        f"{name}, {use}",
        lay,
        JUDGED if judges else expected,
        changes=() if expected is REFUSED else changes,
        **more,
    )


def cases() -> Iterator[Case]:
    for use in (REPORT, COMPARED, RECOMMEND):
        for name, make, user in no_files():

            def lay(folder: Path, _: Originals, make=make, use=use) -> list[str]:
                (folder / "good.json").write_text(as_json(document()))
                make(folder / "bench.json")
                return words(use)

            yield Case(FAMILY, f"is {name}, {use}", lay, user=user)
    for name, content in other_texts():
        for use in (REPORT, BASE):
            yield record_case(f"holds {name}", lambda c=content: c, use)
    for use in USES:
        expected = JUDGED if use in (COMPARED, BASE, RECOMMEND) else FINE
        yield record_case("good", document, use, expected)
    yield record_case("the same record", document, BESIDE)
    yield record_case("of format 2", lambda: put(document(), ("format",), 2), BESIDE)
    yield record_case("another seed", lambda: put(document(), ("key",), "x"), BESIDE, FINE)
    yield from _damaged()
    yield from _wrong_values()
    yield from _contradictions()
    yield from _large()
    yield from _pictures()


def _damaged() -> Iterator[Case]:
    def data() -> bytes:
        return as_json(document()).encode()

    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        yield record_case(f"cut at {share}", lambda s=share: cut(data(), s))
    for seed, use in zip(range(24), cycle(USES), strict=False):
        # A digit of a sample, a letter of a name: it may stay a record.
        yield record_case(
            f"10 bits flipped, {seed}", lambda s=seed: flipped(data(), s, 10), use, EITHER
        )


def _wrong_values() -> Iterator[Case]:
    """Each value of the first row and of what is above it replaced, and each key taken away."""
    kinds, uses = cycle(sorted(WRONG)), cycle(USES)
    good = document()
    for path in places(good):
        if any(part == 1 for part in path):  # the second of a list is like the first
            continue
        for kind in (next(kinds), next(kinds)):
            changed = lambda p=path, k=kind: put(document(), p, WRONG[k])  # noqa: E731
            expected = _expected(good, path, kind)
            yield record_case(f"{dotted(path)} is {kind}", changed, next(uses), expected)
    for path in places(good):
        if isinstance(path[-1], str) and not any(part == 1 for part in path):
            # Many keys have a default; where they have none, the record is refused.
            lacking = lambda p=path: without(document(), p)  # noqa: E731
            yield record_case(f"without {dotted(path)}", lacking, next(uses), EITHER)


_NEVER = ("NaN", "infinity", "10**30", "half a surrogate pair")


def _expected(good: Document, path: tuple[Any, ...], kind: str) -> Expected:
    """What may come of a wrong value: it is refused, unless it is of the type that stood there."""
    was: Any = good
    for key in path:
        was = was[key]
    if kind in _NEVER:
        return REFUSED
    if "manifest" in path[:-1] or (path[0] == "scenario" and len(path) > 1):
        return FINE  # of other tools, and only shown
    same = {
        str: kind in ("text", "ESC"),
        bool: kind == "true",
        int: kind == "-1",
        float: kind in ("-1", "1.5"),
        dict: kind == "an object" and path[-1] in ("manifest", "scenario", "multiply_adds"),
        type(None): kind in ("-1", "1.5", "text", "an object"),
    }
    optional = kind == "null"
    return EITHER if same.get(type(was), False) or optional else REFUSED


def _contradictions() -> Iterator[Case]:
    """Values of the right type that no run writes."""
    row, timing = ("rows", 0), ("rows", 0, "timings", 0)
    score, turn = (*row, "accuracy", "score"), (*timing, "turns", 0)
    wrong: dict[str, tuple[tuple[Any, ...], Any]] = {
        "an image less": (("images",), [f"i{n}" for n in range(7)]),
        "100000 classes": (("classes",), [f"c{n}" for n in range(100_000)]),
        "no classes": (("classes",), []),
        "a colour less": (("palette",), [[1, 2, 3], [4, 5, 6]]),
        "a colour of 999": (("palette", 0), [999, 0, 0]),
        "a colour of -1": (("palette", 0), [-1, 0, 0]),
        "a colour of two numbers": (("palette", 0), [1, 2]),
        "a colour that is CSS": (("palette", 0), ["red;}</style>", 0, 0]),
        "a size of 2**62": ((*row, "setting", "size"), [2**62, 2**62]),
        "a size of 0": ((*row, "setting", "size"), [0, 8]),
        "a batch of 0": ((*row, "setting", "batch"), 0),
        "a batch of 10**9": ((*row, "setting", "batch"), 10**9),
        "streams of -1": ((*row, "setting", "streams"), -1),
        "a mean IoU of 500 %": ((*score, "miou"), {"value": 5.0, "low": 4.0, "high": 6.0}),
        "a mean IoU below 0": ((*score, "miou"), {"value": -0.1, "low": -0.2, "high": 0.1}),
        "an interval upside down": ((*score, "miou"), {"value": 0.5, "low": 0.9, "high": 0.1}),
        "a class IoU of 2": ((*score, "class_iou", 0), 2.0),
        "a class IoU less": ((*score, "class_iou"), [0.5, 0.5]),
        "pixel accuracy -1": ((*score, "pixel_accuracy"), -1.0),
        "more hits than pixels": ((*score, "hits", 0), [10**9, 0, 0]),
        "hits below 0": ((*score, "hits", 0), [-1, 0, 0]),
        "hits of 2**62": ((*score, "hits", 0), [2**62, 0, 0]),
        "agreement of 1.1": (("rows", 1, "accuracy", "agreement", 0), 1.1),
        "agreement of an image more": (("rows", 1, "accuracy", "agreement"), [1.0] * 9),
        "a median below 0": ((*timing, "latency", "p50_ms"), -5.0),
        "a median of 0": ((*timing, "latency", "p50_ms"), 0.0),
        "a median that is not of the samples": ((*timing, "latency", "p50_ms"), 0.001),
        "a p99 that is not of the samples": ((*timing, "latency", "p99_ms"), 1e6),
        "a minimum that is not of the samples": ((*timing, "latency", "min_ms"), 1e-6),
        "a spread that is not of the samples": ((*timing, "latency", "iqr_ms"), 1e3),
        "calls that are not those of the samples": ((*timing, "latency", "calls"), 10**6),
        "a turn without samples": ((*turn, "samples_ns"), []),
        "a sample of 0": ((*turn, "samples_ns", 0), 0),
        "a sample of -1": ((*turn, "samples_ns", 0), -1),
        "a sample of 2**62": ((*turn, "samples_ns", 0), 2**62),
        "a turn of no time": ((*turn, "wall_s"), 0.0),
        "a turn of 1e300 s": ((*turn, "wall_s"), 1e300),
        "a turn before the start": ((*turn, "start_s"), -1.0),
        "round -1": ((*turn, "round"), -1),
        "frames per second below 0": ((*timing, "fps"), {"value": -1.0, "low": -2.0, "high": 0.0}),
        "a clock below 0": ((*turn, "telemetry", "cpu_mhz"), -1.0),
        "power below 0": ((*turn, "telemetry", "gpu_power_w"), -1.0),
        "a foreign share of 2": ((*turn, "telemetry", "gpu_foreign_share"), 2.0),
        "a file of -1 bytes": ((*row, "footprint", "artifact_bytes"), -1),
        "a load of -1 s": ((*row, "footprint", "load_s"), -1.0),
        "a limit of 1e300 s": ((*row, "limit", "seconds"), 1e300),
        "a layer of -1 s": ((*row, "layers", 0, "seconds"), -1.0),
        "a layer of 200 %": ((*row, "layers", 0, "share"), 2.0),
        "a memory of 0 bytes/s": (("peaks", "bytes_per_s"), 0.0),
        "a peak of -1": (("peaks", "multiply_adds_per_s"), {"fp32": -1.0}),
        "a timer of -1 ns": (("harness_ns",), -1.0),
        "parameters of -1": (("subjects", 0, "parameters"), -1),
        "a hash of 1000 letters": (("subjects", 0, "sha256"), "a" * 1000),
        "a name of 100000 characters": ((*row, "name"), "x" * 100_000),
        "a reason of 1 MB": ((*row, "reason"), "x" * 1_000_000),
        "no subjects": (("subjects",), []),
        "a row of another subject": ((*row, "of"), "nobody"),
        "two subjects of rows of one": (("subjects",), [document()["subjects"][0]] * 2),
        "an older format": (("format",), 3),
        "a newer format": (("format",), 5),
        "a key of a newer version": (("temperature",), 1),
        "a key of a newer version within": ((*row, "setting", "depth"), 1),
        "a scope twice": ((*row, "timings"), [document()["rows"][0]["timings"][0]] * 2),
        "rows twice": (("rows",), document()["rows"] * 2),
    }
    uses = cycle(USES)
    for name, (path, value) in wrong.items():
        yield record_case(name, lambda p=path, v=value: put(document(), p, v), next(uses))

    def twice() -> str:
        return as_json(document())[:-1] + ', "complete": false}'

    for use in USES:
        yield record_case("a key twice", twice, use)
        yield record_case("no rows", lambda: put(document(), ("rows",), []), use, EITHER)
        stopped = lambda: put(document(), ("complete",), False)  # noqa: E731
        yield record_case("of a stopped run", stopped, use, FINE)
        yield record_case("no images", _without_images, use, FINE)


def _without_images() -> Document:
    made = put(document(), ("images",), [])
    for row in made["rows"]:
        row["accuracy"] = None
    return made


def _rows(count: int, sizes: int = 1) -> Document:
    made: Document = json.loads(as_json(document()))
    second = made["rows"][1]
    for number in range(count):
        setting = {**second["setting"], "size": [512 + 8 * (number % sizes), 1024]}
        made["rows"].append({**second, "name": f"onnxruntime-{number}", "setting": setting})
    return made


def _samples(count: int) -> str:
    """A first turn of ``count`` samples, and no summary."""
    made = put(document(), ("rows", 0, "timings", 0, "latency"), None)
    made = put(made, ("rows", 0, "timings", 0, "turns", 0, "samples_ns"), ["samples"])
    return as_json(made).replace('"samples"', "86000000, " * (count - 1) + "86000000")


def _turns(count: int) -> Document:
    """A first scope of ``count`` turns that something disturbed and that do not count."""
    timing = ("rows", 0, "timings", 0)
    turn = {"round": 0, "start_s": 1.0, "wall_s": 1.0, "samples_ns": [86_000_000]}
    turn |= {"counted": False, "marks": ["disturbed"]}
    counted = document()["rows"][0]["timings"][0]["turns"]
    made: Document = put(document(), (*timing, "turns"), counted + [turn] * count)
    return made


def _large() -> Iterator[Case]:
    slow = {"seconds": 60.0}
    for use in USES:
        yield record_case("300 rows", lambda: _rows(300), use, FINE, **slow)
        yield record_case("300 rows of 300 sizes", lambda: _rows(300, 300), use, FINE, **slow)
    yield record_case("5000 rows", lambda: _rows(5000))
    for use in (REPORT, PAGE, COMPARED):
        yield record_case("a million samples", lambda: _samples(1_000_000), use, FINE, **slow)
        yield record_case("20000 turns of one round", lambda: _turns(20_000), use, FINE, **slow)
    yield record_case("25 million samples", lambda: _samples(25_000_000), **slow)
    yield record_case("a million turns", _many_turns, **slow)
    for name, item in {"texts": '""', "arrays": "[]", "objects": "{}", "nulls": "null"}.items():
        many = lambda i=item: _filled(("rows",), f"[{','.join([i] * 1_900_000)}]")  # noqa: E731
        yield record_case(f"rows of 1.9 million {name}", many, **slow)
    keys = lambda: put(document(), ("environment",), {str(n): 1 for n in range(900_000)})  # noqa: E731
    yield record_case("an environment of 900000 numbers", keys, **slow)
    for depth in (100, 190, 500, 900, 5000, 100_000):
        deep = lambda d=depth: _filled(("scenario",), '{"a":' * d + "1" + "}" * d)  # noqa: E731
        # The reader takes some 200 levels, and the page shows them as they are.
        expected = EITHER if depth < 500 else REFUSED
        yield record_case(f"a scenario {depth} deep", deep, REPORT, expected)
        yield record_case(f"a scenario {depth} deep", deep, PAGE, expected)
    long = lambda: put(document(), ("rows", 0, "info", "notes"), ["word " * 200_000])  # noqa: E731
    for use in (REPORT, PAGE, OUTPUT):
        yield record_case("a note of 1 MB", long, use, EITHER, **slow)
    layer = lambda: put(document(), ("rows", 0, "layers", 0, "name"), "x" * 1_000_000)  # noqa: E731
    yield record_case("a layer's name of 1 MB", layer, REPORT, EITHER, **slow)

    def sparse(folder: Path, _: Originals) -> list[str]:
        with (folder / "bench.json").open("wb") as file:
            file.write(b"{")
            file.truncate(5 << 30)
        return words(REPORT)

    yield Case(FAMILY, "5 GB", sparse)


def _filled(path: tuple[Any, ...], text: str) -> str:
    """The record with a JSON text at ``path``."""
    return as_json(put(document(), path, "@")).replace('"@"', text)


def _many_turns() -> str:
    turn = '{"round":0,"start_s":1,"wall_s":1,"samples_ns":[1]}'
    return _filled(("rows", 0, "timings", 0, "turns"), f"[{','.join([turn] * 1_000_000)}]")


def _pictures() -> Iterator[Case]:
    """Files that a record names as its pictures."""
    secret = "root:x:0"

    def check(folder: Path, _: object) -> str:
        import base64

        page = (folder / "work" / "bench.html").read_text()
        inside = base64.b64encode(secret.encode()).decode()[:8] in page or secret in page
        return "ACCEPTED a file of elsewhere is in the page" if inside else ""

    names: dict[str, Callable[[Path], str]] = {
        "a FIFO": lambda folder: os.mkfifo(folder / "x.jpg") or "x.jpg",
        "5 GB": lambda folder: _sparse(folder / "x.jpg"),
        "a link to itself": lambda folder: _link(folder, "x.jpg"),
        "/dev/zero": lambda folder: _link(folder, "/dev/zero"),
        "a link to a file of elsewhere": lambda folder: _link(folder, "../secret.jpg"),
        "a file of elsewhere": lambda _: "../secret.jpg",
        "an absolute path": lambda folder: str(folder.parent / "secret.jpg"),
        "a path of the system": lambda _: "/etc/passwd",
        "a path of the system that ends as a picture": lambda _: "/etc/passwd.jpg",
        "a text named as a picture": lambda folder: _text(folder, "x.jpg"),
        "a text named as SVG": lambda folder: _text(folder, "x.svg"),
        "a directory": lambda folder: (folder / "x.jpg").mkdir() or "x.jpg",
        "a missing file": lambda _: "gone.jpg",
        "a name with NUL": lambda _: "x\0.jpg",
        "a name of 900 letters": lambda _: "x" * 900 + ".jpg",
        "an empty name": lambda _: "",
        "a name of another machine": lambda _: "C:\\x.jpg",
        "a URL": lambda _: "http://localhost/x.jpg",
    }
    for name, make in names.items():

        def lay(folder: Path, _: Originals, make=make) -> list[str]:
            (folder / "secret.jpg").write_text(secret)
            work = folder / "work"
            work.mkdir()
            picture = {"image": "street_000", "shows": "image", "file": make(work)}
            (work / "bench.json").write_text(as_json(put(document(), ("pictures",), [picture])))
            return ["dabnet-bench", "report", "work/bench.json", "--html"]

        yield Case(FAMILY, f"its picture is {name}", lay, FINE, check=check)

    def hundred_thousand(folder: Path, _: Originals) -> list[str]:
        picture = {"image": "street_000", "shows": "image", "file": "x.jpg"}
        (folder / "x.jpg").write_bytes(b"\xff\xd8\xff" + bytes(1_000_000))
        pictures = [{**picture, "shows": f"row {n}"} for n in range(100_000)]
        (folder / "bench.json").write_text(as_json(put(document(), ("pictures",), pictures)))
        return words(PAGE)

    yield Case(FAMILY, "100000 pictures of 1 MB", hundred_thousand, FINE, seconds=60)

    def real(folder: Path, originals: Originals) -> list[str]:
        shutil.copytree(originals.record, folder / "work")
        return ["dabnet-bench", "report", "work/bench.json", "--output", "out"]

    yield Case(FAMILY, "of a run, with its pictures", real, FINE)


def _sparse(path: Path) -> str:
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(5 << 30)
    return path.name


def _link(folder: Path, target: str) -> str:
    (folder / "x.jpg").symlink_to(target)
    return "x.jpg"


def _text(folder: Path, name: str) -> str:
    (folder / name).write_text("<svg onload='alert(1)'/>")
    return name
