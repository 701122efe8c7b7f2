"""What a training run leaves to look at: a CSV of its epochs and their curves."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from dabnet.files import replacing, write_text

COLUMNS = ("epoch", "iteration", "lr", "loss", "val_miou", "val_pixel_accuracy", "images_per_s")

History = list[dict[str, Any]]
"""One row an epoch, by the names in COLUMNS; validation values are None where it did not run."""


def write_csv(history: History, path: Path) -> None:
    """Write the whole log anew, so that a resumed run leaves no doubled rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in history:
        writer.writerow({name: "" if row[name] is None else row[name] for name in COLUMNS})
    write_text(path, text.getvalue())


def write_curves(history: History, path: Path) -> None:
    """Draw loss, validation mIoU and learning rate over the epochs as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    loss_axis, score_axis, lr_axis = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    epochs = [row["epoch"] for row in history]
    scored = [row for row in history if row["val_miou"] is not None]

    loss_axis.plot(epochs, [row["loss"] for row in history], color="C0", marker=".")
    loss_axis.set_ylabel("training loss")
    score_axis.plot(
        [row["epoch"] for row in scored],
        [100 * row["val_miou"] for row in scored],
        color="C1",
        marker="o",
        markersize=4,
    )
    if scored:
        best = max(scored, key=lambda row: float(row["val_miou"]))
        score_axis.set_title(
            f"best {100 * best['val_miou']:.2f} at epoch {best['epoch']}", loc="right", fontsize=9
        )
    score_axis.set_ylabel("validation mIoU, %")
    lr_axis.plot(epochs, [row["lr"] for row in history], color="C2")
    lr_axis.set_ylabel("learning rate")
    lr_axis.set_xlabel("epoch")
    for axis in (loss_axis, score_axis, lr_axis):
        axis.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
