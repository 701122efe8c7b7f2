"""Accuracy of training recipes on streets that they did not see, for equal numbers of images.

    python studies/recipes.py --data-dir path/to/camvid --output runs/recipes -- --amp bf16

Each recipe trains once per fold and number of images: a driving sequence of the training split is
held out, and the last state is scored on it. Neither val nor test is read. Several ``--images``
show what more epochs would give, each by runs with a schedule of their own. What comes after ``--``
are options of dabnet-train for all runs. A study that was stopped goes on where it was; further
recipes and numbers of images are added to it.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import click
import study

from dabnet.console import CONTEXT, FILE, progress_bar, run
from dabnet.data.file_pairs import FilePairs
from dabnet.data.registry import open_dataset
from dabnet.errors import DabnetError, InputError
from dabnet.files import write_text
from dabnet.training.folder import LAST

DRAWN = Path(__file__).parents[1] / "weights" / "dabnet_toy_street.pth"
RECIPES = {
    "paper": "",
    "light": "--colour-jitter 0.4",
    "strong-light": "--colour-jitter 0.8",
    "scales": "--colour-jitter 0.4 --scales 0.5,0.75,1,1.25,1.5,1.75,2",
    "smoothing": "--colour-jitter 0.4 --label-smoothing 0.1",
    "ohem": "--colour-jitter 0.4 --loss ohem",
    "ema": "--colour-jitter 0.4 --ema 0.99",
    "cosine": "--colour-jitter 0.4 --schedule cosine",
    "no-norm-decay": "--colour-jitter 0.4 --no-norm-decay",
    "rare-crops": "--colour-jitter 0.4 --rare-crops 0.5",
    "auxiliary": "--colour-jitter 0.4 --auxiliary 0.4",
    "drawn-streets": f"--colour-jitter 0.4 --init {DRAWN}",
    "batch-32": "--colour-jitter 0.4 --batch-size 32 --lr 2e-3",
}
"""What each changes in the paper's recipe, in options of dabnet-train; the first is the
reference."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One sequence held out, and the number of images that are left to train on."""

    sequence: str
    images: int


def folds_of(dataset: str, data_dir: Path) -> list[Fold]:
    """Return a fold per sequence of the training split."""
    split = open_dataset(dataset, "train", data_dir)
    if not isinstance(split, FilePairs):
        raise InputError(f"--dataset {dataset}", "a data set of files with sequences")
    return [Fold(name, len(split.without(name)[0])) for name in sorted(set(split.sequences()))]


OPTIONS = "options.json"
"""In the folder of a study: what all its runs share."""
OWN = (
    *("--data-dir", "--dataset", "--fold", "--max-epochs", "--output", "--recipe", "--resume"),
    *("--split", "--train-type"),
)
"""Options of dabnet-train that the study sets, and those that would change what it scores."""


def check_options(output: Path, shared: Sequence[str]) -> None:
    """Raise ``InputError`` if options are the study's own, or differ from those of its runs."""
    for word in shared:
        if word.partition("=")[0].replace("_", "-") in OWN:
            raise InputError(f"{word} after --", "options that the study does not set itself")
    kept = output / OPTIONS
    if not kept.exists():
        return
    try:
        before = json.loads(kept.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if before != [*shared]:
        told = (
            " ".join(map(str, before)) or "none" if isinstance(before, list) else "a list in JSON"
        )
        given = f"other options than {str(kept)!r} holds"
        raise InputError(given, told, "or name another --output")


def train(folder: Path, words: Sequence[str], recipe: Sequence[str]) -> float:
    """Train in ``folder``, or go on there; return the last validation mIoU, 0…1.

    A run that goes on has its ``recipe`` from its state.
    """
    begun = (folder / LAST).exists()
    start = ["--resume", str(folder)] if begun else ["--output", str(folder), *recipe]
    command = [sys.executable, "-m", "dabnet.cli", *words, *start]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise DabnetError(
            f"dabnet-train {' '.join([*words, *start])} ended with {done.returncode}",
            "a run that finishes",
            (done.stderr.strip().splitlines() or ["it said nothing"])[-1],
        )
    with (folder / "log.csv").open(newline="") as stream:
        return float(list(csv.DictReader(stream))[-1]["val_miou"])


@dataclass(frozen=True, slots=True)
class Scores:
    """What a recipe reached after so many images: mIoU, 0…1, of each fold."""

    recipe: str
    images: int
    miou: list[float]


def table(scores: Sequence[Scores], folds: Sequence[Fold]) -> str:
    """Return the scores as Markdown, in points of mIoU.

    Gains are over the first recipe after as many images, paired by fold.
    """
    references: dict[int, Scores] = {}
    rows = []
    for own in scores:
        reference = references.setdefault(own.images, own)
        gains = [100 * (a - b) for a, b in zip(own.miou, reference.miou, strict=True)]
        spread = f"{mean(gains):+.1f} [{min(gains):+.1f}, {max(gains):+.1f}]"
        points = [*own.miou, mean(own.miou)]
        rows.append([own.recipe, f"{own.images:,}", *(f"{100 * score:.1f}" for score in points)])
        rows[-1] += ["reference" if own is reference else spread]
    sequences = [fold.sequence for fold in folds]
    gain = "gain, mean [minimum, maximum] of the folds"
    return study.markdown(["recipe", "images", *sequences, "mean", gain], rows)


@click.command(context_settings=CONTEXT, help=__doc__.split("\n\n", 1)[0])
@click.option("--dataset", type=click.Choice(["camvid", "cityscapes"]), default="camvid")
@click.option("--data-dir", type=FILE, required=True)
@click.option("--output", type=FILE, required=True, help="Folder of the runs.")
@click.option(
    "--images",
    "counts",
    type=click.IntRange(1),
    multiple=True,
    default=[6000],
    show_default=True,
    help="Seen by a run; several make runs of each.",
)
@click.option(
    "--recipe",
    "names",
    type=click.Choice(list(RECIPES)),
    multiple=True,
    help="[default: all; the first is the reference]",
)
@study.record_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def main(
    dataset: str,
    data_dir: Path,
    output: Path,
    counts: Sequence[int],
    names: Sequence[str],
    record: Path | None,
    words: Sequence[str],
) -> None:
    folds, names = folds_of(dataset, data_dir), list(dict.fromkeys(names or RECIPES))
    check_options(output, words)
    scores = [Scores(name, images, []) for images in dict.fromkeys(counts) for name in names]
    with progress_bar("training", len(scores) * len(folds), unit="runs") as step:
        for own in scores:
            for fold in folds:
                shared = ["--dataset", dataset, "--data-dir", str(data_dir), *words]
                shared += ["--fold", fold.sequence]
                shared += ["--max-epochs", f"{own.images / fold.images:.3f}"]
                folder = output / f"{own.recipe}-{fold.sequence}-{own.images}"
                recipe = ["--recipe", "paper", *RECIPES[own.recipe].split()]
                own.miou.append(train(folder, shared, recipe))
                write_text(output / OPTIONS, json.dumps([*words]) + "\n")
                step()
    click.echo(table(scores, folds))
    facts = f"{dataset} train, {len(folds)} folds by sequence, images seen per run as told"
    content: dict[str, Any] = {"folds": [fold.sequence for fold in folds], "options": [*words]}
    content |= {"recipes": {name: RECIPES[name] for name in names}}
    content |= {"scores": [asdict(own) for own in scores]}
    study.conclude(facts + (f"; {' '.join(words)}" if words else ""), record, content)


if __name__ == "__main__":
    run(main)
