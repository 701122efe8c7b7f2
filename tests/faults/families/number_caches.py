"""Numbers that commands keep: budget searches, pixel counts, peaks of a machine, INT8 ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    places,
    put,
    texts,
    without,
)
from tests.faults.originals import Originals

OUTCOME = {"drop": {"value": 0.1, "low": 0.0, "high": 0.2}, "disagreement": 0.5, "noise": 0.1}
GOOD: dict[str, dict[str, Any]] = {
    "budget": {"version": 1, "key": "key", "measured": {"int8: conv": OUTCOME}},
    "counts": {"class_pixels": [100] * 11, "colour_sum": [900, 900, 900], "pixels": 1100},
    "peaks": {
        "k": {
            "device": "a processor",
            "bytes_per_s": 1e10,
            "multiply_adds_per_s": {"fp32": 1e11},
            "measured": "now",
            "cache": {"size_bytes": 1_000_000, "bytes_per_s": 1e12},
        }
    },
    "ranges": {
        "graph_sha256": "g" * 64,
        "calibration": {
            **{"method": "mse", "dataset": "camvid", "split": "train", "images": 1},
            **{"image_sha256": ["a" * 64], "placement": "", "float_layers": []},
        },
    },
}
KINDS = ("null", "true", "text", "a list", "NaN", "10**30", "half a surrogate pair")
_BAD: dict[str, list[tuple[str, tuple[Any, ...], Any]]] = {
    "budget": [
        ("a drop of 1000 points", ("measured", "int8: conv", "drop", "value"), 1000.0),
        ("a drop upside down", ("measured", "int8: conv", "drop", "low"), 1.0),
        ("101 % that differ", ("measured", "int8: conv", "disagreement"), 101.0),
        ("noise of 1e300", ("measured", "int8: conv", "noise"), 1e300),
        ("another key", ("key",), "other"),
        ("a newer version", ("version",), 2),
    ],
    "counts": [
        ("negative counts", ("class_pixels",), [-5] * 11),
        ("3 classes", ("class_pixels",), [1] * 3),
        ("no classes", ("class_pixels",), []),
        ("counts of 2**62", ("class_pixels",), [2**62] * 11),
        ("more labelled pixels than pixels", ("pixels",), 5),
        ("no pixels", ("pixels",), 0),
        ("2 colours", ("colour_sum",), [1, 2]),
        ("a colour above 255", ("colour_sum",), [10**9, 1, 1]),
        ("a colour below 0", ("colour_sum",), [-1, 1, 1]),
    ],
    "peaks": [
        (f"{name} of {value:g}", ("k", *path), value)
        for name, path in {
            "bytes/s": ("bytes_per_s",),
            "fp32": ("multiply_adds_per_s", "fp32"),
            "the cache's bytes/s": ("cache", "bytes_per_s"),
            "the cache": ("cache", "size_bytes"),
        }.items()
        for value in (0, -1, 1e-300, 1e300)
    ]
    + [("no fp32", ("k", "multiply_adds_per_s"), {"int8": 1e11})],
    "ranges": [
        ("another graph", ("graph_sha256",), "h" * 64),
        ("images of -1", ("calibration", "images"), -1),
        ("a key of a newer version", ("calibration", "extra"), 1),
    ],
}


def _laid(kind: str, folder: Path, originals: Originals) -> tuple[Path, list[str]]:
    """The path of the file of a kind, and the command that reads it."""
    if kind == "counts":
        import hashlib

        from dabnet.data.camvid import CamVid

        fingerprint = CamVid(originals.data, "train").fingerprint().encode()
        name = f"camvid-train-{hashlib.sha256(fingerprint).hexdigest()[:16]}.json"
        (folder / "pixel-counts").mkdir()
        return folder / "pixel-counts" / name, ["number-cache", kind, ".", str(originals.data)]
    if kind == "ranges":
        (folder / "c").write_bytes(b"TRT-8601-EntropyCalibration2\n")
        return folder / "c.json", ["number-cache", kind, "c"]
    return folder / "kept.json", ["number-cache", kind, "kept.json"]


def _case(kind: str, name: str, make: Any, expected: Expected, user: int | None = None) -> Case:
    def lay(folder: Path, originals: Originals) -> Sequence[str]:
        path, words = _laid(kind, folder, originals)
        made = make(path) if callable(make) else make
        if isinstance(made, (bytes, dict)):
            path.write_bytes(made if isinstance(made, bytes) else as_json(made).encode())
        return words

    return Case("number cache", f"{kind}: {name}", lay, expected, user=user)


def cases() -> Iterator[Case]:
    for kind, good in GOOD.items():
        yield _case(kind, "good", good, FINE)
        for name, make, user in no_files():
            # A cache without the file of its origin is taken as one of another tool.
            absent = kind == "ranges" and name in (
                "missing",
                "a link to nothing",
                "a link to itself",
            )
            yield _case(kind, f"is {name}", make, EITHER if absent else REFUSED, user)
        for name, content in texts():
            yield _case(kind, f"holds {name}", content, REFUSED)
        data = as_json(good).encode()
        for share in (0.1, 0.5, 0.9):
            yield _case(kind, f"cut at {share}", cut(data, share), REFUSED)
        for seed in range(4):
            yield _case(kind, f"3 bits flipped, {seed}", flipped(data, seed, 3), EITHER)
        for name, path, value in _BAD[kind]:
            yield _case(kind, name, put(good, path, value), REFUSED)
        for path in places(good):
            for wrong in (
                "null",
                "true",
                "text",
                "a list",
                "NaN",
                "10**30",
                "half a surrogate pair",
            ):
                expected = _expected(good, path, wrong)
                changed = put(good, path, WRONG[wrong])
                yield _case(kind, f"{dotted(path)} is {wrong}", changed, expected)
            if isinstance(path[-1], str):
                yield _case(kind, f"without {dotted(path)}", without(good, path), EITHER)
    twice = as_json(GOOD["counts"])[:-1] + ', "pixels": 2000}'
    yield _case("counts", "a key twice", twice.encode(), REFUSED)


def _expected(good: dict[str, Any], path: tuple[Any, ...], wrong: str) -> Expected:
    was: Any = good
    for key in path:
        was = was[key]
    optional = path[-1] == "cache" and wrong == "null"
    text = isinstance(was, str) and wrong == "text" and path[-1] not in ("key", "graph_sha256")
    return EITHER if optional or text else REFUSED
