"""The command ``dabnet-train``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dabnet import __version__
from dabnet.command_help import Command, under
from dabnet.console import (
    CONTEXT,
    FILE,
    Dilations,
    Factors,
    Finite,
    Size,
    device_option,
    run,
    say,
)
from dabnet.data.registry import DATASETS
from dabnet.interrupt import EXIT_INTERRUPTED
from dabnet.models import NETWORKS, build_model, network_named
from dabnet.training.recipes import (
    AMP,
    CLASSIFIER,
    LOSSES,
    MOST_EPOCHS,
    OPTIMIZERS,
    PICTURES,
    SCHEDULES,
    STAGES,
    Extent,
)
from dabnet.training.time_limit import TimeLimit

if TYPE_CHECKING:
    from dabnet.data.dataset import Dataset
    from dabnet.data.labels import LabelSet
    from dabnet.training.processes import Processes
    from dabnet.training.recipes import Recipe
    from dabnet.training.spec import TrainingResult, TrainingSpec

MOST_MINUTES = 1_000_000
MOST_WORKERS = 256

# Applied in the command, since an option that --resume leaves out keeps the value of the run.
_DEFAULTS: dict[str, Any] = {
    "dataset": "camvid",
    "model": "dabnet",
    "train_type": "train",
    "split": "val",
    "seed": 0,
    "channels_last": True,
    "compile": False,
}


@click.command(cls=Command, context_settings=CONTEXT)
@click.option("--dataset", type=click.Choice(list(DATASETS)), show_default="camvid")
@click.option("--data-dir", type=FILE, metavar="DIR", help="Folder of the data set.")
@click.option("--model", type=click.Choice(list(NETWORKS)), show_default="dabnet")
@click.option(
    "--output", type=FILE, metavar="DIR", help="Folder of the run.", show_default="in runs/"
)
@click.option(
    "--init", type=FILE, metavar="FILE", help="Start from the weights of this checkpoint."
)
@click.option("--resume", type=FILE, metavar="DIR", help="Continue this run, to the same weights.")
@click.option(
    "--recipe",
    type=click.Choice(["default", "paper"]),
    help="paper: as published; default: on CamVid also --colour-jitter 0.4.",
)
@click.option(
    "--max-epochs",
    type=Finite(0, MOST_EPOCHS, min_open=True),
    callback=lambda _, __, value: int(value) if value is not None and value.is_integer() else value,
    help="Also a fraction.",
    show_default="the recipe's",
)
@click.option(
    "--max-minutes",
    type=Finite(0, MOST_MINUTES, min_open=True),
    help="Train as many epochs as fit into this time.",
)
@click.option(
    "--input-size", type=Size(), help="Size of the training crops.", show_default="the recipe's"
)
@click.option("--batch-size", type=int, help="Crops per step.", show_default="the recipe's")
@click.option("--lr", type=Finite(0), help="Peak learning rate.", show_default="the recipe's")
@device_option()
@click.option("--summary", is_flag=True, help="Print layers and costs of the network, and stop.")
@click.version_option(__version__)
@under(
    "Data",
    click.option("--classes", type=FILE, metavar="FILE", help="Classes of a --dataset folder."),
    click.option(
        "--train-type",
        type=click.Choice(["train", "trainval", "trainaug"]),
        help="Split to train on.",
        show_default="train",
    ),
    click.option(
        "--split",
        type=click.Choice(["val", "test"]),
        help="Split to validate on; test once, at the end.",
        show_default="val",
    ),
    click.option("--fold", metavar="SEQUENCE", help="Leave this sequence out, and validate on it."),
    click.option(
        "--cache-dir",
        type=FILE,
        metavar="DIR",
        default=".dabnet-cache",
        show_default=True,
        help="Pixel counts of classes.",
    ),
)
@under(
    "Values of the recipe",
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="SGD has --momentum."),
    click.option("--momentum", type=Finite(0), help="Momentum of SGD."),
    click.option("--weight-decay", type=Finite(0), help="L2 penalty of the weights."),
    click.option(
        "--norm-decay/--no-norm-decay",
        default=None,
        help="Weight decay on BatchNorm, PReLU, biases.",
        show_default="yes",
    ),
    click.option("--loss", type=click.Choice(LOSSES)),
    click.option("--label-smoothing", type=Finite(0), help="Of --loss ce."),
    click.option("--rarity", type=Finite(1), help="c of the class weights 1 / ln(c + share)."),
    click.option(
        "--auxiliary", type=Finite(0), help="Weight of a loss inside the network; 0: none."
    ),
    click.option("--schedule", type=click.Choice(SCHEDULES), help="Decay of the learning rate."),
    click.option("--poly-power", type=Finite(0), help="Exponent of --schedule poly."),
    click.option("--warmup-iterations", type=int, help="Steps of rising learning rate."),
    click.option("--scales", type=Factors(), help="Random resize, such as 0.75,1,1.25."),
    click.option(
        "--rare-crops", type=Finite(0), help="Share of crops towards a drawn class; 0: none."
    ),
    click.option(
        "--colour-jitter", type=Finite(0), help="Random changes of the light, such as 0.4."
    ),
    click.option("--ema", type=Finite(0), help="Decay of averaged weights, such as 0.999."),
    click.option(
        "--sync-bn/--no-sync-bn",
        default=None,
        help="BatchNorm over all processes of torchrun.",
        show_default="no",
    ),
    click.option(
        "--dilations",
        type=Dilations(),
        help="Of the dilated convolutions.",
        show_default="published ones",
    ),
    click.option(
        "--eval-every", type=click.IntRange(1, MOST_EPOCHS), help="Epochs between validations."
    ),
    click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), help="Of all that is drawn.", show_default="0"
    ),
)
@under(
    "Other ways of training",
    click.option(
        "--qat", type=FILE, metavar="FILE", help="Fine-tune this checkpoint for an INT8 export."
    ),
    click.option(
        "--teacher", type=FILE, metavar="FILE", help="Learn the logits of this network as well."
    ),
    click.option(
        "--teacher-share",
        type=Finite(0),
        help="Weight of the teacher in the loss.",
        show_default="0.5",
    ),
    click.option(
        "--stage",
        type=click.Choice(STAGES),
        help="Part of LEDNet or ERFNet",
    ),
    click.option(
        "--encoder", type=FILE, metavar="FILE", help="With --stage: start from its encoder."
    ),
)
@under(
    "Speed",
    click.option("--amp", type=click.Choice(AMP), help="Half precision.", show_default="off"),
    click.option(
        "--compile/--no-compile", default=None, help="Use torch.compile.", show_default="no"
    ),
    click.option(
        "--channels-last/--no-channels-last",
        default=None,
        help="Memory layout.",
        show_default="yes",
    ),
    click.option(
        "--data-path",
        type=click.Choice(["auto", "device", "workers"]),
        default="auto",
        show_default=True,
        help="Where to augment images",
    ),
    click.option(
        "--num-workers",
        type=click.IntRange(0, MOST_WORKERS),
        help="Processes that augment.",
        show_default="GPU: 4, CPU: 0",
    ),
)
@under(
    "Logs",
    click.option(
        "--tensorboard/--no-tensorboard",
        default=None,
        help="Write event files.",
        show_default="if it is installed",
    ),
    click.option("--visdom", is_flag=True, help="Send the same to http://localhost:8097."),
)
def train_command(
    data_dir: Path | None,
    resume: Path | None,
    qat: Path | None,
    summary: bool,
    max_minutes: float | None,
    **options: Any,
) -> int:
    """Train a network and write checkpoints, a log and curves.

    The recipe is that of network and data set; each value can be overridden. Ctrl-C stops a run,
    and --resume continues it. On several GPUs:

    torchrun --nproc-per-node 4 -m dabnet.cli ...
    """
    limit = TimeLimit(max_minutes) if max_minutes else None  # before imports that take seconds
    from dabnet.training.folder import keep_other_files, newest_state
    from dabnet.training.loop import train
    from dabnet.training.processes import processes_of_torchrun

    processes = processes_of_torchrun()
    if options["stage"] == CLASSIFIER:
        return _pretrain(options | {"resume": resume, "qat": qat}, data_dir, limit, processes)
    _refuse_pairs(options | {"resume": resume})
    if resume:
        resume, warning = newest_state(resume)
        if warning and processes.first:
            say(f"warning: {warning}", err=True)
    options |= {"resume": resume, "qat": qat, "labels": None}
    # Values not given are those of the run or the checkpoint that is continued.
    kept = _DEFAULTS | _values_of_start(options)
    values: dict[str, Any] = {
        name: kept.get(name) if value is None else value for name, value in options.items()
    }
    if summary:
        _print_summary(values)
        return 0
    train_set, val_set = _open_splits(values, data_dir)
    extent = Extent(len(train_set), train_set[0].label.shape, processes.size)
    spec = _spec(values, extent, limit, processes)
    keep_other_files(spec.output, resume)
    if processes.first:
        _print_start(spec, processes.size, train_set, val_set)
    result = train(spec, train_set, val_set, processes)
    if processes.first:
        _print_end(spec, result, train_set.labels)
    return 0 if result.finished else EXIT_INTERRUPTED


def _pretrain(
    options: dict[str, Any], data_dir: Path | None, limit: TimeLimit | None, processes: Processes
) -> int:
    """Train an encoder as a classifier."""
    from dabnet.errors import InputError
    from dabnet.training.folder import keep_other_files
    from dabnet.training.pretraining import Pictures, pretrain, read_state

    given = [f"--{name}" for name in ("dataset", "classes", "fold", "split") if options[name]]
    if given or data_dir is None:
        raise InputError(
            " with ".join(["--stage classifier", *given[:1]]),
            "--data-dir DIR alone, with DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg",
        )
    kept = _DEFAULTS | {"dataset": PICTURES}
    resume = options["resume"]
    if resume:
        options["resume"] = resume = resume / "last.pth" if resume.is_dir() else resume
        before = read_state(resume)
        kept |= {"model": before.progress.model, "seed": before.progress.seed}
        kept |= asdict(before.recipe)
    values = {name: kept.get(name) if value is None else value for name, value in options.items()}
    images = len(Pictures(data_dir, "train", (8, 8)))
    spec = _spec(values, Extent(images, (0, 0), processes.size), limit, processes)
    keep_other_files(spec.output, resume)
    if processes.first:
        say(f"dabnet-train {__version__}: encoder of {spec.model}, {images} pictures")
        _print_recipe(spec.recipe)
    result = pretrain(spec, data_dir, processes)
    if processes.first:
        best = f"{100 * (result.best_miou or 0):.2f} %"
        say(f"best validation accuracy {best}: --encoder {spec.output / 'best.pth'}")
        _print_stop(result)
    return 0 if result.finished else EXIT_INTERRUPTED


def _refuse_pairs(options: dict[str, Any]) -> None:
    """Raise where one option leaves another without effect."""
    from dabnet.errors import InputError

    once = options["split"] == "test" and options["eval_every"] is not None
    pairs = {
        "--fold and --split": None not in (options["fold"], options["split"]),
        "--recipe and --resume": None not in (options["recipe"], options["resume"]),
        "--split test, which is scored once, and --eval-every": once,
    }
    for pair, given in pairs.items():
        if given:
            raise InputError(pair, "one of them")


def _open_splits(values: dict[str, Any], data_dir: Path | None) -> tuple[Dataset, Dataset]:
    """Return the splits to train and to validate on."""
    from dabnet.data.file_pairs import FilePairs
    from dabnet.data.labels import read_labels
    from dabnet.data.registry import open_dataset
    from dabnet.errors import InputError

    labels = read_labels(values["classes"]) if values["classes"] else values["labels"]
    dataset, fold = values["dataset"], values["fold"]
    train_set = open_dataset(dataset, values["train_type"], data_dir, labels=labels)
    if fold is None:
        return train_set, open_dataset(dataset, values["split"], data_dir, labels=labels)
    if not isinstance(train_set, FilePairs):
        raise InputError(f"--fold {fold} with --dataset {dataset}", "a data set of files")
    return train_set.without(fold)


def _spec(
    values: dict[str, Any], extent: Extent, limit: TimeLimit | None, processes: Processes
) -> TrainingSpec:
    """Return the request of the options ``values``; None is an option that was not given."""
    from dabnet.device import torch_device
    from dabnet.training.learner import fastest_amp
    from dabnet.training.log import tensorboard_is_installed
    from dabnet.training.recipes import WHOLE
    from dabnet.training.spec import TrainingSpec
    from dabnet.training.teacher import DEFAULT_SHARE

    tensorboard, workers = values["tensorboard"], values["num_workers"]
    local_rank = processes.local_rank if processes.size > 1 else None
    device = torch_device(values["device"], local_rank)
    if limit and values["qat"] is None and values["amp"] is None:
        values = values | {"amp": fastest_amp(device)}
    if values["teacher"] and values["teacher_share"] is None:
        values = values | {"teacher_share": DEFAULT_SHARE}
    recipe = _recipe(values, extent)
    if workers is None:
        workers = 4 if device.type == "cuda" else 0
    parts = [values["dataset"], values["model"], recipe.stage, "qat" if values["qat"] else ""]
    name = "-".join(part for part in parts if part not in ("", "dabnet", WHOLE))
    resume = values["resume"]
    same = (
        *("model", "seed", "eval_every", "data_path", "channels_last", "compile", "cache_dir"),
        *("resume", "qat", "init", "encoder", "teacher", "visdom"),
    )
    return TrainingSpec(
        recipe=recipe,
        output=values["output"] or (resume.parent if resume else Path("runs") / name),
        device=device,
        workers=workers,
        dilations=values["dilations"] or (),
        limit=limit,
        tensorboard=tensorboard_is_installed() if tensorboard is None else tensorboard,
        **{name: values[name] for name in same},
    )


def _recipe(values: dict[str, Any], extent: Extent | None = None) -> Recipe:
    from dataclasses import fields

    from dabnet.training.recipes import Recipe, recipe_for

    overrides = {field.name: values[field.name] for field in fields(Recipe)}
    qat = values["qat"] is not None
    paper = values["recipe"] == "paper"
    return recipe_for(values["model"], values["dataset"], extent, qat=qat, paper=paper, **overrides)


def _print_start(spec: TrainingSpec, processes: int, train_set: Dataset, val_set: Dataset) -> None:
    from dabnet.training.recipes import ENCODER

    recipe, data = spec.recipe, f"{train_set.name} {train_set.split}"
    where = f"{processes} processes, {spec.device.type}" if processes > 1 else str(spec.device)
    say(f"dabnet-train {__version__}: {spec.model} on {data}, {where}")
    say(f"  {len(train_set)} training images, {len(val_set)} validation images")
    if spec.qat:
        say(f"  fine-tunes {spec.qat} with fake quantisation to int8")
    if spec.init or spec.encoder:
        say(f"  starts from {'the encoder of ' * (not spec.init)}{spec.init or spec.encoder}")
    if recipe.stage == ENCODER:
        say("  trains and scores the encoder alone, on every 8th row and column of the labels")
    _print_recipe(recipe)
    total = max(1, round(len(train_set) // recipe.batch_size * recipe.max_epochs))
    if spec.limit:
        say(f"  at most {total} iterations, as many as fit into {spec.limit.minutes:g} min")
    else:
        say(f"  {total} iterations, of which {recipe.warmup_of(total)} warm up")
    if spec.tensorboard:
        say(f"  view it with: tensorboard --logdir {spec.output}")


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
        seen = " on images seen in training" if result.seen else ""
        say(f"best validation mIoU{seen} {best}: {spec.output / 'best.pth'}")
    _print_stop(result)


def _print_recipe(recipe: Recipe) -> None:
    for name, value in recipe.to_dict().items():
        say(f"  {name}: {value}")


def _print_stop(result: TrainingResult) -> None:
    if not result.finished:
        say(f"stopped; continue with: --resume {result.last}", err=True)


def _values_of_start(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options, by name, that a run or a checkpoint has which is continued.

    ``labels`` are its classes: the data set must have the same. None: any will do.
    """
    from dabnet.checkpoint import load_weights
    from dabnet.errors import InputError
    from dabnet.training.qat import load_float_checkpoint

    starts = {name: options[name] for name in ("resume", "qat", "init", "encoder")}
    given = [f"--{name} {path}" for name, path in starts.items() if path]
    if len(given) > 1:
        raise InputError(" and ".join(given), "one of them")
    if options["resume"]:
        return _values_of_run(options["resume"], options["dataset"])
    if options["qat"]:
        start = load_float_checkpoint(options["qat"], options["dataset"], options["model"])
        names = ("dataset", "model", "labels", "dilations")
        return {name: getattr(start, name) for name in names}
    kept: dict[str, Any] = {"labels": None}
    if path := options["init"] or options["encoder"]:
        kept["model"] = load_weights(path, options["model"]).model
    return kept


