"""The command ``dabnet-train``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dabnet import __version__
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


@click.command(context_settings=CONTEXT)
@click.version_option(__version__)
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="[default: camvid]")
@click.option("--data-dir", type=FILE, help="Folder of the data set.")
@click.option("--model", type=click.Choice(list(NETWORKS)), help="[default: dabnet]")
@click.option(
    "--dilations",
    type=Dilations(),
    help="Of the network's dilated convolutions.  [default: the published ones]",
)
@click.option(
    "--classes", type=FILE, help="File of the classes of a --dataset folder that has none."
)
@click.option(
    "--train-type",
    type=click.Choice(["train", "trainval", "trainaug"]),
    help="Split to train on; trainval leaves no fair validation score.  [default: train]",
)
@click.option(
    "--fold",
    metavar="SEQUENCE",
    help="Hold this sequence out of the training split, and validate on it: the images whose names"
    " have this prefix, up to the first '_'.",
)
@click.option(
    "--split",
    type=click.Choice(["val", "test"]),
    help="Split to validate on; test once, after the last epoch.  [default: val]",
)
@click.option(
    "--output",
    type=FILE,
    help="Folder of checkpoints, log and curves.  [default: in runs, by data set and network]",
)
@click.option(
    "--init",
    type=FILE,
    help="Start from the weights of this checkpoint, ours or public, of any classes. The network is"
    " then that of the checkpoint.",
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
    "--encoder",
    type=FILE,
    help="With --stage: start from the encoder of this checkpoint, also of a classifier.",
)
@click.option(
    "--teacher",
    type=FILE,
    help="Learn the logits of this network as well as the labels: a checkpoint, or an ONNX file of"
    " --head logits at the size of the crops.",
)
@click.option(
    "--recipe",
    type=click.Choice(["default", "paper"]),
    help="paper: exactly the published one; default: on CamVid, with --colour-jitter.",
)
@click.option(
    "--max-minutes",
    type=Finite(0, MOST_MINUTES, min_open=True),
    help="End within this time: as many epochs as fit, at most --max-epochs. On a GPU, --amp is"
    " what the card is fast in.",
)
@click.option(
    "--max-epochs",
    type=Finite(0, MOST_EPOCHS, min_open=True),
    callback=lambda _, __, value: int(value) if value is not None and value.is_integer() else value,
    help="This and the options down to --stage override the recipe.",
)
@click.option("--input-size", type=Size(), help="Size of the training crops.")
@click.option("--batch-size", type=int)
@click.option("--optimizer", type=click.Choice(OPTIMIZERS))
@click.option("--lr", type=Finite(0), help="Peak learning rate.")
@click.option("--momentum", type=Finite(0), help="Momentum of SGD.")
@click.option("--weight-decay", type=Finite(0))
@click.option(
    "--norm-decay/--no-norm-decay",
    default=None,
    help="Weight decay on BatchNorm, PReLU and biases as well.  [default: yes]",
)
@click.option("--loss", type=click.Choice(LOSSES))
@click.option("--label-smoothing", type=Finite(0), help="Of --loss ce.")
@click.option(
    "--rarity", type=Finite(1), help="c of the class weights 1 / ln(c + share of the class)."
)
@click.option(
    "--auxiliary",
    type=Finite(0),
    help="Weight of a loss on the features inside the network, such as 0.4; 0: none.",
)
@click.option(
    "--teacher-share",
    type=Finite(0),
    help="Weight of the --teacher in the loss, such as 0.5, its default; the labels have the rest.",
)
@click.option("--schedule", type=click.Choice(SCHEDULES), help="Decay of the learning rate.")
@click.option("--poly-power", type=Finite(0), help="Exponent of --schedule poly.")
@click.option("--warmup-iterations", type=int)
@click.option("--scales", type=Factors(), help="Factors of the random resize, such as 0.75,1,1.25.")
@click.option(
    "--rare-crops",
    type=Finite(0),
    help="Share of the crops that show a class drawn from those of the image; 0: none.",
)
@click.option(
    "--colour-jitter",
    type=Finite(0),
    help="Strength of random changes of the light, such as 0.4; 0: none.",
)
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
@click.option(
    "--stage",
    type=click.Choice(STAGES),
    help="Of LEDNet and ERFNet: the encoder as a classifier of the pictures in"
    " DIR/{train,val}/CLASS; the encoder alone, on labels at 1/8 of the size; then, from"
    " --encoder, with its decoder.  [default: whole]",
)
@click.option(
    "--eval-every", type=click.IntRange(1, MOST_EPOCHS), help="Epochs between validations."
)
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
    type=click.IntRange(0, MOST_WORKERS),
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
    "--visdom", is_flag=True, help="Send the same to a visdom server at http://localhost:8097."
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

    The recipe is that of network and data set; each value can be overridden. Ctrl-C
    stops after the current iteration and writes a last.pth that --resume continues exactly. On
    several GPUs: torchrun --nproc-per-node 4 -m dabnet.cli ...
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
        say(f"best validation mIoU {best}: {spec.output / 'best.pth'}")
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
    from dabnet.data.file_pairs import WITHOUT
    from dabnet.training.recipes import Recipe
    from dabnet.training.spec import state_of

    stored = load_checkpoint(resume, Given(dataset))
    run = state_of(stored, resume)
    kept = {name: getattr(run, name) for name in ("seed", "eval_every", "compile", "channels_last")}
    names = ("dataset", "model", "labels", "dilations")
    split, _, fold = run.split.partition(WITHOUT)
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
