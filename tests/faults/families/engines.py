"""Engines of other people: they are programs, so only the one of its manifest is loaded."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.case import EITHER, FINE, REFUSED, Case, Expected
from tests.faults.damage import as_json, cut, flipped, no_files, put, texts, without
from tests.faults.manifests import MANIFESTS, WRONG_AT
from tests.faults.originals import Originals

FAMILY = "engine"
COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("dabnet-export", "inspect", "m.engine"),
    "json": ("dabnet-export", "inspect", "m.engine", "--json"),
    "plan": ("dabnet-export", "inspect", "m.engine", "--plan"),
    "verify": ("dabnet-export", "verify", "m.engine", "m.engine", "--limit", "1"),
    "application": ("application", "m.engine"),
    "bench": ("dabnet-bench", "m.engine", "--output", "o"),
}


def of_engine(
    name: str,
    make: Callable[[bytes], bytes],
    on: str,
    expected: Expected = REFUSED,
    options: tuple[str, ...] = (),
) -> Case:
    """The engine is what ``make`` returns of the good one, whose manifest lies beside it."""

    def lay(folder: Path, originals: Originals) -> list[str]:
        (folder / "m.engine").write_bytes(make(originals.engine.read_bytes()))
        shutil.copy(f"{originals.engine}.json", folder / "m.engine.json")
        return [*COMMANDS[on], *options]

    return Case(FAMILY, f"{name}: {on}", lay, expected, changes=("o", "o/*"))


def of_manifest(
    name: str, make: Callable[[Any, Path], object], on: str, expected: Expected = REFUSED
) -> Case:
    """``make`` takes the good manifest and the path beside the engine, and writes it."""

    def lay(folder: Path, originals: Originals) -> list[str]:
        (folder / "m.engine").symlink_to(originals.engine)
        make(json.loads(Path(f"{originals.engine}.json").read_bytes()), folder / "m.engine.json")
        return [*COMMANDS[on]]

    return Case(FAMILY, f"manifest {name}: {on}", lay, expected, changes=("o", "o/*"))


def edited(name: str, change: Callable[[Any], Any], on: str, expected: Expected = REFUSED) -> Case:
    return of_manifest(name, lambda m, path: path.write_text(as_json(change(m))), on, expected)


def cases() -> Iterator[Case]:
    yield from engine_cases()
    yield from manifest_cases()


def engine_cases() -> Iterator[Case]:
    yield of_engine("as it was", lambda data: data, "inspect", FINE)
    yield of_engine("as it was", lambda data: data, "application")  # there is no GPU, or another
    everywhere = ("inspect", "json", "plan", "verify", "application", "bench")
    for index, at in enumerate((1, 100, 0.1, 0.5, 0.9, 0.999)):
        for on in (everywhere[index], "inspect"):
            case = of_engine(f"cut at {at}", lambda data, at=at: cut(data, at), on)
            if on != "inspect" or index:
                yield case
    for seed in range(12):
        on = everywhere[seed % 6]
        yield of_engine(f"bit {seed} flipped", lambda data, s=seed: flipped(data, s), on)
    for on in everywhere:
        yield of_engine("random", lambda _: random.Random(0).randbytes(10_000), on)
        yield of_engine("a program", lambda _: b"\x7fELF" + bytes(5000), on)
        yield of_engine("one byte more", lambda data: data + b"\0", on)
    # With --trust a manifest still says what it is: TensorRT is asked, where there is a GPU.
    yield of_engine("one byte more, trusted", lambda d: d + b"\0", "inspect", EITHER, ("--trust",))
    yield of_engine("random, trusted", lambda _: bytes(10_000), "verify", REFUSED, ("--trust",))
    for name, make, user in no_files():
        for on in ("inspect", "verify", "application"):

            def lay(folder: Path, originals: Originals, make=make, on=on) -> list[str]:
                make(folder / "m.engine")
                shutil.copy(f"{originals.engine}.json", folder / "m.engine.json")
                return [*COMMANDS[on]]

            yield Case(FAMILY, f"is {name}: {on}", lay, user=user)


def manifest_cases() -> Iterator[Case]:
    names = ("inspect", "application", "verify", "json")
    for name, make, user in no_files():
        if user is not None:
            continue
        for on in ("inspect", "application", "bench"):
            yield of_manifest(f"is {name}", lambda _, path, make=make: make(path), on)
    for index, (name, content) in enumerate(texts()):
        on = names[index % 4]
        yield of_manifest(f"holds {name}", lambda _, path, c=content: path.write_bytes(c), on)
    for index, (name, change) in enumerate(MANIFESTS.items()):
        yield edited(name, change, names[index % 4])
    for index, (path, kind, value) in enumerate(WRONG_AT):
        if path != ("engine",):
            label = f"{'.'.join(map(str, path))} is {kind}"
            yield edited(label, lambda m, p=path, v=value: put(m, p, v), names[index % 4])
    yield from build_cases()


def build_cases() -> Iterator[Case]:
    """The part of the manifest on the build."""
    names = ("inspect", "json", "application")
    wrong: dict[str, Any] = {
        "null": None,
        "true": True,
        "-1": -1,
        "1.5": 1.5,
        "a list": [1, "x", None],
        "NaN": float("nan"),
        "half a surrogate pair": "\ud800",
    }
    keys = ("product", "version", "target", "gpu", "compute_capability", "driver", "sha256")
    keys += ("layers_by_type", "asked", "activation_bytes", "constant_bytes", "plan", "profile")
    for index, key in enumerate((*keys, "compatibility")):
        for offset, (kind, value) in enumerate(wrong.items()):
            path = ("engine", key)
            on = names[(index + offset) % 3]
            yield edited(f"{key} is {kind}", lambda m, p=path, v=value: put(m, p, v), on)
    one = [1, 64, 128, 3]
    changes: dict[str, Callable[[Any], Any]] = {
        "without engine": lambda m: without(m, ("engine",)),
        "engine is null": lambda m: put(m, ("engine",), None),
        "without a hash": lambda m: without(m, ("engine", "sha256")),
        "hash of another": lambda m: put(m, ("engine", "sha256"), "0" * 64),
        "hash of letters": lambda m: put(m, ("engine", "sha256"), "g" * 64),
        "profile of 1": lambda m: put(m, ("engine", "profile"), [one]),
        "profile of 5": lambda m: put(m, ("engine", "profile"), [one] * 5),
        "profile of fixed sides": lambda m: put(m, ("engine", "profile"), [one] * 3),
        "an extra key of the engine": lambda m: put(m, ("engine", "extra"), 1),
        "a layer of -1": lambda m: put(m, ("engine", "layers_by_type", "Half"), -1),
        "a kernel without a name": lambda m: without(m, ("engine", "plan", 0, "name")),
        "a kernel that reads a number": lambda m: put(m, ("engine", "plan", 0, "reads"), 1),
        "a product of ESC": lambda m: put(m, ("engine", "product"), "\x1b[2J"),
        "a product of markup": lambda m: put(m, ("engine", "product"), "[/red]"),
        "a product of a path": lambda m: put(m, ("engine", "product"), "../../os"),
        "the product os": lambda m: put(m, ("engine", "product"), "os"),
    }
    for index, (name, change) in enumerate(changes.items()):
        # ``inspect`` loads nothing of an unknown product, and tells what the manifest says.
        shown = name.startswith(("a product", "the product"))
        on = ("inspect", "application")[index % 2]
        yield edited(name, change, on, EITHER if shown and on == "inspect" else REFUSED)
    for name, change in list(changes.items())[-4:]:
        yield edited(name, change, "verify")
