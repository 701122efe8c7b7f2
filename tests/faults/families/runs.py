"""Folders of runs that somebody continues: damaged, garbled or of another run."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults import pickles
from tests.faults.case import EITHER, FINE, GB, REFUSED, Case, Expected, Lay
from tests.faults.damage import WRONG, cut, flipped
from tests.faults.originals import Originals

FAMILY = "run"
CHANGES = ("run/events.out.*", "run/*.csv", "run/*.png", "run/last.pth", "run/previous.pth")


def of_run(change: Callable[[Path], object], previous: bool = False) -> Lay:
    """``change`` damages ``last.pth``, which is of the third epoch of four."""

    def lay(folder: Path, originals: Originals) -> tuple[object, ...]:
        run = folder / "run"
        shutil.copytree(originals.run, run)
        shutil.copy(run / "previous.pth", run / "last.pth")
        if not previous:
            (run / "previous.pth").unlink()
        change(run / "last.pth")
        return "dabnet-train", "--resume", "run", "--data-dir", originals.data, *_quick(originals)

    return lay


def _quick(originals: Originals) -> tuple[object, ...]:
    return "--cache-dir", originals.folder / "cache", "--no-tensorboard"


def of_content(change: Callable[[dict[str, Any]], object]) -> Lay:
    """``change`` alters what ``last.pth`` holds."""

    def alter(path: Path) -> None:
        content = pickles.loaded(path)
        change(content)
        path.write_bytes(pickles.saved(content))

    return of_run(alter)


def of_training(change: Callable[[dict[str, Any]], object]) -> Lay:
    return of_content(lambda content: change(content["training"]))


def cases() -> Iterator[Case]:
    yield from _files()
    yield from _states()
    yield from _ranges()
    yield from _recipes()
    yield from _optimisers()
    yield from _starts()
    yield from _classifiers()


def _case(name: str, lay: Lay, expected: Expected = REFUSED, **more: Any) -> Case:
    # A refusal changes no file; a run that goes on, or ends, has written its own.
    changes = CHANGES if expected is not REFUSED else ()
    return Case(FAMILY, name, lay, expected, changes, seconds=60, **more)


def _files() -> Iterator[Case]:
    def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
        def change(path: Path) -> None:
            path.unlink()
            make(path)

        return change

    for place in (0, 50, 0.1, 0.5, 0.95, 0.9999):
        for previous in (False, True):
            how = of_run(
                lambda path, place=place: path.write_bytes(cut(path.read_bytes(), place)), previous
            )
            beside = ", a good one beside it" * previous
            yield _case(f"cut at {place}{beside}", how, FINE if previous else REFUSED)
    for seed in range(8):
        how = of_run(
            lambda path, seed=seed: path.write_bytes(flipped(path.read_bytes(), seed, 300))
        )
        yield _case(f"300 bits flipped, {seed}", how)
    for name, make in {
        "missing": lambda path: None,
        "a directory": Path.mkdir,
        "a FIFO": os.mkfifo,
        "a link to itself": lambda path: path.symlink_to(path.name),
        "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    }.items():
        yield _case(f"{name}", of_run(replaced(make)))
        yield _case(f"{name}, a good one beside it", of_run(replaced(make), previous=True), EITHER)
    best = of_run(lambda path: shutil.copy(path.with_name("best.pth"), path))
    yield _case("best.pth in the place of last.pth", best)
    payload = of_content(lambda x: x.__setitem__("training", pickles.payloads()["os.system"]))
    yield _case("calls os.system", payload, check=pickles.executed)
    laughs = of_training(lambda x: x.__setitem__("history", pickles.laughs(40)))
    yield _case("a history that doubles 40 times", laughs, memory=2 * GB)


STATE = (
    *("iteration", "loss_sum", "best", "history", "seed", "split", "images", "eval_every"),
    *("counts", "data_path", "compile", "channels_last", "version"),
    *("optimiser", "schedule", "scaler", "network", "averaged"),
)
_RIGHT = {  # kinds of damage.WRONG that are right values
    "loss_sum": ("-1", "1.5", "10**30"),
    "best": ("null",),
    "compile": ("true",),
    "channels_last": ("true",),
    "scaler": ("an object",),
}
_RIGHT["network"] = tuple(WRONG)  # not read of a run without an average of weights


def _states() -> Iterator[Case]:
    chooser = random.Random(1)
    for key in STATE:
        lacks = of_training(lambda x, key=key: x.__delitem__(key))
        yield _case(f"without {key}", lacks, EITHER if key == "version" else REFUSED)
        for kind in chooser.sample(sorted(WRONG), 2):
            if kind in _RIGHT.get(key, ()) and key == "compile":
                continue  # which takes minutes
            value = WRONG[kind]
            change = of_training(lambda x, key=key, value=value: x.__setitem__(key, value))
            expected = EITHER if kind in _RIGHT.get(key, ()) else REFUSED
            yield _case(f"{key} is {kind}", change, expected)
        tensor = of_training(lambda x, key=key: x.__setitem__(key, _ones(2)))
        yield _case(f"{key} is a tensor", tensor, EITHER if key == "network" else REFUSED)
    for name, value in {"{}": {}, "None": None, "a text": "x", "a list": [1]}.items():
        whole = of_content(lambda x, value=value: x.__setitem__("training", value))
        yield _case(f"the state is {name}", whole)
    # A value that is not of the state is not read.
    yield _case("a later key", of_training(lambda x: x.__setitem__("later", 1)), EITHER)


def _ones(count: int) -> Any:
    import torch

    return torch.ones(count)


def _ranges() -> Iterator[Case]:
    wrong: dict[str, tuple[str, Any]] = {
        "iteration -5": ("iteration", -5),
        "iteration 1": ("iteration", 1),
        "iteration 10**9": ("iteration", 10**9),
        "iteration 2**70": ("iteration", 2**70),
        "best 61": ("best", 61.0),
        "seed -1": ("seed", -1),
        "seed 2**32": ("seed", 2**32),
        "images 0": ("images", 0),
        "images 9": ("images", 9),
        "eval_every 0": ("eval_every", 0),
        "another split": ("split", "test"),
        "a split in a path": ("split", "../train"),
        "another data path": ("data_path", "gpu"),
        "version 1": ("version", 1),
        "version 99": ("version", 99),
        "a history of texts": ("history", ["a"]),
        "a history of empty rows": ("history", [{}]),
        "a history of a later row": ("history", [{"epoch": 9, "iteration": 900}]),
        "a history of NaN": ("history", [{"epoch": 1, "iteration": 4, "loss": float("nan")}]),
        "a history of mIoU 5": ("history", [{"epoch": 1, "iteration": 4, "val_miou": 5.0}]),
        "a history turned": (
            "history",
            [{"epoch": 2, "iteration": 8}, {"epoch": 1, "iteration": 4}],
        ),
    }
    for name, (key, value) in wrong.items():
        yield _case(name, of_training(lambda x, k=key, v=value: x.__setitem__(k, v)))
    counts: dict[str, dict[str, Any]] = {
        "counts of 3 classes": {"class_pixels": [1, 2, 3]},
        "counts below 0": {"class_pixels": [-1] * 11},
        "counts of NaN": {"class_pixels": [float("nan")] * 11},
        "counts of 2**63": {"class_pixels": [2**63 - 1] * 11},
        "more labels than pixels": {"pixels": 1},
        "sums of 4 colours": {"colour_sum": [1, 2, 3, 4]},
        "colours above 255": {"colour_sum": [2**40] * 3},
        "no sums of colours": {"colour_sum": []},
    }
    for name, change in counts.items():
        yield _case(name, of_training(lambda x, change=change: x["counts"].update(change)))


RECIPE = (
    *("input_size", "batch_size", "max_epochs", "optimizer", "lr", "momentum", "weight_decay"),
    *("norm_decay", "loss", "label_smoothing", "rarity", "auxiliary", "teacher_share"),
    *(
        "schedule",
        "poly_power",
        "warmup_iterations",
        "scales",
        "rare_crops",
        "colour_jitter",
        "amp",
    ),
    *("ema", "sync_bn", "stage"),
)


def _recipes() -> Iterator[Case]:
    chooser = random.Random(2)
    for key in RECIPE:
        for kind in chooser.sample(sorted(set(WRONG) - {"1.5", "true", "-1"}), 2):
            value = WRONG[kind]
            change = of_content(lambda x, k=key, v=value: x["recipe"].__setitem__(k, v))
            yield _case(f"recipe.{key} is {kind}", change)
    wrong: dict[str, tuple[str, Any]] = {
        "batch_size 0": ("batch_size", 0),
        "batch_size 10**9": ("batch_size", 10**9),
        "max_epochs 10**30": ("max_epochs", 10**30),
        "max_epochs 0": ("max_epochs", 0),
        "max_epochs 0.1": ("max_epochs", 0.1),
        "input_size 0x0": ("input_size", [0, 0]),
        "input_size 10**9": ("input_size", [8 * 10**9] * 2),
        "input_size of 3": ("input_size", [64, 64, 64]),
        "input_size 63x64": ("input_size", [63, 64]),
        "lr 1000": ("lr", 1000.0),
        "no scales": ("scales", []),
        "scales 1000": ("scales", [1000.0]),
        "an unknown key": ("bogus", 1),
        "no classifier": ("stage", "classifier"),
    }
    for name, (key, value) in wrong.items():
        change = of_content(lambda x, k=key, v=value: x["recipe"].__setitem__(k, v))
        yield _case(f"recipe: {name}", change)
    yield _case("recipe: none", of_content(lambda x: x["recipe"].clear()))


def _optimisers() -> Iterator[Case]:
    """The state of Adam and of the schedule."""

    def of_moments(change: Callable[[dict[str, Any]], object]) -> Lay:
        return of_training(lambda x: change(x["optimiser"]["state"][0]))

    wrong: dict[str, Callable[[Any], Any]] = {
        "of another shape": lambda x: x[:1],
        "NaN": lambda x: x * float("nan"),
        "infinite": lambda x: x / 0,
        "of whole numbers": lambda x: x.long(),
        "complex": lambda x: x.cfloat(),
        "None": lambda _: None,
        "a text": lambda _: "x",
        "a scalar": lambda x: x.sum(),
    }
    for key in ("exp_avg", "exp_avg_sq"):
        for name, change in wrong.items():
            make = of_moments(lambda x, k=key, c=change: x.__setitem__(k, c(x[k])))
            yield _case(f"{key} {name}", make)
        yield _case(f"without {key}", of_moments(lambda x, key=key: x.__delitem__(key)))
    yield _case("squares below 0", of_moments(lambda x: x["exp_avg_sq"].fill_(-1.0)))
    yield _case("steps below 0", of_moments(lambda x: x["step"].fill_(-1.0)))
    yield _case("steps that are a number", of_moments(lambda x: x.__setitem__("step", 5)))
    yield _case("another moment", of_moments(lambda x: x.__setitem__("third", _ones(1))))
    others: dict[str, Callable[[dict[str, Any]], object]] = {
        "an empty optimiser": lambda x: x["optimiser"].clear(),
        "an optimiser without moments": lambda x: x["optimiser"]["state"].clear(),
        "moments of weight 9999": lambda x: x["optimiser"]["state"].update({9999: {}}),
        "moments of weight -1": lambda x: x["optimiser"]["state"].update({-1: {}}),
        "moments of a name": lambda x: x["optimiser"]["state"].update({"a": {}}),
        "moments in a list": lambda x: x["optimiser"].update(state=[1]),
        "a schedule at another iteration": lambda x: x["schedule"].update(last_epoch=3),
        "a schedule at a text": lambda x: x["schedule"].update(last_epoch="x"),
        "an empty schedule": lambda x: x["schedule"].clear(),
        "averages of no weights": lambda x: x.update(averaged=7),
    }
    for name, alter in others.items():
        yield _case(name, of_training(alter))
    # The recipe decides the rest of the optimiser and of the schedule: it is not read.
    unread: dict[str, Callable[[dict[str, Any]], object]] = {
        "a rate of 10**9": lambda x: x["optimiser"]["param_groups"][0].update(lr=1e9),
        "a rate of a text": lambda x: x["optimiser"]["param_groups"][0].update(lr="x"),
        "no groups of weights": lambda x: x["optimiser"].update(param_groups=[]),
        "a method of the schedule": lambda x: x["schedule"].update(step=5, get_lr=5),
    }
    for name, alter in unread.items():
        yield _case(name, of_training(alter), FINE)
    state: dict[str, Callable[[dict[str, Any]], object]] = {
        "weights NaN": lambda x: next(iter(x["model"].values())).fill_(float("nan")),
        "a weight less": lambda x: x["model"].pop(next(iter(x["model"]))),
    }
    for name, alter in state.items():
        yield _case(name, of_content(alter))


def _starts() -> Iterator[Case]:
    """A checkpoint whose encoder alone is trained, and runs of other options."""

    def of_encoder(*words: object) -> Lay:
        def lay(folder: Path, originals: Originals) -> tuple[object, ...]:
            content = pickles.loaded(originals.weights)
            content["recipe"]["stage"] = "encoder"
            (folder / "m.pth").write_bytes(pickles.saved(content))
            data = ("--data-dir", originals.data, "--output", "o", *originals.tiny)
            return "dabnet-train", *words, *data

        return lay

    yield _case("--init of a decoder that is not trained", of_encoder("--init", "m.pth"))
    yield _case("--qat of a decoder that is not trained", of_encoder("--qat", "m.pth"))
    for words in (
        ("--seed", 5),
        ("--batch-size", 4),
        ("--model", "erfnet"),
        ("--dataset", "cityscapes"),
        ("--lr", 0.5),
        ("--max-epochs", 9),
        ("--dilations", "1,1,1,1,1,1,1,1,1"),
        ("--output", "other"),
        ("--init", "run/best.pth"),
        ("--qat", "run/best.pth"),
        ("--max-minutes", 1),
    ):

        def lay(folder: Path, originals: Originals, words=words) -> tuple[object, ...]:
            return *of_run(lambda _: None)(folder, originals), *words

        other = words[0] == "--output"  # continues in a folder of its own
        yield _case(f"with {words[0]}", lay, EITHER if other else REFUSED)


def _classifiers() -> Iterator[Case]:
    """The last.pth of --stage classifier, whose other values are right."""

    def of_progress(change: Callable[[dict[str, Any]], object]) -> Lay:
        def lay(folder: Path, originals: Originals) -> tuple[object, ...]:
            from dabnet.training.recipes import RECIPES

            progress = {
                "model": "erfnet",
                "recipe": RECIPES["pictures"].to_dict(),
                "seed": 0,
                "classes": ["a", "b"],
                "dilations": [],
                "iteration": 4,
                "best": 0.5,
            }
            content = {"epoch": 1, "state_dict": {}, "pretraining": progress, "training": {"x": 1}}
            change(content)
            (folder / "last.pth").write_bytes(pickles.saved(content))
            words = ("--stage", "classifier", "--resume", "last.pth", "--output", "o")
            return "dabnet-train", *words, "--data-dir", originals.data

        return lay

    chooser = random.Random(3)
    for key in ("model", "recipe", "seed", "classes", "dilations", "iteration", "best"):
        lacks = of_progress(lambda x, key=key: x["pretraining"].__delitem__(key))
        yield _case(f"a classifier without {key}", lacks)
        for kind in chooser.sample(sorted(WRONG), 3):
            value = WRONG[kind]
            change = of_progress(lambda x, k=key, v=value: x["pretraining"].__setitem__(k, v))
            yield _case(f"a classifier whose {key} is {kind}", change)
    for part in ("pretraining", "training", "state_dict"):
        none = of_progress(lambda x, part=part: x.__setitem__(part, None))
        yield _case(f"a classifier whose {part} is None", none)
