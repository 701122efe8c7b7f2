"""Speed of training on each data path, and the share of time that it waits for data.

    python studies/training_speed.py --dataset camvid --data-dir path/to/camvid

The rows take turns in one process, in rounds whose order is drawn anew:

- plain: the usual DataLoader; every image is decoded from its file in each epoch;
- workers: images decoded once and held by the host, augmented one by one (`--data-path workers`);
- device: the data set held by the device, augmented in batches there (`--data-path device`);
- no data: the same batch every time, the maximum that the network and the optimiser allow.

`waits` is the share of the time spent waiting for the next batch. A GPU that augments does so
between its steps, which no waiting shows: `of the maximum` counts that, too. Without --data-dir,
the images are drawn scenes, written as PNG files in CamVid's layout.

With --operators, the rows are ways to compute a step on a CPU, on the same batch every time: with
PyTorch's operators and with ours (`dabnet.training.cpu_operators`), each in float32 and bfloat16,
and compiled.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import study
import torch
from torch import Tensor, nn

from bench.machine.telemetry import CpuWatch
from bench.statistics import paired_ratio
from dabnet.console import CONTEXT, FILE, Size, device_option, progress_bar, run
from dabnet.data.augmentation import Augmentation
from dabnet.data.batches import Batch, BatchOrder, batches
from dabnet.data.dataset import Dataset
from dabnet.data.memory import fits_on, on_host_if_small
from dabnet.data.registry import open_dataset
from dabnet.data.statistics import count_pixels
from dabnet.data.toy_street import write_camvid_tree
from dabnet.device import torch_device
from dabnet.errors import InputError
from dabnet.interrupt import Stop
from dabnet.preprocessing import Preprocessing
from dabnet.training.cpu_operators import PhaseConv2d, QuickPReLU
from dabnet.training.learner import Learner
from dabnet.training.losses import rarity_weights
from dabnet.training.processes import Processes
from dabnet.training.recipes import recipe_for
from dabnet.training.spec import TrainingSpec

MANY_EPOCHS = 10_000
WAYS = {
    "PyTorch's operators": (False, "off", False),
    "ours": (True, "off", False),
    "PyTorch's, bf16": (False, "bf16", False),
    "ours, bf16": (True, "bf16", False),
    "ours, compiled": (True, "off", True),
    "ours, bf16, compiled": (True, "bf16", True),
}
"""Whose operators, ``--amp`` and ``--compile`` of a row; the first is the reference."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One row's turn in one round."""

    seconds: float
    waited: float
    images: int

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