def _values_of_run(resume: Path, dataset: str | None) -> dict[str, Any]:
    """Return the options that a run was started with, by name."""
    from dabnet.checkpoint import Given, load_checkpoint
    from dabnet.data.splits import parts_of
    from dabnet.training.recipes import Recipe
    from dabnet.training.spec import state_of

    stored = load_checkpoint(resume, Given(dataset))
    run = state_of(stored, resume)
    kept = {name: getattr(run, name) for name in ("seed", "eval_every", "compile", "channels_last")}
    names = ("dataset", "model", "labels", "dilations")
    split, fold = parts_of(run.split)
    of_run = {name: getattr(stored, name) for name in names}
    of_run |= {"train_type": split, "fold": fold or None}
    of_run |= {} if fold else {"split": run.val_split}
    of_run["teacher"] = Path(run.teacher) if run.teacher else None
    return asdict(Recipe.from_dict(stored.recipe, f"--resume {resume}")) | of_run | kept


def _print_summary(values: dict[str, Any]) -> None:
    import re

    import torchinfo

    from dabnet.data.labels import read_labels
    from dabnet.data.registry import label_set

    model, dataset, size = values["model"], values["dataset"], _recipe(values).input_size
    network_named(model).check_size(*size)
    labels = values["labels"]
    if labels is None:
        labels = read_labels(values["classes"]) if values["classes"] else label_set(dataset)
    found = torchinfo.summary(
        build_model(model, len(labels.classes), values["dilations"] or ()),
        (1, 3, *size),
        col_names=("output_size", "num_params", "mult_adds"),
        depth=9,
        row_settings=("var_names",),
        verbose=0,
        device="cpu",
    )
    say(f"{model} for {dataset}, one image of {size[0]}x{size[1]}")
    # torchinfo 1.8 prints the unit of its totals as "Units.GIGABYTES".
    say(re.sub(r"Units\.(\w)\w+", r"\1", str(found)))


def _print_shares(heading: str, names: list[str], shares: list[Any]) -> None:
    say(heading)
    for name, share in zip(names, shares, strict=True):
        say(f"  {name:<14}" + (f"{100 * share:6.2f}" if share == share else "     –"))


def main() -> None:
    """Entry point of ``dabnet-train``."""
    run(train_command)


if __name__ == "__main__":  # torchrun -m dabnet.cli
    main()
