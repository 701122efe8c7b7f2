"""The command ``dabnet-train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dabnet import __version__
from dabnet.console import (
    CONTEXT,
    EXIT_INTERRUPTED,
    FILE,
    Factors,
    Finite,
    Size,
    device_option,
    run,
)
from dabnet.data.registry import DATASETS
from dabnet.models import NETWORKS, build_model
from dabnet.training.recipes import AMP, LOSSES, OPTIMIZERS
from dabnet.training.time_limit import TimeLimit

if TYPE_CHECKING:
    from dabnet.data.dataset import Dataset
    from dabnet.data.labels import LabelSet
    from dabnet.training.processes import Processes
    from dabnet.training.spec import TrainingResult, TrainingSpec

# Applied in the command, since an option that --resume leaves out keeps the value of the run.
_DEFAULTS: dict[str, Any] = {
    "dataset": "camvid",
    "model": "dabnet",
    "train_type": "train",
    "seed": 0,
    "channels_last": True,
    "compile": False,
}


@click.command(context_settings=CONTEXT)
@click.version_option(__version__)
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="[default: camvid]")
@click.option("--data-dir", type=FILE, help="Folder of the data set.")
@click.option("--model", type=click.Choice(list(NETWORKS)), help="[default: dabnet]")
@click.option(
    "--train-type",
    type=click.Choice(["train", "trainval"]),
    help="Split to train on; trainval leaves no fair validation score.  [default: train]",
)
@click.option(
    "--output",
    type=FILE,
    help="Folder of checkpoints, log and curves.  [default: runs/DATASET, runs/DATASET-qat]",
)
@click.option(
    "--resume",
    type=FILE,
    help="The folder of a run to continue, or its last.pth.",
)
@click.option(
    "--qat",
    type=FILE,
    help="Fine-tune this checkpoint with fake quantisation, for an INT8 export: the data set's"
    " recipe, but 5 epochs at a hundredth of its --lr.",
)
@click.option(
    "--max-minutes",
    type=Finite(0, min_open=True),
    help="End within this time: as many epochs as fit, at most --max-epochs. On a GPU, --amp is"
    " what the card is fast in.",
)
@click.option(
    "--max-epochs",
    type=Finite(),
    callback=lambda _, __, value: int(value) if value is not None and value.is_integer() else value,
    help="This and the options down to --sync-bn override the recipe.",
)
@click.option("--input-size", type=Size(), help="Size of the training crops.")
@click.option("--batch-size", type=int)
@click.option("--optimizer", type=click.Choice(OPTIMIZERS))
@click.option("--lr", type=Finite(0), help="Peak learning rate.")
@click.option("--momentum", type=Finite(0), help="Momentum of SGD.")
@click.option("--weight-decay", type=Finite(0))
@click.option("--loss", type=click.Choice(LOSSES))
@click.option("--poly-power", type=Finite(0), help="Exponent of the learning-rate decay.")
@click.option("--warmup-iterations", type=int)
@click.option("--scales", type=Factors(), help="Factors of the random resize, such as 0.75,1,1.25.")
@click.option(
    "--amp",
    type=click.Choice(AMP),
    help="Compute convolutions in half precision.  [default: off]",
)
@click.option("--ema", type=Finite(0), help="Decay of averaged weights, such as 0.999; 0: none.")
@click.option(
    "--sync-bn/--no-sync-bn",
    default=None,
    help="Under torchrun, normalise over the batch of all processes.  [default: no]",
)
@click.option("--eval-every", type=click.IntRange(1), help="Epochs between validations.")
@device_option()
@click.option(
    "--data-path",
    type=click.Choice(["auto", "device", "workers"]),
    default="auto",
    help="Augment in batches on the device that holds the data set, or by workers on the CPU."
    "  [default: a GPU's memory if the data set fits]",
)
@click.option(
    "--num-workers",
    type=click.IntRange(0),
    help="Processes that augment images.  [default: 4 with a GPU, 0 without]",
)
@click.option(
    "--channels-last/--no-channels-last",
    default=None,
    help="Memory layout of the network.  [default: yes]",
)
@click.option("--compile/--no-compile", default=None, help="Compile with torch.compile.")
@click.option(
    "--tensorboard/--no-tensorboard",
    default=None,
    help="Write event files.  [default: if TensorBoard is installed]",
)
@click.option(
    "--cache-dir",
    type=FILE,
    default=".dabnet-cache",
    show_default=True,
    help="Folder of the pixel counts of data sets, from which class weights are computed.",
)
@click.option("--summary", is_flag=True, help="Print the network's layers and costs, and stop.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="[default: 0]")
def train_command(
    data_dir: Path | None,
    resume: Path | None,
    qat: Path | None,
    summary: bool,
    max_minutes: float | None,
    **options: Any,
) -> int:
    """Train a network and write checkpoints, a log and curves.

    The recipe is the published one of the data set; each value can be overridden. Ctrl-C stops
    after the current iteration and writes a last.pth that --resume continues exactly. On several
    GPUs: torchrun --nproc-per-node 4 -m dabnet.cli ...
    """
    limit = TimeLimit(max_minutes) if max_minutes else None  # before imports that take seconds
    from dabnet.data.registry import open_dataset
    from dabnet.training.folder import newest_state
    from dabnet.training.loop import train
    from dabnet.training.processes import processes_of_torchrun

    processes = processes_of_torchrun()
    if resume:
        resume, warning = newest_state(resume)
        if warning and processes.first:
            click.echo(f"warning: {warning}", err=True)
    # Values not given are those of the run that is continued; given ones must equal them.
    kept = _DEFAULTS | (_values_of_run(resume, options["dataset"]) if resume else {})
    if qat:
        kept |= _values_of_start(qat, resume, options["dataset"], options["model"])
    values: dict[str, Any] = {
        name: kept.get(name) if value is None else value for name, value in options.items()
    }
    spec = _spec(values, resume, qat, limit, processes)
    dataset = values["dataset"]
    if summary:
        _print_summary(spec.model, dataset, spec.recipe.input_size)
        return 0
    train_set, val_set = (
        open_dataset(dataset, split, data_dir) for split in (values["train_type"], "val")
    )
    _keep_other_runs(spec.output, resume)
    if processes.first:
        _print_start(spec, dataset, processes.size, train_set, val_set)
    result = train(spec, train_set, val_set, processes)
    if processes.first:
        _print_end(spec, result, train_set.labels)
    return 0 if result.finished else EXIT_INTERRUPTED


def _spec(
    values: dict[str, Any],
    resume: Path | None,
    qat: Path | None,
    limit: TimeLimit | None,
    processes: Processes,
) -> TrainingSpec:
    """Return the request of the options ``values``; None is an option that was not given."""
    from dataclasses import fields

    from dabnet.device import torch_device
    from dabnet.training.learner import fastest_amp
    from dabnet.training.log import tensorboard_is_installed
    from dabnet.training.recipes import Recipe, recipe_for
    from dabnet.training.spec import TrainingSpec

    dataset, workers, tensorboard = (
        values[name] for name in ("dataset", "num_workers", "tensorboard")
    )
    overrides = {field.name: values[field.name] for field in fields(Recipe)}
    local_rank = processes.local_rank if processes.size > 1 else None
    device = torch_device(values["device"], local_rank)
    if limit and qat is None and overrides["amp"] is None:
        overrides["amp"] = fastest_amp(device)
    recipe = recipe_for(dataset, qat=qat is not None, **overrides)
    if workers is None:
        workers = 4 if device.type == "cuda" else 0
    name = f"{dataset}-qat" if qat else dataset
    same = ("model", "seed", "eval_every", "data_path", "channels_last", "compile", "cache_dir")
    return TrainingSpec(
        recipe=recipe,
        output=values["output"] or (resume.parent if resume else Path("runs") / name),
        device=device,
        workers=workers,
        resume=resume,
        qat=qat,
        limit=limit,
        tensorboard=tensorboard_is_installed() if tensorboard is None else tensorboard,
        **{name: values[name] for name in same},
    )


def _print_start(
    spec: TrainingSpec, dataset: str, processes: int, train_set: Dataset, val_set: Dataset
) -> None:
    recipe = spec.recipe
    where = f"{processes} processes, {spec.device.type}" if processes > 1 else str(spec.device)
    click.echo(f"dabnet-train {__version__}: {spec.model} on {dataset} {train_set.split}, {where}")
    click.echo(f"  {len(train_set)} training images, {len(val_set)} validation images")
    if spec.qat:
        click.echo(f"  fine-tunes {spec.qat} with fake quantisation to int8")
    for name, value in recipe.to_dict().items():
        click.echo(f"  {name}: {value}")
    total = max(1, round(len(train_set) // recipe.batch_size * recipe.max_epochs))
    if spec.limit:
        click.echo(f"  at most {total} iterations, as many as fit into {spec.limit.minutes:g} min")
    else:
        click.echo(f"  {total} iterations, of which {recipe.warmup_of(total)} warm up")
    if spec.tensorboard:
        click.echo(f"  view it with: tensorboard --logdir {spec.output}")


def _print_end(spec: TrainingSpec, result: TrainingResult, labels: LabelSet) -> None:
    if result.confusion is not None:
        from dabnet.metrics import category_iou, class_iou, mean_iou

        ious = [*class_iou(result.confusion), mean_iou(result.confusion)]
        _print_shares("validation IoU of the last epoch, %:", [*labels.classes, "mean"], ious)
        if labels.categories:
            ious = [*category_iou(result.confusion, labels.categories)]
            _print_shares("by category, %:", [name for name, _ in labels.categories], ious)
    if result.best_miou is not None:
        best = f"{100 * result.best_miou:.2f} %"
        click.echo(f"best validation mIoU {best}: {spec.output / 'best.pth'}")
    if not result.finished:
        click.echo(f"stopped; continue with: --resume {result.last}", err=True)


def _keep_other_runs(output: Path, resume: Path | None) -> None:
    """Raise if another run would be overwritten."""
    from dabnet.errors import InputError
    from dabnet.training.folder import holds_a_run

    if holds_a_run(output) and (resume is None or resume.parent.resolve() != output.resolve()):
        raise InputError(
            f"{str(output)!r} holds another run",
            "a new or empty --output",
            f"continue that run with --resume {output}, or choose another --output",
        )


def _values_of_start(
    qat: Path, resume: Path | None, dataset: str | None, model: str | None
) -> dict[str, Any]:
    """Return the data set and the network of the checkpoint that is fine-tuned."""
    from dabnet.errors import InputError
    from dabnet.training.qat import load_float_checkpoint

    if resume:
        raise InputError(f"--qat {qat} and --resume {resume}", "one of them", "leave --qat out")
    start = load_float_checkpoint(qat, dataset, model)
    return {"dataset": start.dataset, "model": start.model}


def _values_of_run(resume: Path, dataset: str | None) -> dict[str, Any]:
    """Return the options that a run was started with, by name."""
    from dataclasses import asdict

    from dabnet.checkpoint import Given, load_checkpoint
    from dabnet.training.recipes import Recipe
    from dabnet.training.spec import state_of

    stored = load_checkpoint(resume, Given(dataset))
    run = state_of(stored, resume)
    kept = {name: getattr(run, name) for name in ("seed", "eval_every", "compile", "channels_last")}
    of_run = {"dataset": stored.dataset, "model": stored.model, "train_type": run.split}
    return asdict(Recipe.from_dict(stored.recipe)) | of_run | kept


def _print_summary(model: str, dataset: str, size: tuple[int, int]) -> None:
    import re

    import torchinfo

    from dabnet.data.registry import label_set

    found = torchinfo.summary(
        build_model(model, len(label_set(dataset).classes)),
        (1, 3, *size),
        col_names=("output_size", "num_params", "mult_adds"),
        depth=9,
        row_settings=("var_names",),
        verbose=0,
        device="cpu",
    )
    click.echo(f"{model} for {dataset}, one image of {size[0]}x{size[1]}")
    # torchinfo 1.8 prints the unit of its totals as "Units.GIGABYTES".
    click.echo(re.sub(r"Units\.(\w)\w+", r"\1", str(found)))


def _print_shares(heading: str, names: list[str], shares: list[Any]) -> None:
    click.echo(heading)
    for name, share in zip(names, shares, strict=True):
        click.echo(f"  {name:<14}" + (f"{100 * share:6.2f}" if share == share else "     –"))


def main() -> None:
    """Entry point of ``dabnet-train``."""
    run(train_command)


if __name__ == "__main__":  # torchrun -m dabnet.cli
    main()
