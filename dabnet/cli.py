"""``dabnet-train``: parse, train, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dabnet import __version__
from dabnet.console import CONTEXT, EXIT_INTERRUPTED, Size, run
from dabnet.data.registry import DATASET_NAMES
from dabnet.models import MODEL_NAMES


@click.command(context_settings=CONTEXT)
@click.version_option(__version__)
@click.option("--dataset", type=click.Choice(DATASET_NAMES), default="camvid", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--model", type=click.Choice(MODEL_NAMES), default="dabnet", show_default=True)
@click.option(
    "--train-type",
    type=click.Choice(["train", "trainval"]),
    default="train",
    show_default=True,
    help="Split to train on. With trainval the validation score is no fair test.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for last.pth, best.pth, log.csv and curves.png.  [default: runs/DATASET]",
)
@click.option("--resume", type=click.Path(path_type=Path), help="A last.pth to continue from.")
@click.option("--max-epochs", type=int, help="Override the recipe.")
@click.option("--input-size", type=Size(), help="Size of the training crops; overrides the recipe.")
@click.option("--batch-size", type=int, help="Override the recipe.")
@click.option("--lr", type=float, help="Peak learning rate; overrides the recipe.")
@click.option("--eval-every", type=click.IntRange(1), help="Epochs between validations.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option(
    "--num-workers",
    type=click.IntRange(0),
    help="Processes that augment images.  [default: 4 with a GPU, 0 without]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def train_command(
    dataset: str,
    data_dir: Path | None,
    model: str,
    train_type: str,
    output: Path | None,
    resume: Path | None,
    eval_every: int | None,
    device: str,
    num_workers: int | None,
    seed: int,
    **overrides: Any,
) -> int:
    """Train DABNet and leave checkpoints, a log and curves.

    The recipe is the published one of the data set; each value can be overridden. Ctrl-C stops
    after the current iteration and leaves a last.pth that --resume continues exactly.
    """
    from dabnet.data.registry import open_dataset
    from dabnet.recipes import Recipe, recipe_for
    from dabnet.torch_device import torch_device
    from dabnet.training import TrainingSpec, train

    if resume is not None:
        from dabnet.checkpoint import load_checkpoint

        stored = load_checkpoint(resume)
        # Values not given are those of the run; given ones must equal them.
        kept = Recipe.from_dict(stored.recipe).to_dict() if stored.recipe else {}
        overrides = {k: v if v is not None else kept.get(k) for k, v in overrides.items()}
    recipe = recipe_for(dataset, **overrides)
    chosen = torch_device(device)
    train_set = open_dataset(dataset, train_type, data_dir)
    val_set = open_dataset(dataset, "val", data_dir)
    spec = TrainingSpec(
        model=model,
        recipe=recipe,
        output=output or (resume.parent if resume else Path("runs") / dataset),
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


def _print_scores(confusion: Any, classes: tuple[str, ...]) -> None:
    from dabnet.metrics import class_iou, mean_iou

    click.echo("validation IoU of the last epoch, %:")
    for name, iou in zip(classes, class_iou(confusion), strict=True):
        click.echo(f"  {name:<14}{100 * iou:6.2f}" if iou == iou else f"  {name:<14}     –")
    click.echo(f"  {'mean':<14}{100 * float(mean_iou(confusion)):6.2f}")


def main() -> None:
    """Entry point of ``dabnet-train``."""
    run(train_command)
