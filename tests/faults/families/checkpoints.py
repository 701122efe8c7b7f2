"""Checkpoints that dabnet-train wrote, then damaged, garbled or forged."""

from __future__ import annotations

import copy
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults import pickles
from tests.faults.case import EITHER, FINE, GB, REFUSED, Case, Expected, Lay
from tests.faults.damage import WRONG, cut, flipped, no_files
from tests.faults.originals import SIZE, Originals

FAMILY = "checkpoint"
NAME = "m.pth"
FIRST, COUNTER = "init_conv.0.conv.weight", "init_conv.0.bn_prelu.bn.num_batches_tracked"
VARIANCE = "init_conv.0.bn_prelu.bn.running_var"

INSPECT = ("dabnet-export", "inspect", NAME)
EXPORT = ("dabnet-export", "onnx", NAME, "--size", SIZE, "--output", "o.onnx")
SUMMARY = ("dabnet-train", "--qat", NAME, "--summary")


def commands(originals: Originals) -> dict[str, tuple[object, ...]]:
    """Every command that reads a checkpoint."""
    data = ("--data-dir", originals.data)
    return {
        "inspect": INSPECT,
        "onnx": EXPORT,
        "calibration": ("dabnet-export", "calibration", NAME, "--size", SIZE, "--output", "o.json"),
        "trt": ("dabnet-export", "trt", NAME, "--size", SIZE, "--target", "sm86", "-o", "o.engine"),
        "verify": ("dabnet-export", "verify", NAME, originals.fp32, "--limit", 1),
        "qat": ("dabnet-train", "--qat", NAME, *data, "--output", "o", *originals.tiny),
        "init": ("dabnet-train", "--init", NAME, *data, "--output", "o", *originals.tiny),
        "encoder": (
            *("dabnet-train", "--stage", "decoder", "--model", "erfnet", "--encoder", NAME),
            *("--output", "o", *data, *originals.tiny),
        ),
        "resume": ("dabnet-train", "--resume", NAME, *data, *originals.tiny),
        "classifier": (
            *("dabnet-train", "--stage", "classifier", "--model", "erfnet", "--resume", NAME),
            *data,
        ),
        "bench": ("dabnet-bench", NAME, *data, "--size", SIZE, "--output", "o"),
    }


COMMANDS = (
    *("inspect", "onnx", "calibration", "trt", "verify", "qat", "init", "encoder", "resume"),
    *("classifier", "bench"),
)


def of_bytes(make: Callable[[bytes], bytes], words: tuple[object, ...] = INSPECT) -> Lay:
    """``make`` changes the bytes of a good file."""

    def lay(folder: Path, originals: Originals) -> tuple[object, ...]:
        (folder / NAME).write_bytes(make(originals.weights.read_bytes()))
        return words

    return lay


def of_content(change: Callable[[dict[str, Any]], Any], words: tuple[object, ...] = INSPECT) -> Lay:
    """``change`` alters the content of a good file, or returns another."""

    def make(data: bytes) -> bytes:
        import io

        import torch

        content = torch.load(io.BytesIO(data), weights_only=True)
        changed = change(content)
        return pickles.saved(content if changed is None else changed)

    return of_bytes(make, words)


def cases() -> Iterator[Case]:
    yield from _files()
    yield from _damaged()
    yield from _archives()
    yield from _pickles()
    yield from _payloads()
    yield from _garbled()
    yield from _described()
    yield from _weights()


def _case(
    name: str, lay: Lay, expected: Expected = REFUSED, seconds: float = 30, **more: Any
) -> Case:
    return Case(FAMILY, name, lay, expected, seconds=seconds, **more)


def _files() -> Iterator[Case]:
    for name, make, user in no_files():
        for command in COMMANDS:
            if command != "inspect" and name not in ("missing", "empty", "a FIFO", "/dev/zero"):
                continue

            def lay(
                folder: Path, originals: Originals, make=make, command=command
            ) -> tuple[object, ...]:
                make(folder / NAME)
                return commands(originals)[command]

            yield _case(f"is {name}, {command}", lay, user=user)

    def huge(folder: Path, originals: Originals) -> tuple[object, ...]:
        with (folder / NAME).open("wb") as file:
            file.write(originals.weights.read_bytes())
            file.truncate(1 << 42)
        return INSPECT

    yield _case("is 4 TB, most of them a hole", huge)
    for other in ("fp32", "calibration", "engine", "record"):

        def renamed(folder: Path, originals: Originals, other=other) -> tuple[object, ...]:
            path = getattr(originals, other)
            path = path / "bench.json" if path.is_dir() else path
            (folder / NAME).write_bytes(path.read_bytes())
            return INSPECT

        # An ONNX file and an engine are told by what they hold, and described.
        yield _case(f"is {other} by another name", renamed, EITHER, seconds=60)


