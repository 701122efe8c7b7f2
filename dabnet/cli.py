"""``dabnet-train``: parse, train, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dabnet import __version__
from dabnet.console import CONTEXT, EXIT_INTERRUPTED, Factors, Size, run
from dabnet.data.registry import DATASET_NAMES
from dabnet.models import MODEL_NAMES

# Applied in the command, since an option that is left out of --resume is not its default.
_DEFAULTS: dict[str, Any] = {
    "dataset": "camvid",
    "model": "dabnet",
    "train_type": "train",
    "seed": 0,
}


@click.command(context_settings=CONTEXT)
@click.version_option(__version__)
@click.option("--dataset", type=click.Choice(DATASET_NAMES), help="[default: camvid]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--model", type=click.Choice(MODEL_NAMES), help="[default: dabnet]")
@click.option(
    "--train-type",
    type=click.Choice(["train", "trainval"]),
    help="Split to train on; trainval leaves no fair validation score.  [default: train]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for last.pth, best.pth, log.csv and curves.png.  [default: runs/DATASET]",
)
@click.option("--resume", type=click.Path(path_type=Path), help="A last.pth to continue from.")
@click.option(
    "--max-epochs", type=int, help="Override the recipe, as all options down to --scales."
)
@click.option("--input-size", type=Size(), help="Size of the training crops.")
@click.option("--batch-size", type=int)
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]))
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--momentum", type=float, help="Of SGD.")
@click.option("--weight-decay", type=float)
@click.option("--loss", type=click.Choice(["ce", "ohem"]))
@click.option("--poly-power", type=float, help="Exponent of the learning-rate decay.")
@click.option("--warmup-iterations", type=int)
@click.option("--scales", type=Factors(), help="Factors of the random resize, such as 0.75,1,1.25.")
@click.option("--eval-every", type=click.IntRange(1), help="Epochs between validations.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option(
    "--num-workers",
    type=click.IntRange(0),
    help="Processes that augment images.  [default: 4 with a GPU, 0 without]",
)
@click.option("--summary", is_flag=True, help="Print the network's layers and costs, and stop.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="[default: 0]")
def train_command(
    data_dir: Path | None,
    output: Path | None,
    resume: Path | None,
    device: str,
    num_workers: int | None,
    summary: bool,
    **options: Any,
) -> int:
    """Train DABNet and leave checkpoints, a log and curves.

    The recipe is the published one of the data set; each value can be overridden. Ctrl-C stops
    after the current iteration and leaves a last.pth that --resume continues exactly.
    """
    from dabnet.data.registry import open_dataset
    from dabnet.recipes import recipe_for
    from dabnet.torch_device import torch_device
    from dabnet.training import train
    from dabnet.training_spec import TrainingSpec

    # Values not given are those of the run that is continued; given ones must equal them.
    kept = _DEFAULTS | (_values_of_run(resume, options["dataset"]) if resume else {})
    values: dict[str, Any] = {k: kept.get(k) if v is None else v for k, v in options.items()}
    dataset, model, train_type, seed, eval_every = (
        values.pop(name) for name in ("dataset", "model", "train_type", "seed", "eval_every")
    )
    recipe = recipe_for(dataset, **values)
    if summary:
        _print_summary(model, dataset, recipe.input_size)
        return 0
    chosen = torch_device(device)
    train_set = open_dataset(dataset, train_type, data_dir)
    val_set = open_dataset(dataset, "val", data_dir)
    output = output or (resume.parent if resume else Path("runs") / dataset)
    _keep_other_runs(output / "last.pth", resume)
    spec = TrainingSpec(
        model=model,
        recipe=recipe,
        output=output,
        device=chosen,
        workers=num_workers if num_workers is not None else (4 if chosen.type == "cuda" else 0),
        seed=seed,
        eval_every=eval_every or max(1, recipe.max_epochs // 20),
        resume=resume,
    )
    click.echo(f"dabnet-train {__version__}: {model} on {dataset} {train_type}, {chosen}")
    click.echo(f"  {len(train_set)} training images, {len(val_set)} validation images")
    for name, value in recipe.to_dict().items():
        click.echo(f"  {name}: {value}")
    total = len(train_set) // recipe.batch_size * recipe.max_epochs
    click.echo(f"  {total} iterations, of which {recipe.warmup_of(total)} warm up")

    result = train(spec, train_set, val_set)
    if result.confusion is not None:
        _print_scores(result.confusion, train_set.labels.classes)
    if result.best_miou is not None:
        best = f"{100 * result.best_miou:.2f} %"
        click.echo(f"best validation mIoU {best}: {spec.output / 'best.pth'}")
    if not result.finished:
        click.echo(f"stopped; continue with: --resume {result.last}", err=True)
        return EXIT_INTERRUPTED
    return 0


def _keep_other_runs(last: Path, resume: Path | None) -> None:
    """Raise where the run of another start would be overwritten."""
    from dabnet.errors import InputError

    if last.exists() and (resume is None or resume.resolve() != last.resolve()):
        raise InputError(
            f"{str(last.parent)!r} holds another run",
            "a new or empty --output",
            f"continue that run with --resume {last}, or choose another --output",
        )


def _values_of_run(resume: Path, dataset: str | None) -> dict[str, Any]:
    """Return the options that a run was started with, by their names."""
    from dataclasses import asdict

    from dabnet.checkpoint import load_checkpoint
    from dabnet.recipes import Recipe

    stored = load_checkpoint(resume, dataset)
    values: dict[str, Any] = {"dataset": stored.dataset, "model": stored.model}
    if stored.recipe:
        values |= asdict(Recipe.from_dict(stored.recipe))
    if stored.training:
        run = stored.training
        values |= {"train_type": run["split"], "seed": run["seed"], "eval_every": run["eval_every"]}
    return values


def _print_summary(model: str, dataset: str, size: tuple[int, int]) -> None:
    from dabnet.data.labels import label_set
    from dabnet.models import build_model
    from dabnet.models.summary import summarise, summary_text

    network = build_model(model, len(label_set(dataset).classes))
    click.echo(f"{model} for {dataset}, one image of {size[0]}x{size[1]}")
    click.echo(summary_text(summarise(network, size)))


def _print_scores(confusion: Any, classes: tuple[str, ...]) -> None:
    from dabnet.metrics import class_iou, mean_iou

    click.echo("validation IoU of the last epoch, %:")
    for name, iou in zip(classes, class_iou(confusion), strict=True):
        click.echo(f"  {name:<14}{100 * iou:6.2f}" if iou == iou else f"  {name:<14}     –")
    click.echo(f"  {'mean':<14}{100 * float(mean_iou(confusion)):6.2f}")


def main() -> None:
    """Entry point of ``dabnet-train``."""
    run(train_command)
