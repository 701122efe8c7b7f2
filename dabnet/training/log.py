"""The log of a training run: a CSV file, curves, predictions, TensorBoard files, visdom."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dabnet.data.labels import LabelSet
from dabnet.errors import MissingPackage
from dabnet.files import replacing, write_text
from dabnet.metrics import Counts, class_iou, mean_iou, pixel_accuracy
from dabnet.outputs import MARK
from dabnet.pictures import save_picture
from dabnet.training.folder import CURVES, LOG, PREDICTIONS, TENSORBOARD
from dabnet.training.spec import Epoch
from dabnet.training.visdom_board import VisdomBoard

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLUMNS = tuple(field.name for field in fields(Epoch))


def tensorboard_is_installed() -> bool:
    """Whether event files can be written."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


class RunLog:
    """Writes the log of a run; processes of a rank above 0 write nothing.

    Args:
        folder: of the run.
        labels: names of the classes.
        iteration: where the run continues; TensorBoard's values of later ones are dropped.
        tensorboard: whether event files are written.
        writes: whether this process writes at all.
        visdom: whether a visdom server gets the same, in an environment named as the folder.
        scored: what is validated, beside the curve.

    Raises:
        BackendUnavailable: TensorBoard or visdom is missing, or no visdom server answers.
    """

    def __init__(
        self,
        folder: Path,
        labels: LabelSet,
        iteration: int,
        tensorboard: bool,
        writes: bool,
        visdom: bool = False,
        scored: str = "val",
    ) -> None:
        self.folder, self.labels, self.writes, self.scored = folder, labels, writes, scored
        self.boards: list[SummaryWriter | VisdomBoard] = []
        if visdom and writes:
            self.boards.append(VisdomBoard(folder.resolve().name, fresh=iteration == 0))
        if tensorboard and writes:
            if not tensorboard_is_installed():
                raise MissingPackage("tensorboard", "tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            self.boards.append(SummaryWriter(str(folder / TENSORBOARD), purge_step=iteration + 1))

    def close(self) -> None:
        for board in self.boards:
            board.close()

    def iteration(self, number: int, loss: float, lr: float) -> None:
        """Log one step; ``number`` counts from 1."""
        self._add("train/loss", loss, number)
        self._add("train/lr", lr, number)

    def _add(self, tag: str, value: float, step: int) -> None:
        for board in self.boards:
            board.add_scalar(tag, value, step)

    def epoch(self, history: Sequence[Epoch]) -> None:
        """Log the epoch that ended, the last row of ``history``."""
        if not self.writes:
            return
        # The whole log again, so that a resumed run writes no row twice.
        write_csv(history, self.folder / LOG)
        row = history[-1]
        for name, value in (("epoch", row.epoch), ("images_per_s", row.images_per_s)):
            if value is not None:
                self._add(f"train/{name}", value, row.iteration)

    def validation(self, history: Sequence[Epoch], confusion: Counts, samples: Image.Image) -> None:
        """Log the validation whose scores are in the last row of ``history``."""
        write_curves(history, self.folder / CURVES, self.scored)
        with replacing(self.folder / PREDICTIONS) as temporary:
            save_picture(samples, temporary)
        number = history[-1].iteration
        self._add("val/miou", float(mean_iou(confusion)), number)
        self._add("val/pixel_accuracy", pixel_accuracy(confusion), number)
        for name, iou in zip(self.labels.classes, class_iou(confusion), strict=True):
            if iou == iou:  # a class that does not occur has none
                self._add(f"val_iou/{name}", float(iou), number)
        for board in self.boards:
            board.add_image("predictions", np.asarray(samples), number, dataformats="HWC")
            board.flush()


def write_csv(history: Sequence[Epoch], path: Path) -> None:
    """Write one line per epoch; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, history))
    write_text(path, text.getvalue())


def write_curves(history: Sequence[Epoch], path: Path, scored: str = "val") -> None:
    """Draw loss, mIoU on what is ``scored`` and learning rate over the epochs as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    loss_axis, score_axis, lr_axis = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    epochs = [row.epoch for row in history]
    scores = [(row.epoch, 100 * row.val_miou) for row in history if row.val_miou is not None]

    loss_axis.plot(epochs, [row.loss for row in history], color="C0", marker=".")
    loss_axis.set_ylabel("training loss")
    if scores:
        score_axis.plot(*zip(*scores, strict=True), color="C1", marker="o", markersize=4)
        epoch, best = max(scores, key=lambda point: point[1])
        score_axis.set_title(f"best {best:.2f} at epoch {epoch}", loc="right", fontsize=9)
    score_axis.set_ylabel(f"mIoU on {scored}, %")
    lr_axis.plot(epochs, [row.lr for row in history], color="C2")
    lr_axis.set_ylabel("learning rate")
    lr_axis.set_xlabel("epoch")
    for axis in (loss_axis, score_axis, lr_axis):
        axis.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": MARK})