def _damaged() -> Iterator[Case]:
    places = (1, 4, 30, 100, 1000, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, -1000, -100, -22, -1)
    for place in places:
        yield _case(f"cut at {place}", of_bytes(lambda data, place=place: _cut(data, place)))
    for number, command in enumerate(COMMANDS):

        def lay(
            folder: Path, originals: Originals, command=command, number=number
        ) -> tuple[object, ...]:
            data = originals.weights.read_bytes()
            (folder / NAME).write_bytes(cut(data, 0.05 + 0.09 * number))
            return commands(originals)[command]

        yield _case(f"cut for {command}", lay)
    for seed in range(20):
        # A bit of the padding between parts, or of an attribute of a part, is of no consequence.
        make = lambda data, seed=seed: flipped(data, seed)  # noqa: E731
        yield _case(f"one bit flipped, {seed}", of_bytes(make), EITHER)
    for seed in range(8):
        make = lambda data, seed=seed: flipped(data, 100 + seed, 500)  # noqa: E731
        yield _case(f"500 bits flipped, {seed}", of_bytes(make))
    for seed in range(20):  # the list of parts at the end
        make = lambda data, seed=seed: data[:-2000] + flipped(data[-2000:], seed)  # noqa: E731
        yield _case(f"one bit of the index flipped, {seed}", of_bytes(make), EITHER)
    for size in (1, 100, 100_000):
        yield _case(f"{size} bytes before it", of_bytes(lambda data, n=size: bytes(n) + data))
        # The end of an archive is looked for from the end: so many bytes are a comment, or not.
        more = of_bytes(lambda data, n=size: data + bytes(n))
        yield _case(f"{size} bytes after it", more, EITHER)


def _cut(data: bytes, place: float) -> bytes:
    return cut(data, place) if place >= 0 else data[: int(place)]


def _archives() -> Iterator[Case]:
    def parts(make: Callable[[dict[str, bytes]], bytes]) -> Lay:
        return of_bytes(lambda data: make(pickles.records(data)))

    tensor = "data/0"
    yield _case("packed again", parts(pickles.archive), FINE)
    yield _case("compressed", parts(lambda x: pickles.archive(x, zipfile.ZIP_DEFLATED)))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = parts(lambda x, method=method: pickles.archive(x, method))
        yield _case(f"compressed by method {method}", packed)
    for name, size in (("data.pkl", 5 * GB), (tensor, 6 * GB), ("extra/x", 6 * GB)):
        pack = parts(lambda x, name=name, size=size: pickles.bomb(x, name, size))
        yield _case(f"{name} unpacks to {size // GB} GB", pack, memory=GB, seconds=60)
    evil = b"cos\nsystem\n" + pickles.text(f"touch {pickles.MARK}") + b"\x85R."
    double = parts(lambda x: pickles.twice(x, evil))
    yield _case("has data.pkl twice", double, check=pickles.executed)
    away = parts(lambda x: pickles.archive({**x, "../../evil": b"x", "/tmp/evil": b"x"}))
    yield _case("has names outside its folder", away, EITHER)  # which nothing unpacks
    for name in ("data.pkl", tensor, "version", "byteorder"):

        def lack(content: dict[str, bytes], name=name) -> bytes:
            return pickles.archive({k: v for k, v in content.items() if k != name})

        lacks = parts(lack)
        needed = name in ("data.pkl", tensor)  # others have defaults
        yield _case(f"lacks {name}", lacks, REFUSED if needed else EITHER)
        empty = parts(lambda x, name=name: pickles.archive({**x, name: b""}))
        yield _case(f"has an empty {name}", empty, REFUSED if needed else EITHER)
    shorter = parts(lambda x: pickles.archive({**x, tensor: x[tensor][:-4]}))
    yield _case("has a tensor of too few bytes", shorter)
    longer = parts(lambda x: pickles.archive({**x, tensor: x[tensor] + bytes(4)}))
    yield _case("has a tensor of too many bytes", longer, EITHER)  # not all torch read the rest
    for offset, what in ((20, "packed size"), (24, "size"), (42, "place")):
        for value in (0, 1, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF):
            raw = struct.pack("<I", value)
            lie = of_bytes(
                lambda data, offset=offset, raw=raw: pickles.changed_index(
                    data, tensor, offset, raw
                )
            )
            yield _case(f"says {value} for the {what} of a tensor", lie)
    for count in (10_000, 1_000_000):
        made = of_bytes(lambda _, count=count: pickles.many_files(count))
        yield _case(f"lists a part {count} times", made)


