"""Calibration files from other people, and what an interrupted calibration left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.faults.case import EITHER, FINE, REFUSED, Case, Expected
from tests.faults.damage import (
    WRONG,
    as_json,
    cut,
    dotted,
    flipped,
    no_files,
    put,
    texts,
    without,
)
from tests.faults.originals import SIZE, Originals

FAMILY = "calibration"
ALONE, MERGED, CACHE, EXPORT = "added up alone", "added up", "as a cache", "for an export"
COMMANDS = {
    ALONE: "dabnet-export calibration c.json -o o.json",
    MERGED: "dabnet-export calibration c.json good.json -o o.json",
    CACHE: "dabnet-export calibration c.json -o o.cache --tensorrt 8.6.1",
    EXPORT: f"dabnet-export onnx WEIGHTS --size {SIZE} --precision int8"
    " --calibration c.json -o o.onnx",
}
FIRST = "*"  # of the keys of a map
_TOP = (
    *("kind", "version", "tool_version", "checkpoint_sha256", "graph_sha256", "optimized_for"),
    *("size", "dataset", "split", "images", "tensors"),
)
_HISTOGRAM = ("count", "zeros", "minimum", "maximum", "limit", "counts")
PATHS: tuple[tuple[Any, ...], ...] = (
    *((key,) for key in _TOP),
    *(("size", side) for side in (0, 1)),
    ("images", FIRST),
    ("tensors", FIRST),
    *(("tensors", FIRST, key) for key in _HISTOGRAM),
)

Document = dict[str, Any]
Change = Callable[[Document], Document | str | bytes]


def _document(originals: Originals) -> Document:
    made: Document = json.loads(originals.calibration.read_bytes())
    return made


def _path(document: Document, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """``path`` with the names of what stands first in a map."""
    if FIRST not in path:
        return path
    place = path.index(FIRST)
    return (*path[:place], next(iter(document[path[0]])), *path[place + 1 :])


def _words(use: str, originals: Originals) -> list[str]:
    return [str(originals.weights) if w == "WEIGHTS" else w for w in COMMANDS[use].split()]


def _case(name: str, change: Change, use: str = ALONE, expected: Expected = REFUSED) -> Case:
    def lay(folder: Path, originals: Originals) -> Sequence[str]:
        made = change(_document(originals))
        text = made if isinstance(made, (str, bytes)) else as_json(made)
        (folder / "c.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        (folder / "good.json").write_text(as_json(_other_images(_document(originals))))
        return _words(use, originals)

    changes = () if expected is REFUSED else ("o.*",)
    return Case(FAMILY, f"{name}, {use}", lay, expected, changes=changes)


def _other_images(document: Document) -> Document:
    """The same statistics as of other images, which may be added."""
    images = {f"other {n}": f"{n:064x}" for n in range(len(document["images"]))}
    return {**document, "images": images}


def cases() -> Iterator[Case]:
    for use in (ALONE, MERGED):
        for name, make, user in no_files():

            def lay(folder: Path, originals: Originals, make=make, use=use) -> list[str]:
                (folder / "good.json").write_bytes(originals.calibration.read_bytes())
                make(folder / "c.json")
                return _words(use, originals)

            yield Case(FAMILY, f"is {name}, {use}", lay, user=user)
    uses = cycle((ALONE, MERGED, CACHE))
    for name, content in texts():
        yield _case(f"holds {name}", lambda _, c=content: c, next(uses))
    for use in (ALONE, MERGED, CACHE, EXPORT):
        yield _case("good", lambda document: document, use, FINE)
    yield _case("holds arrays 100000 deep", lambda _: b"[" * 100_000, EXPORT)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        yield _case(f"cut at {share}", lambda d, s=share: cut(as_json(d).encode(), s), next(uses))
    for seed in range(24):
        # A letter of a name may be another; sums and hashes find most of the rest.
        broken = lambda d, s=seed: flipped(as_json(d).encode(), s, 20)  # noqa: E731
        yield _case(f"20 bits flipped, {seed}", broken, next(uses), EITHER)
    for path in PATHS:
        for kind, value in WRONG.items():
            wrong = lambda d, p=path, v=value: put(d, _path(d, p), v)  # noqa: E731
            yield _case(f"{dotted(path)} is {kind}", wrong, next(uses), _expected(path, kind))
        lacking = lambda d, p=path: without(d, _path(d, p))  # noqa: E731
        # An image or a tensor less is another calibration, as good as this one.
        fewer = path[-1] == FIRST
        yield _case(f"without {dotted(path)}", lacking, next(uses), EITHER if fewer else REFUSED)
    yield from _contradictions()
    yield from _interrupted()


def _expected(path: tuple[Any, ...], kind: str) -> Expected:
    free = path[-1] in ("tool_version", "dataset", "split", "optimized_for")
    return EITHER if free and kind in ("text", "ESC") else REFUSED


def _contradictions() -> Iterator[Case]:
    histogram = ("tensors", FIRST)
    wrong: dict[str, tuple[tuple[Any, ...], Any]] = {
        "a size of 0": (("size",), [0, 0]),
        "a size of fractions": (("size",), [64.7, 128]),
        "a size of text": (("size",), ["64", "128"]),
        "a size of three": (("size",), [64, 128, 3]),
        "a size of 2**40": (("size",), [2**40, 8]),
        "no images": (("images",), {}),
        "no tensors": (("tensors",), {}),
        "a short hash": (("graph_sha256",), "abc"),
        "a short hash of an image": (("images", FIRST), "abc"),
        "a limit that is no power of two": ((*histogram, "limit"), 3.0),
        "a limit of 2**-120": ((*histogram, "limit"), 2.0**-120),
        "a limit of 0": ((*histogram, "limit"), 0.0),
        "a count of one more": ((*histogram, "count"), 7),
        "zeros above the count": ((*histogram, "zeros"), 2**60),
        "a minimum above the maximum": ((*histogram, "minimum"), 1e30),
        "counts that are no base64": ((*histogram, "counts"), "?"),
        "counts that are not deflated": ((*histogram, "counts"), "AAAA"),
        "counts that unpack to 1 GB": ((*histogram, "counts"), _bomb()),
        "an older version": (("version",), 0),
        "a newer version": (("version",), 2),
        "a key of a newer version": (("temperature",), 1),
        "another kind": (("kind",), "dabnet record"),
    }
    uses = cycle((ALONE, MERGED, CACHE))
    for name, (path, value) in wrong.items():
        yield _case(name, lambda d, p=path, v=value: put(d, _path(d, p), v), next(uses))
    yield _case("a key twice", lambda d: as_json(d)[:-1] + ', "size": [8, 8]}')
    yield _case("an image twice", lambda d: {**d, "images": {"a": "0" * 64, "b": "0" * 64}})
    yield _case("added to itself", _other_images, MERGED)
    for name in ("checkpoint_sha256", "graph_sha256"):
        yield _case(f"another {name}", lambda d, n=name: {**d, n: "0" * 64}, MERGED)
        yield _case(f"another {name}", lambda d, n=name: {**d, n: "0" * 64}, EXPORT)
    few = lambda d: {**d, "tensors": dict(list(d["tensors"].items())[:5])}  # noqa: E731
    yield _case("five tensors", few, MERGED)
    yield _case("five tensors", few, EXPORT)
    names = {
        "markup": "[/red]",
        "ESC": "\x1b[31m",
        "a line of a cache": "a: 3f800000\nb",
        "half of a pair": "\ud800",
        "1000 letters": "x" * 1000,
        "1 MB": "x" * 1_000_000,
    }
    for name, text in names.items():
        for use in (ALONE, MERGED, CACHE):
            # They are names of tensors here, which no file of ours has and which are only names.
            expected = REFUSED if text == "\ud800" or use == MERGED else EITHER
            tensor = lambda d, t=text: {**d, "tensors": {t: next(iter(d["tensors"].values()))}}  # noqa: E731
            yield _case(f"a tensor called {name}", tensor, use, expected)
        image = lambda d, t=text: {**d, "images": {t: "1" * 64}, "dataset": t[:500]}  # noqa: E731
        yield _case(f"an image and data called {name}", image, ALONE, EITHER)


def _bomb() -> str:
    import base64
    import zlib

    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(1 << 24)) for _ in range(64)]
    return base64.b64encode(b"".join([*parts, packer.flush()])).decode()


def _interrupted() -> Iterator[Case]:
    """What ``o.json.partial`` may hold: the result is that of an unbroken run, or a refusal."""
    damages: dict[str, tuple[Change, Expected]] = {
        "whole": (lambda d: d, FINE),
        # It is written as a whole: this is somebody else's file, and not replaced.
        "cut": (lambda d: cut(as_json(d).encode(), 0.5), REFUSED),
        "deep": (lambda _: b"[" * 100_000, REFUSED),
        "NUL bytes": (lambda _: bytes(500), REFUSED),
        "its images in another order": (_reversed, FINE),
        "two images swapped": (_swapped, FINE),
        "an image of elsewhere": (lambda d: {**d, "images": {"zz": "0" * 64}}, EITHER),
        "of another graph": (lambda d: {**d, "graph_sha256": "0" * 64}, FINE),
    }
    for name, (change, expected) in damages.items():

        def lay(folder: Path, originals: Originals, change=change) -> list[str]:
            made = change(_document(originals))
            data = made if isinstance(made, bytes) else as_json(made).encode()
            (folder / "o.json.partial").write_bytes(data)
            (folder / "unbroken.json").write_bytes(originals.calibration.read_bytes())
            words = ("dabnet-export", "calibration", str(originals.weights), "--size", SIZE)
            return [*words, "--count", "4", "-o", "o.json"]

        changes = () if expected is REFUSED else ("o.json", "o.json.partial")
        yield Case(FAMILY, f"a partial file: {name}", lay, expected, changes, check=_is_unbroken)


def _is_unbroken(folder: Path, _: object) -> str:
    if not (folder / "o.json").exists():
        return ""
    same = (folder / "o.json").read_bytes() == (folder / "unbroken.json").read_bytes()
    return "" if same else "DIFFERS the file is not that of an unbroken run"


def _reversed(document: Document) -> Document:
    return {**document, "images": dict(reversed(list(document["images"].items())))}


def _swapped(document: Document) -> Document:
    names, hashes = list(document["images"]), list(document["images"].values())
    hashes[:2] = hashes[1::-1]
    return {**document, "images": dict(zip(names, hashes, strict=True))}
