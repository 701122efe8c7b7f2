"""What can be wrong with a manifest, in an ONNX file and beside an engine."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.faults.damage import WRONG, put

_TEXT = {"text", "ESC"}  # right where any text is
_SHAPES: tuple[tuple[Any, ...], ...] = (
    *(("input", "shape"), ("input", "shape", 0), ("input", "shape", 1)),
    *(("output", "shape"), ("output", "shape", 0), ("output", "shape", 2)),
)
_PATHS: tuple[tuple[Any, ...], ...] = (
    *(("model",), ("dataset",), ("classes",), ("classes", 0), ("classes", 1)),
    *(("palette",), ("palette", 0), ("palette", 0, 0), ("palette", 1, 2), ("ignore",)),
    *(("preprocessing",), ("preprocessing", "mean_rgb"), ("preprocessing", "mean_rgb", 0)),
    *(("preprocessing", "scale"), ("preprocessing", "scale", 1)),
    *(("input",), ("input", "name"), ("input", "dtype"), *_SHAPES),
    *(("output",), ("output", "name"), ("output", "dtype")),
    *(("precision",), ("example",), ("example", 0), ("example", 1), ("checkpoint_sha256",)),
    *(("stride",), ("logits",), ("optimized_for",), ("passes",), ("opset",), ("channel_order",)),
    *(("graph_sha256",), ("onnx_sha256",), ("calibration",), ("agreement",)),
    *(("agreement", "images"), ("agreement", "mean"), ("agreement", "worst"), ("engine",)),
    *(("tool_version",), ("libraries",), ("libraries", "numpy"), ("format",)),
    *(("confidence",), ("agreement", "confidence")),
)
_ANY_TEXT = {"model", "dataset", "logits", "optimized_for", "images", "tool_version", "numpy"}
_MAY_BE_NULL = {"calibration", "agreement", "engine", "confidence"}
_COUNTED = {"mean_rgb", "scale"}
"""Of these numbers any fraction is right, also -1."""


def _wrong() -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """Yield (path, name, value): two wrong values at each place."""
    chooser = random.Random(0)
    for path in _PATHS:
        names = {str(part) for part in path}
        kinds = set(WRONG)
        if path[-1] in _ANY_TEXT:
            kinds -= _TEXT
        if path[0] == "classes" and len(path) == 2:
            kinds -= {"text"}
        if path[-1] in _MAY_BE_NULL:
            kinds -= {"null"}
        if names & _COUNTED and isinstance(path[-1], int):
            kinds -= {"-1", "1.5"}
        if path == ("checkpoint_sha256",):
            kinds -= {""}
        for kind in chooser.sample(sorted(kinds), 2):
            yield path, kind, WRONG[kind]


WRONG_AT = tuple(_wrong())

MANIFESTS: dict[str, Callable[[Any], Any]] = {
    "of 200 classes": lambda m: put(m, ("classes",), [f"c{i}" for i in range(200)]),
    "of 2 classes": lambda m: put(m, ("classes",), ["a", "b"]),
    "of 300 classes and colours": lambda m: {
        **m,
        "classes": [f"c{i}" for i in range(300)],
        "palette": [[1, 2, 3]] * 300,
    },
    "of no classes": lambda m: {**m, "classes": [], "palette": []},
    "of a class twice": lambda m: put(m, ("classes", 1), m["classes"][0]),
    "of a class without a name": lambda m: put(m, ("classes", 1), ""),
    "of a class with a line": lambda m: put(m, ("classes", 1), "a\nerror: b"),
    "of a class with ESC": lambda m: put(m, ("classes", 1), "\x1b[31mred\x07"),
    "of a class in the other direction": lambda m: put(m, ("classes", 1), "\u202eabc"),
    "of a class of 10 MB": lambda m: put(m, ("classes", 1), "x" * 10_000_000),
    "palette of 3": lambda m: put(m, ("palette",), [[1, 2, 3]] * 3),
    "palette of 999": lambda m: put(m, ("palette", 0), [999, -1, 4]),
    "palette of four": lambda m: put(m, ("palette", 0), [1, 2, 3, 4]),
    "ignore of 256": lambda m: put(m, ("ignore",), 256),
    "scale of 0": lambda m: put(m, ("preprocessing", "scale"), [0.0, 1.0, 1.0]),
    "mean of 1e300": lambda m: put(m, ("preprocessing", "mean_rgb"), [1e300, 1.0, 1.0]),
    "size of another": lambda m: put(m, ("input", "shape"), [1, 32, 32, 3]),
    "input of five sides": lambda m: put(m, ("input", "shape"), [1, 1, 64, 128, 3]),
    "input of one channel": lambda m: put(m, ("input", "shape"), [1, 64, 128, 1]),
    "input of 0": lambda m: put(m, ("input", "shape"), [1, 0, 128, 3]),
    "example of another": lambda m: put(m, ("example",), [1, 32, 32]),
    "example of 2**20": lambda m: put(m, ("example",), [2**20, 2**20, 2**20]),
    "output of another": lambda m: put(m, ("output", "shape"), [1, 32, 32]),
    "output of complex": lambda m: put(m, ("output", "dtype"), "complex64"),
    "hash of 63 digits": lambda m: put(m, ("checkpoint_sha256",), "0" * 63),
    "hash of letters": lambda m: put(m, ("checkpoint_sha256",), "g" * 64),
    "stride of 0": lambda m: put(m, ("stride",), 0),
    "format of tomorrow": lambda m: {**m, "format": 99, "tomorrow": 1},
    "format of yesterday": lambda m: put(m, ("format",), 3),
    "an extra key": lambda m: {**m, "extra": 1},
}