def _pickles() -> Iterator[Case]:
    for name, pickle in pickles.PICKLES.items():

        def inside(data: bytes, pickle=pickle) -> bytes:
            return pickles.archive({**pickles.records(data), "data.pkl": pickle})

        yield _case(f"its pickle: {name}", of_bytes(inside), memory=2 * GB, check=pickles.executed)
        if pickle:
            bare = of_bytes(lambda _, pickle=pickle: pickle)
            yield _case(f"a pickle: {name}", bare, memory=2 * GB, check=pickles.executed)
    deep: dict[str, Callable[[], Any]] = {
        "a tuple that doubles 40 times": lambda: pickles.laughs(40),
        "a tuple that doubles 26 times": lambda: pickles.laughs(26),
        "lists 150 deep": lambda: pickles.nested(150),
        "lists 90 deep": lambda: pickles.nested(90),
        "a million numbers": lambda: list(range(10**6)),
        "a text of 70 MB": lambda: "x" * 70_000_000,
        "a million keys": lambda: {f"k{i}": 1 for i in range(10**6)},
    }
    for name, make in deep.items():
        for key in ("format", "dataset", "metrics", "training", "new"):
            if key != "metrics" and "doubles" not in name:
                continue
            change = of_content(lambda x, key=key, make=make: x.__setitem__(key, make()))
            yield _case(f"{key} is {name}", change, memory=2 * GB)
    yield _case(
        "a key is a tuple that doubles 26 times",
        of_content(lambda x: x.__setitem__(pickles.laughs(26), 1)),
        memory=2 * GB,
    )


def _payloads() -> Iterator[Case]:
    for name in pickles.PAYLOADS:
        for place in ("top", "metrics", "key of a dictionary", "training"):
            for legacy in (False, True) if place == "metrics" else (False,):

                def make(data: bytes, name=name, place=place, legacy=legacy) -> bytes:
                    import io

                    import torch

                    payload = pickles.payloads()[name]
                    content = torch.load(io.BytesIO(data), weights_only=True)
                    if place == "top":
                        content = payload
                    elif place == "key of a dictionary":
                        content[payload] = 1
                    else:
                        content[place] = {"x": payload}
                    return pickles.saved(content, legacy)

                old = ", before zip" if legacy else ""
                yield _case(f"calls {name}: {place}{old}", of_bytes(make), check=pickles.executed)
    for command in COMMANDS:

        def lay(folder: Path, originals: Originals, command=command) -> tuple[object, ...]:
            content = pickles.loaded(originals.weights)
            content["metrics"] = pickles.payloads()["os.system"]
            (folder / NAME).write_bytes(pickles.saved(content))
            return commands(originals)[command]

        yield _case(f"calls os.system: {command}", lay, check=pickles.executed)


KEYS = (
    *("format", "tool_version", "model_name", "model", "dataset", "classes", "palette", "ignore"),
    *("mean_rgb", "scale", "epoch", "metrics", "recipe", "training"),
)
_MAY_BE_EMPTY = ("metrics", "recipe", "training", "activation_ranges", "dilations")
_RIGHT = {  # kinds of damage.WRONG that are right values
    "tool_version": ("text",),
    "dataset": ("text",),  # of a data set that a plug-in brings
    "metrics": (),
    "recipe": (),
}


