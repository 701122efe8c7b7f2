"""Training: one loop, interruptible at any iteration, that continues exactly where it stopped."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dabnet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dabnet.console import progress_bar, progress_columns
from dabnet.data.batches import (
    AugmentedImages,
    BatchOrder,
    cached_if_small,
    training_batches,
)
from dabnet.data.dataset import Dataset, Uint8Array
from dabnet.data.statistics import measure
from dabnet.data.transforms import Augmentation
from dabnet.errors import DabnetError
from dabnet.evaluation import confusion_per_image
from dabnet.files import writable_directory
from dabnet.interrupt import Stop, stop_on_signal
from dabnet.losses import build_loss, rarity_weights
from dabnet.metrics import Counts, mean_iou, pixel_accuracy
from dabnet.models import build_model
from dabnet.models.image_to_mask import ImageToMask
from dabnet.preprocessing import Preprocessing
from dabnet.schedule import build_optimizer, warmup_poly
from dabnet.training_log import History, write_csv, write_curves
from dabnet.training_spec import TrainingResult, TrainingSpec, check_resumable

LAST, BEST, LOG, CURVES = "last.pth", "best.pth", "log.csv", "curves.png"


def train(spec: TrainingSpec, train_set: Dataset, val_set: Dataset) -> TrainingResult:
    """Train, or continue, until the recipe's last epoch or an interrupt (SIGINT, SIGTERM)."""
    run = _Run(spec, train_set, val_set)
    with stop_on_signal() as stop:
        return run.loop(stop)