class Rows:
    """The learner that all rows train with, and the batches that each feeds it."""

    def __init__(self, spec: TrainingSpec, dataset: Dataset) -> None:
        self.spec, self.recipe, self.steps_done = spec, spec.recipe, 0
        held, labels = on_host_if_small(dataset), dataset.labels
        with progress_bar("reading the images", len(dataset)) as step:
            counts = count_pixels(held, range(len(dataset)), step)
        self.learner = Learner(
            spec,
            len(labels.classes),
            labels.ignore,
            Preprocessing(counts.mean_rgb),
            rarity_weights(counts.class_share),
            MANY_EPOCHS,
            Processes(),
        )
        red, green, blue = (round(value) for value in counts.mean_rgb)
        self.augmentation = Augmentation(
            self.recipe.input_size, self.recipe.scales, (red, green, blue), labels.ignore
        )
        pixels, truth = next(iter(self._batches("workers", dataset)))
        fixed = pixels.to(spec.device), truth.to(spec.device)
        self.learners: dict[str, Learner] = {}
        self.sources: dict[str, Callable[[], Iterable[Batch]]] = {
            "plain": partial(self._batches, "workers", dataset),
            "workers": partial(self._batches, "workers", held),
        }
        if fits_on(spec.device, dataset):
            self.sources["device"] = partial(self._batches, "device", held)
        self.sources["no data"] = partial(repeat, fixed)

    def compare_operators(self) -> None:
        """Let the rows be ways to compute a step, instead of data paths."""
        fixed, weights = self.sources["no data"], self.learner.criterion.weights
        assert isinstance(weights, Tensor)
        ignore = self.augmentation.ignore
        mean = Preprocessing(tuple(map(float, self.augmentation.fill_rgb)))  # type: ignore[arg-type]
        for name, (ours, amp, compiled) in WAYS.items():
            recipe = dataclasses.replace(self.recipe, amp=amp)
            spec = dataclasses.replace(self.spec, recipe=recipe, compile=compiled)
            learner = Learner(spec, len(weights), ignore, mean, weights, MANY_EPOCHS, Processes())
            if not ours:
                with_pytorch_operators(learner.network)
            self.learners[name] = learner
        self.sources = dict.fromkeys(WAYS, fixed)

    def _batches(self, path: str, dataset: Dataset) -> Iterable[Batch]:
        spec = self.spec
        order = BatchOrder(len(dataset), self.recipe.batch_size, MANY_EPOCHS, spec.seed)
        return batches(
            path, dataset, self.augmentation, order, spec.device, spec.workers, shown=False
        )

    def turn(self, row: str, warm_up: int, steps: int) -> Turn:
        """Train ``steps`` steps on fresh batches of a row, after ``warm_up`` uncounted ones."""
        source, learner = iter(self.sources[row]()), self.learners.get(row, self.learner)
        self._train(learner, islice(source, warm_up))
        start = time.perf_counter()
        waited = self._train(learner, islice(source, steps))
        return Turn(time.perf_counter() - start, waited, steps * self.recipe.batch_size)

    def _train(self, learner: Learner, source: Iterator[Batch]) -> float:
        """Train on all of ``source``; return the seconds in which there was no batch."""
        waited = 0.0
        outcome: Tensor | None = None
        while True:
            asked = time.perf_counter()
            batch = next(source, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            previous, outcome = outcome, learner.step(self.steps_done, *batch, Stop())
            if previous is not None:
                previous.tolist()  # as training does: one step behind
            self.steps_done += 1
        if self.spec.device.type == "cuda":
            torch.cuda.synchronize(self.spec.device)
        return waited


def with_pytorch_operators(network: nn.Module) -> None:
    """Undo ``with_cpu_operators``."""
    for module in network.modules():
        if isinstance(module, QuickPReLU):
            module.__class__ = nn.PReLU  # type: ignore[assignment]
        elif isinstance(module, PhaseConv2d):
            module.__class__ = nn.Conv2d  # type: ignore[assignment]


def table(turns: dict[str, list[Turn]]) -> str:
    """Return the rows as Markdown; the speed-up over the first is paired over rounds."""
    first, maximum = next(iter(turns)), "no data" if "no data" in turns else ""
    seconds = {row: [turn.seconds / turn.images for turn in own] for row, own in turns.items()}
    rates = {row: [turn.images_per_s for turn in own] for row, own in turns.items()}
    cells = []
    for row, own in turns.items():
        middle = median(rates[row])
        waits = sum(turn.waited for turn in own) / sum(turn.seconds for turn in own)
        compared = study.ratio_text(paired_ratio(seconds[first], seconds[row]))
        cells.append([row, f"{middle:.2f} [{min(rates[row]):.2f}, {max(rates[row]):.2f}]"])
        if maximum:
            cells[-1] += [f"{100 * waits:.1f} %", f"{100 * middle / median(rates[maximum]):.0f} %"]
        cells[-1] += ["reference" if row == first else compared]
    headings = ["data path" if maximum else "operators", "images/s, median [minimum, maximum]"]
    headings += ["waits", "of the maximum"] if maximum else []
    return study.markdown([*headings, f"speed to {first} [95 %]"], cells)


@click.command(context_settings=CONTEXT, help=__doc__.split("\n\n", 1)[0])
@click.option("--dataset", type=click.Choice(["camvid", "cityscapes"]), default="camvid")
@click.option("--data-dir", type=FILE, help="[default: drawn scenes]")
@device_option()
@click.option("--input-size", type=Size(), help="[default: the recipe's]")
@click.option("--batch-size", type=int, help="[default: the recipe's]")
@click.option("--amp", type=click.Choice(["off", "bf16", "fp16"]), default="off", show_default=True)
@click.option("--compile", is_flag=True)
@click.option("--channels-last/--no-channels-last", default=True, show_default=True)
@click.option("--num-workers", type=click.IntRange(0), help="[default: 4 with a GPU, 0 without]")
@click.option("--operators", is_flag=True, help="Compare ways to compute, not data paths.")
@click.option("--rounds", type=click.IntRange(2), default=6, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="Per turn.")
@study.record_option
def main(
    dataset: str,
    data_dir: Path | None,
    device: str,
    channels_last: bool,
    compile: bool,
    num_workers: int | None,
    operators: bool,
    rounds: int,
    steps: int,
    record: Path | None,
    **options: Any,
) -> None:
    if data_dir is None and dataset != "camvid":
        raise InputError(f"no --data-dir for {dataset}", "its folder", "or take --dataset camvid")
    chosen = torch_device(device)
    if operators and (chosen.type != "cpu" or compile or options["amp"] != "off"):
        raise InputError(
            "--operators with a GPU, --amp or --compile", "a CPU; the rows have types of their own"
        )
    on_gpu = chosen.type == "cuda"
    spec = TrainingSpec(
        model="dabnet",
        recipe=recipe_for("dabnet", dataset, **options),
        output=Path(),
        device=chosen,
        seed=0,
        eval_every=1,
        workers=num_workers if num_workers is not None else (4 if on_gpu else 0),
        channels_last=channels_last,
        compile=compile,
    )
    with TemporaryDirectory() as folder:
        tree = data_dir or write_camvid_tree(folder, splits={"train": 48, "val": 1})
        rows = Rows(spec, open_dataset(dataset, "train", tree))
        if operators:
            rows.compare_operators()
        turns: dict[str, list[Turn]] = {row: [] for row in rows.sources}
        watch = CpuWatch()
        warm_up = 2 * spec.workers + 2  # as many batches as workers make ahead, and two
        with progress_bar("training", rounds * len(turns), unit="turns") as step:
            for number in range(rounds):
                for row in random.Random(number).sample(list(turns), len(turns)):
                    turns[row].append(rows.turn(row, warm_up, steps))
                    step()
    recipe, foreign = spec.recipe, watch.foreign_cores()
    click.echo(table(turns))
    facts = (
        f"{dataset}, {'drawn scenes' if data_dir is None else 'its own images'}, crops of"
        f" {recipe.input_size[0]}x{recipe.input_size[1]}, batch {recipe.batch_size},"
        f"{'' if operators else f' amp {recipe.amp},'} {spec.workers} workers,"
        f" {rounds} rounds of {steps} steps; {chosen}"
    )
    kept = {row: [asdict(turn) for turn in own] for row, own in turns.items()}
    content = {"size": recipe.input_size, "foreign_cores": foreign, "turns": kept}
    content |= {"recipe": recipe.to_dict()}
    study.conclude(facts, record, content, cores=foreign)


if __name__ == "__main__":
    run(main)