def _garbled() -> Iterator[Case]:
    chooser = random.Random(0)
    for key in KEYS:
        drop = of_content(lambda x, key=key: x.__delitem__(key))
        yield _case(f"without {key}", drop)
        for kind in chooser.sample(sorted(WRONG), 5):
            value = WRONG[kind]
            change = of_content(lambda x, key=key, value=value: x.__setitem__(key, value))
            # {"a": 1} is a metric, and an option of a recipe that only --resume reads.
            harmless = kind in _RIGHT.get(key, ()) or (kind == "an object" and key in _MAY_BE_EMPTY)
            yield _case(f"{key} is {kind}", change, EITHER if harmless else REFUSED)
        tensor = of_content(lambda x, key=key: x.__setitem__(key, _ones(2)))
        yield _case(f"{key} is a tensor", tensor)
        none = of_content(lambda x, key=key: x.__setitem__(key, type(x[key])()))
        empty = EITHER if key in (*_MAY_BE_EMPTY, "tool_version", "epoch", "dataset") else REFUSED
        yield _case(f"{key} is empty or 0", none, empty)
    for key in ("activation_ranges", "dilations"):
        for kind, value in WRONG.items():
            change = of_content(lambda x, key=key, value=value: x.__setitem__(key, value))
            yield _case(f"{key} is {kind}", change)
    yield _case("a key of a later version", of_content(lambda x: x.__setitem__("later", 1)))
    yield _case("a number as a key", of_content(lambda x: x.__setitem__(5, 5)))
    yield _case("a list at the top", of_content(lambda x: [x]))
    yield _case("a tensor at the top", of_content(lambda _: _ones(3)))
    yield _case("a number at the top", of_content(lambda _: 5))
    for number in (0, 2, 999, -1, 2**70):
        later = of_content(lambda x, number=number: x.__setitem__("format", number))
        yield _case(f"format {number}", later)


def _ones(count: int) -> Any:
    import torch

    return torch.ones(count)


def _described() -> Iterator[Case]:
    """Values of the right type and a wrong range or length, by the command that uses them."""
    wrong: dict[str, tuple[str, Any]] = {
        "2 colours": ("palette", [[1, 2, 3]] * 2),
        "12 colours": ("palette", [[1, 2, 3]] * 12),
        "colours above 255": ("palette", [[256, 0, 3]] * 11),
        "colours below 0": ("palette", [[0, 0, -1]] * 11),
        "colours of fractions": ("palette", [[0.5, 1, 2]] * 11),
        "colours of 4 values": ("palette", [[1, 2, 3, 4]] * 11),
        "a class that is ignored": ("ignore", 3),
        "ignore 256": ("ignore", 256),
        "classes of numbers": ("classes", list(range(11))),
        "classes in one text": ("classes", "abcdefghijk"),
        "one class 11 times": ("classes", ["road"] * 11),
        "classes of control characters": ("classes", [f"\x1b[31mc{i}\r\n\x07" for i in range(11)]),
        "classes of half surrogate pairs": ("classes", [f"\udc80{i}" for i in range(11)]),
        "classes that turn text": ("classes", [f"\u202e{i}" for i in range(11)]),
        "classes of spaces": ("classes", [" " * i for i in range(11)]),
        "classes of 1000 characters": ("classes", [f"{i}" * 1000 for i in range(11)]),
        "no classes": ("classes", []),
        "10 classes": ("classes", list("abcdefghij")),
        "300 classes": ("classes", [f"c{i}" for i in range(300)]),
        "a mean of NaN": ("mean_rgb", (float("nan"),) * 3),
        "a mean of 4": ("mean_rgb", (1.0,) * 4),
        "a mean of 2": ("mean_rgb", (1.0,) * 2),
        "a mean of texts": ("mean_rgb", ("1", "2", "3")),
        "a mean of 1e308": ("mean_rgb", (1e308,) * 3),
        "a scale of 0": ("scale", (0.0, 1.0, 1.0)),
        "a scale of infinity": ("scale", (float("inf"),) * 3),
        "a scale of 1": ("scale", (1.0,)),
        "another network": ("model_name", "unet"),
        "a network in a path": ("model_name", "../dabnet"),
        "epoch 10**30": ("epoch", 10**30),
        "metrics of texts": ("metrics", {"val_miou": "high"}),
        "metrics of NaN": ("metrics", {"val_miou": float("nan")}),
        "metrics in metrics": ("metrics", {"a": {"b": 1}}),
        "metrics of control characters": ("metrics", {"\x1b[31m": 1.0}),
        "a metric of a long name": ("metrics", {"x" * 5000: 1.0}),
        "ranges of no convolution": ("activation_ranges", {"x": 1.0}),
        "ranges of NaN": ("activation_ranges", {"x": float("nan")}),
        "2 dilations": ("dilations", [1, 2]),
        "dilations of 0": ("dilations", [0] * 9),
        "dilations of 10**9": ("dilations", [10**9] * 9),
    }
    for name, (key, value) in wrong.items():
        words = INSPECT if len(name) % 2 else EXPORT  # half of them each
        yield _case(name, of_content(lambda x, k=key, v=value: x.__setitem__(k, v), words))
    markup = of_content(lambda x: x.update(classes=[f"[/red]{i}[bold" for i in range(11)]))
    yield _case("classes in brackets", markup, FINE)
    # The data set is a name: its classes are those that the file says.
    other = of_content(lambda x: x.__setitem__("dataset", "cityscapes"))
    yield _case("another data set", other, FINE)