class _Run:
    """The state of one run: network, optimiser, schedule, history."""

    def __init__(self, spec: TrainingSpec, train_set: Dataset, val_set: Dataset) -> None:
        self.spec, self.recipe, self.labels = spec, spec.recipe, train_set.labels
        self.dataset_name = train_set.name
        self.train_set, self.val_set = cached_if_small(train_set), cached_if_small(val_set)
        self.device = spec.device
        resumed = load_checkpoint(spec.resume, self.dataset_name) if spec.resume else None
        if resumed is not None:
            check_resumable(resumed, spec, train_set)
        self.order = BatchOrder(
            len(train_set), self.recipe.batch_size, self.recipe.max_epochs, spec.seed
        )
        writable_directory(spec.output)

        if resumed is not None:
            self.preprocessing = resumed.preprocessing
            self.class_share = np.array(resumed.training["class_share"])
        else:
            self._measure()
        weights = rarity_weights(self.class_share)
        self.criterion = build_loss(self.recipe.loss, weights, self.labels.ignore).to(self.device)

        torch.manual_seed(spec.seed)
        self.network = build_model(spec.model, len(self.labels.classes)).to(self.device)
        self.segmenter = ImageToMask(self.network, self.preprocessing).to(self.device)
        self.optimiser = build_optimizer(self.recipe, self.network)
        self.schedule = warmup_poly(
            self.optimiser,
            self.order.total,
            self.recipe.warmup_of(self.order.total),
            self.recipe.poly_power,
        )
        self.iteration, self.loss_sum, self.lr = 0, 0.0, 0.0
        self.best: float | None = None
        self.saved = spec.resume
        self.history: History = []
        self.confusion: Counts | None = None
        if resumed is not None:
            self._restore(resumed)

    def loop(self, stop: Stop) -> TrainingResult:
        per_epoch = self.order.batches_per_epoch
        self.order.start = self.iteration
        images = AugmentedImages(self.train_set, self._augmentation(), self.spec.seed)
        batches = training_batches(
            images, self.order, self.spec.workers, self.device.type == "cuda"
        )
        with progress_columns("iterations") as bar:
            task = bar.add_task(
                "training", total=self.order.total, completed=self.iteration, text=""
            )
            started, seen = time.perf_counter(), 0
            for pixels, labels in batches:
                loss = self._step(pixels, labels)
                seen += len(labels)
                rate = seen / (time.perf_counter() - started)
                epoch = -(-self.iteration // per_epoch)
                text = f"epoch {epoch}  loss {loss:.3f}  lr {self.lr:.2e}  {rate:.1f} images/s"
                bar.update(task, completed=self.iteration, text=text)
                if self.iteration % per_epoch == 0:
                    line = self._end_epoch(epoch, rate)
                    if line:
                        bar.console.print(line)
                    started, seen = time.perf_counter(), 0
                if stop.asked and self.iteration < self.order.total:
                    break
        finished = self.iteration == self.order.total
        if not finished:
            self._save_last()
        return TrainingResult(finished, self.spec.output / LAST, self.best, self.confusion)

    def _measure(self) -> None:
        """Read both splits: what training needs to know, and bad files now, not epochs later."""
        with progress_bar("reading the training split", len(self.train_set)) as step:
            statistics = measure(self.train_set, step)
        with progress_bar("reading the validation split", len(self.val_set)) as step:
            measure(self.val_set, step)
        self.preprocessing = Preprocessing(statistics.mean_rgb)
        self.class_share = statistics.class_share

    def _step(self, pixels: Tensor, labels: Tensor) -> float:
        self.network.train()
        pixels = pixels.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True).long()
        logits = self.network(self.segmenter.preprocess(pixels))
        loss = self.criterion(logits, labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DabnetError(
                f"the loss is {value} at iteration {self.iteration + 1}",
                "a finite loss",
                "try a lower --lr"
                + (f"; the last good checkpoint is {self.saved}" if self.saved else ""),
            )
        self.optimiser.zero_grad()
        loss.backward()
        self.lr = float(self.schedule.get_last_lr()[0])
        self.optimiser.step()
        self.schedule.step()
        self.iteration += 1
        self.loss_sum += value
        return value

    def _end_epoch(self, epoch: int, rate: float) -> str:
        """Log, validate where it is due, save; return the line to print, or nothing."""
        recipe, spec = self.recipe, self.spec
        row: dict[str, Any] = {
            "epoch": epoch,
            "iteration": self.iteration,
            "lr": self.lr,
            "loss": self.loss_sum / self.order.batches_per_epoch,
            "val_miou": None,
            "val_pixel_accuracy": None,
            "images_per_s": round(rate, 3),
        }
        self.loss_sum = 0.0
        self.history.append(row)
        due = epoch % spec.eval_every == 0 or epoch == recipe.max_epochs
        if due:
            self.confusion = self._validate()
            row["val_miou"] = float(mean_iou(self.confusion))
            row["val_pixel_accuracy"] = pixel_accuracy(self.confusion)
            if self.best is None or row["val_miou"] > self.best:
                self.best = row["val_miou"]
                save_checkpoint(self._checkpoint(epoch), spec.output / BEST)
        self._save_last()
        write_csv(self.history, spec.output / LOG)
        if not due:
            return ""
        write_curves(self.history, spec.output / CURVES)
        return (
            f"epoch {epoch}/{recipe.max_epochs}  loss {row['loss']:.4f}"
            f"  val mIoU {100 * row['val_miou']:.2f} %"
            f"  pixel accuracy {100 * row['val_pixel_accuracy']:.2f} %  {rate:.1f} images/s"
        )

    def _validate(self) -> Counts:
        self.segmenter.eval()

        def segment(image: Uint8Array) -> Uint8Array:
            mask = self.segmenter(torch.from_numpy(image)[None].to(self.device))
            array: Uint8Array = mask[0].cpu().numpy()
            return array

        items = (self.val_set[index] for index in range(len(self.val_set)))
        with torch.inference_mode():
            per_image = confusion_per_image(segment, items, len(self.labels.classes))
        matrix: Counts = per_image.sum(0)
        return matrix

    def _augmentation(self) -> Augmentation:
        red, green, blue = (round(value) for value in self.preprocessing.mean_rgb)
        return Augmentation(
            self.recipe.input_size, self.recipe.scales, (red, green, blue), self.labels.ignore
        )

    def _checkpoint(self, epoch: int, training: dict[str, Any] | None = None) -> Checkpoint:
        scores = next((r for r in reversed(self.history) if r["val_miou"] is not None), None)
        metrics = {k: scores[k] for k in ("val_miou", "val_pixel_accuracy")} if scores else {}
        return Checkpoint(
            self.spec.model,
            {name: tensor.cpu() for name, tensor in self.network.state_dict().items()},
            self.dataset_name,
            self.labels,
            self.preprocessing,
            epoch,
            metrics,
            self.recipe.to_dict(),
            training or {},
        )

    def _save_last(self) -> None:
        training = {
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "iteration": self.iteration,
            "loss_sum": self.loss_sum,
            "best": self.best,
            "history": self.history,
            "seed": self.spec.seed,
            "split": self.train_set.split,
            "images": len(self.train_set),
            "eval_every": self.spec.eval_every,
            "class_share": self.class_share.tolist(),
        }
        epoch = self.iteration // self.order.batches_per_epoch
        self.saved = self.spec.output / LAST
        save_checkpoint(self._checkpoint(epoch, training), self.saved)

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.training
        self.network.load_state_dict(checkpoint.state)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.iteration, self.loss_sum = state["iteration"], state["loss_sum"]
        self.best, self.history = state["best"], state["history"]
