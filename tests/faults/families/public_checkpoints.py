"""Checkpoints that other trainers wrote, of networks of ours and of others."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults import pickles
from tests.faults.case import EITHER, FINE, GB, REFUSED, Case, Expected, Lay
from tests.faults.damage import cut, flipped
from tests.faults.originals import SIZE, Originals

FAMILY = "public checkpoint"
NAME = "m.pth"
FIRST, HEAD = "init_conv.0.conv.weight", "classifier.0.conv.weight"

INSPECT = ("dabnet-export", "inspect", NAME, "--dataset", "camvid")
EXPORT = ("dabnet-export", "onnx", NAME, "--dataset", "camvid", "--size", SIZE, "-o", "o.onnx")

State = dict[str, Any]


def of_state(
    content: Callable[[State], object], words: tuple[object, ...] = INSPECT, legacy: bool = False
) -> Lay:
    """``content`` makes what a trainer would save of the tensors of a network."""

    def lay(folder: Path, originals: Originals) -> tuple[object, ...]:
        state = pickles.loaded(originals.weights)["model"]
        (folder / NAME).write_bytes(pickles.saved(content(state), legacy))
        return words

    return lay


def of_bytes(change: Callable[[bytes], bytes], legacy: bool = False) -> Lay:
    def lay(folder: Path, originals: Originals) -> tuple[object, ...]:
        state = pickles.loaded(originals.weights)["model"]
        (folder / NAME).write_bytes(change(pickles.saved({"epoch": 3, "model": state}, legacy)))
        return INSPECT

    return lay


def cases() -> Iterator[Case]:
    yield from _forms()
    yield from _damaged()
    yield from _states()
    yield from _weights()
    yield from _hostile()
    yield from _given()


def _case(name: str, lay: Lay, expected: Expected = REFUSED, **more: Any) -> Case:
    return Case(FAMILY, name, lay, expected, **more)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _forms() -> Iterator[Case]:
    """What trainers write."""
    for prefix in ("", "module.", "_orig_mod.", "model.", "module._orig_mod.", "net.backbone."):
        for key in ("", "model", "net", "state_dict", "model_state_dict"):
            make = lambda x, p=prefix, k=key: {k: prefixed(x, p)} if k else prefixed(x, p)  # noqa: E731
            if prefix and key not in ("", "state_dict"):
                continue
            yield _case(f"prefix {prefix or 'none'}, key {key or 'none'}", of_state(make), FINE)
    yield _case("before zip", of_state(lambda x: {"model": x}, legacy=True), FINE)
    yield _case("exported", of_state(lambda x: {"model": x}, EXPORT), FINE)
    beside: dict[str, Callable[[], Any]] = {
        "a numpy float64": lambda: _numpy().float64(0.64),
        "a numpy float32": lambda: _numpy().float32(0.64),
        "a numpy int64": lambda: _numpy().int64(3),
        "a numpy bool": lambda: _numpy().bool_(True),
        "a numpy array": lambda: _numpy().array([0.1, 0.2]),
        "a numpy array of texts": lambda: _numpy().array(["a", "b"]),
        "an optimiser": _optimiser,
        "a set": lambda: {1, 2},
        "a complex number": lambda: 1j,
        "NaN": lambda: float("nan"),
        "a long number": lambda: 10**60,
        "a key in brackets": lambda: {"[/red]": "[bold]"},
        "control characters": lambda: {"\x1b[31m": "\x07"},
    }
    for name, value in beside.items():
        make = lambda x, value=value: {"epoch": 3, "model": x, "beside": value()}  # noqa: E731
        yield _case(f"beside it {name}", of_state(make), FINE)
    import argparse
    from collections import defaultdict

    for name, other in {
        "options": lambda: argparse.Namespace(lr=1e-3),
        "a defaultdict": lambda: defaultdict(list, a=[1]),
        "a path": lambda: Path("x"),
        "a bytearray": lambda: bytearray(5),
    }.items():
        make = lambda x, other=other: {"model": x, "beside": other()}  # noqa: E731
        yield _case(f"beside it {name}", of_state(make))
    for epoch in (-1, 10**30, 1.5, "ten", None, float("nan"), True):
        odd = of_state(lambda x, epoch=epoch: {"model": x, "epoch": epoch})
        yield _case(f"epoch {str(epoch)[:5]}", odd, FINE)  # only a whole number is shown


def _numpy() -> Any:
    import numpy

    return numpy


def _optimiser() -> Any:
    import torch

    return torch.optim.Adam(torch.nn.Linear(2, 2).parameters()).state_dict()


def _damaged() -> Iterator[Case]:
    for legacy in (False, True):
        old = ", before zip" * legacy
        for place in (10, 100, 0.1, 0.3, 0.6, 0.9, 0.9999):
            lay = of_bytes(lambda data, place=place: cut(data, place), legacy)
            yield _case(f"cut at {place}{old}", lay)
        for seed in range(8):
            lay = of_bytes(lambda data, seed=seed: flipped(data, seed, 300), legacy)
            # Files before zip have no check sums: weights that stay finite are weights.
            yield _case(f"300 bits flipped, {seed}{old}", lay, EITHER if legacy else REFUSED)
    for seed in range(4):

        def one(data: bytes, seed=seed) -> bytes:
            middle = len(data) // 2
            return (
                data[:middle] + flipped(data[middle : middle + 1000], seed) + data[middle + 1000 :]
            )

        # Between two tensors there is padding.
        yield _case(f"a bit of a weight flipped, {seed}", of_bytes(one), EITHER)


def _states() -> Iterator[Case]:
    import itertools

    wrong: dict[str, Callable[[State], object]] = {
        "nothing": lambda _: {},
        "an empty state": lambda _: {"model": {}},
        "no state": lambda _: {"model": None, "epoch": 3},
        "texts": lambda _: {"model": {"a": "b"}},
        "a tensor less": lambda x: {k: v for k, v in x.items() if k != FIRST},
        "half of the tensors": lambda x: dict(itertools.islice(x.items(), 100)),
        "no head": lambda x: {k: v for k, v in x.items() if k != HEAD},
        "a head without sides": lambda x: x | {HEAD: x[HEAD].sum()},
        "a head of 12": lambda x: x | {HEAD: _zeros(12, 259, 1, 1)},
        "a head of 4": lambda x: x | {HEAD: x[HEAD][:4]},
        "a head of 0": lambda x: x | {HEAD: x[HEAD][:0]},
        "a head of 5 sides": lambda x: x | {HEAD: x[HEAD][None]},
        "another network": lambda _: {"0.weight": _zeros(8, 3, 3, 3), "0.bias": _zeros(8)},
        "a network of ultralytics": lambda _: {
            "model.0.conv.weight": _zeros(8),
            "model.2.cv1.conv.weight": _zeros(8),
        },
        "names of control characters": lambda _: {f"\x1b[31m{i}\x07": _zeros(1) for i in range(9)},
        "names of half surrogate pairs": lambda _: {f"\ud800{i}": _zeros(1) for i in range(9)},
        "names in brackets": lambda _: {f"[/red]{i}": _zeros(1) for i in range(9)},
        "names of 100000 characters": lambda _: {"x" * 100_000: _zeros(1)},
        "names of 100000 dots": lambda _: {"." * 100_000 + str(i): _zeros(1) for i in range(9)},
        "20000 names of 100 parts": lambda _: {
            "a." * 100 + str(i): 1 if i % 100 else _zeros(1) for i in range(20_000)
        },
        "numbers for names": lambda x: dict(enumerate(x.values())),
        "a list of states": lambda x: [x],
        "an optimiser alone": lambda _: _optimiser(),
    }
    for name, content in wrong.items():
        yield _case(name, of_state(content))
    yield _case("two states", of_state(lambda x: {"model": x, "ema": x}), FINE)
    both = of_state(lambda x: x | prefixed(x, "module."))
    yield _case("one state with and without a prefix", both, EITHER)
    nested = of_state(lambda x: {"a": {"b": {"c": {"d": x}}}})
    yield _case("a state 4 deep", nested, EITHER)  # looked for 3 deep


def _zeros(*shape: int) -> Any:
    import torch

    return torch.zeros(*shape)


def _weights() -> Iterator[Case]:
    wrong: dict[str, Callable[[Any], Any]] = {
        "NaN": lambda x: x * float("nan"),
        "infinite": lambda x: x / 0,
        "infinite in float32": lambda x: x.double() + 1e39,
        "whole numbers": lambda x: x.long(),
        "int8": lambda x: x.char(),
        "complex": lambda x: x.cfloat(),
        "bool": lambda x: x > 0,
        "sparse": lambda x: x.to_sparse(),
        "on no device": lambda x: x.to("meta"),
        "one value repeated": lambda x: x[:1, :1, :1, :1].expand(x.shape),
        "2**40 zeros in 4 bytes": lambda _: _zeros(1).expand(1 << 40),
        "numpy": lambda x: x.numpy(),
    }
    for name, change in wrong.items():
        for what, words in {
            "inspect": INSPECT,
            "onnx": EXPORT,
            "init": ("dabnet-train", "--init", NAME, "--summary"),
        }.items():
            make = lambda x, change=change: {"model": x | {FIRST: change(x[FIRST])}}  # noqa: E731
            # Those that torch saves with all of the storage that they are a view of are in full.
            # --summary reads which network it is of, not whether a tensor is missing.
            harmless = name == "one value repeated" or (name, what) == ("numpy", "init")
            expected = EITHER if harmless else REFUSED
            yield _case(f"weights {name}, {what}", of_state(make, words), expected)
    for dtype in ("float16", "float64", "bfloat16"):

        def cast(state: State, dtype=dtype) -> State:
            import torch

            kind = getattr(torch, dtype)
            return {k: x.to(kind) if x.is_floating_point() else x for k, x in state.items()}

        yield _case(f"weights {dtype}", of_state(cast), FINE)


def _hostile() -> Iterator[Case]:
    for name in pickles.PAYLOADS:
        make = lambda x, name=name: {"model": x, "args": pickles.payloads()[name]}  # noqa: E731
        yield _case(f"calls {name}", of_state(make), check=pickles.executed)
    bare = of_bytes(lambda _: pickle.dumps(pickles.payloads()["os.system"], 0))
    yield _case("a pickle of protocol 0 calls os.system", bare, check=pickles.executed)
    key = of_state(_with_key)
    yield _case("a key is a tuple that doubles 20 times", key, memory=2 * GB)
    many = of_state(lambda _: {f"k{i}": 1 for i in range(10**6)})
    yield _case("a million keys", many, memory=2 * GB)

    def large(data: bytes) -> bytes:
        return pickles.bomb(pickles.records(data), "data/0", 6 * GB)

    yield _case("a tensor unpacks to 6 GB", of_bytes(large), memory=GB, seconds=60)


def _with_key(state: State) -> dict[Any, Any]:
    return {"model": state, pickles.laughs(20): 1}


def _given() -> Iterator[Case]:
    """What is said of a file, and does not fit it."""
    for words in (
        (),
        ("--dataset", "cityscapes"),
        ("--dataset", "camvid", "--model", "enet"),
        ("--dataset", "camvid", "--void", "last"),
        ("--dataset", "camvid", "--dilations", "1,2"),
        ("--dataset", "camvid", "--dilations", "0,0,0,0,0,0,0,0,0"),
        ("--dataset", "camvid", "--scale", "1,1,1"),
        ("--dataset", "camvid", "--mean", "1,1,1", "--scale", "0,1,1"),
        ("--dataset", "camvid", "--mean", "nan,1,1"),
        ("--dataset", "camvid", "--mean", "1e30,1,1"),
        ("--classes", "missing.txt"),
        ("--classes", NAME),
    ):
        lay = of_state(lambda x: {"model": x}, ("dabnet-export", "inspect", NAME, *words))
        yield _case(f"with {' '.join(words) or 'nothing said'}", lay)