def _weights() -> Iterator[Case]:
    def first(change: Callable[[Any], Any], words: tuple[object, ...]) -> Lay:
        return of_content(lambda x: x["model"].__setitem__(FIRST, change(x["model"][FIRST])), words)

    wrong: dict[str, Callable[[Any], Any]] = {
        "NaN": lambda x: x * float("nan"),
        "infinite": lambda x: x / 0,
        "infinite in float32": lambda x: x.double() + 1e39,
        "int64": lambda x: x.long(),
        "int8": lambda x: x.char(),
        "complex": lambda x: x.cfloat(),
        "bool": lambda x: x > 0,
        "sparse": lambda x: x.to_sparse(),
        "compressed rows": lambda x: x.flatten(1).to_sparse_csr(),
        "on no device": lambda x: x.to("meta"),
        "quantised": _quantised,
        "one value repeated": lambda x: x[:1, :1, :1, :1].expand(x.shape),
        "2**40 zeros in 4 bytes": lambda _: _ones(1).expand(1 << 40),
        "of another shape": lambda x: x[1:],
        "turned": lambda x: x.flatten(),
        "a scalar": lambda x: x.sum(),
        "empty": lambda x: x[:0],
        "None": lambda _: None,
        "a number": lambda _: 1.0,
        "a list": lambda x: x.tolist(),
        "a numpy array": lambda x: x.numpy(),
    }
    for name, change in wrong.items():
        for words in (INSPECT, SUMMARY):
            # Those that torch saves with all of the storage that they are a view of are in full.
            expected = EITHER if name == "one value repeated" else REFUSED
            yield _case(f"weights {name}, {words[1].strip('-')}", first(change, words), expected)
    same: dict[str, Callable[[Any], Any]] = {
        "float64": lambda x: x.double(),
        "float16": lambda x: x.half(),
        "bfloat16": lambda x: x.bfloat16(),
        "in another order of memory": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
        "that want gradients": lambda x: x.clone().requires_grad_(),
        "zero": lambda x: x * 0,
    }
    for name, change in same.items():
        yield _case(f"weights {name}", first(change, INSPECT), FINE)
    state: dict[str, Callable[[dict[str, Any]], Any]] = {
        "a negative variance": lambda x: x[VARIANCE].neg_(),
        "a counter of a fraction": lambda x: x.__setitem__(COUNTER, _ones(1)[0]),
        "a tensor less": lambda x: x.__delitem__(FIRST),
        "a tensor more": lambda x: x.__setitem__("more.weight", _ones(1)),
        "tensors without names": lambda x: x.update({5: _ones(1)}),
        "names in the state": lambda x: x.update(name="dabnet"),
        "a state in the state": lambda x: x.update(inner=copy.copy(x)),
        "nothing": lambda x: x.clear(),
    }
    for name, alter in state.items():
        for words in (INSPECT, EXPORT):

            def change_state(content: dict[str, Any], alter=alter) -> None:
                alter(content["model"])

            lay = of_content(change_state, words)
            yield _case(f"state of {name}, {words[1]}", lay)


def _quantised(tensor: Any) -> Any:
    import torch

    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)
