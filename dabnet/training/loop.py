"""The training loop: interruptible at any iteration, it continues exactly where it stopped."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dabnet.checkpoint import Checkpoint, Given, load_checkpoint
from dabnet.console import progress_bar, progress_columns
from dabnet.data.augmentation import Augmentation
from dabnet.data.batches import Batch, BatchOrder, batches, choose_data_path
from dabnet.data.dataset import Dataset, Uint8Array, evenly_spaced
from dabnet.data.file_pairs import seen_by
from dabnet.data.images import resize_image, resize_label
from dabnet.data.memory import HOST_BYTES, DifferentSizes, on_host_if_small, read_ahead
from dabnet.data.splits import holds
from dabnet.data.statistics import CountsCache, SplitCounts, check_classes_occur, count_pixels
from dabnet.errors import DabnetError, InputError
from dabnet.interrupt import Stop, stop_on_signal
from dabnet.metrics import Counts, confusion, mean_iou, pixel_accuracy
from dabnet.models import network_named
from dabnet.pictures import overlay, panel
from dabnet.training.faults import told_as_one_line
from dabnet.training.folder import CURVES, LAST, RunFolder, held_for_a_run
from dabnet.training.learner import Learner
from dabnet.training.log import RunLog, write_curves
from dabnet.training.losses import rarity_weights
from dabnet.training.measuring import measured_step_s
from dabnet.training.processes import Processes
from dabnet.training.qat import qat_start
from dabnet.training.recipes import MOST_EPOCHS, eval_interval
from dabnet.training.restoring import restore
from dabnet.training.spec import (
    Epoch,
    RunState,
    TrainingResult,
    TrainingSpec,
    hash_of_teacher,
    resumable_state,
)
from dabnet.training.start import Start, new_start
from dabnet.training.teacher import open_teacher, trained_on
from dabnet.training.time_limit import PLAN_MARGIN, Costs, TimeLimit, Watch

if TYPE_CHECKING:
    from rich.progress import Progress

TEST = "test"
SAMPLES = 3
SAMPLE_WIDTH = 480
TIMED_IMAGES = 3
ALONE = Processes()


def train(
    spec: TrainingSpec, train_set: Dataset, val_set: Dataset, processes: Processes = ALONE
) -> TrainingResult:
    """Train, or continue, until the recipe's last epoch or an interrupt (SIGINT, SIGTERM).

    Every process of a run calls this with equal arguments; that of rank 0 prints and writes.
    """
    with (
        held_for_a_run(spec.output, spec.resume, processes.first),
        told_as_one_line(spec, processes),
        processes.joined(spec.device),
    ):
        run = _Run(spec, train_set, val_set, processes)
        with stop_on_signal() as stop:
            return run.loop(stop)


class _Run:
    """One run: its data, its progress and its files."""

    def __init__(
        self, spec: TrainingSpec, train_set: Dataset, val_set: Dataset, processes: Processes
    ) -> None:
        self.spec, self.recipe, self.processes = spec, spec.recipe, processes
        self.labels, budget = train_set.labels, HOST_BYTES // processes.size
        self.train_set, self.val_set = (on_host_if_small(d, budget) for d in (train_set, val_set))
        resumed = load_checkpoint(spec.resume, Given(train_set.name)) if spec.resume else None
        state = resumable_state(resumed, spec, train_set, val_set) if resumed else None
        if resumed:
            start = Start.of(resumed)
        elif spec.qat:
            start = Start.of(qat_start(spec.qat, spec, self.train_set, processes))
        else:
            start = new_start(spec, self.labels)
        self.notes = [start.note] if start.note else []
        self.dilations = start.dilations
        # What is kept must not be chosen by a test. Otherwise, what is fine-tuned is scored first.
        self.scores_once = val_set.split == TEST
        self.scores_start = bool(start.activation_ranges) and not self.scores_once
        self.teacher_sha256 = hash_of_teacher(spec)
        teacher = (
            open_teacher(spec.teacher, train_set, self.recipe.input_size, spec.device)
            if spec.teacher
            else None
        )
        own = f"{train_set.name} {train_set.split}"
        learned = (*start.trained_on, *(trained_on(spec.teacher) if spec.teacher else ()))
        self.trained_on = tuple(dict.fromkeys((*learned, own)))
        self.seen = seen_by(learned, val_set)
        if holds(train_set.split, val_set.split):
            self.seen = own
        if self.seen:
            what = f"trained on {self.seen}, which holds images of {val_set.split}"
            self.notes.append(f"{what}: a score there is no measure of accuracy on new images")
        self.order = BatchOrder(
            len(train_set),
            self.recipe.batch_size,
            self.recipe.max_epochs,
            spec.seed,
            rank=processes.rank,
            processes=processes.size,
        )
        self.folder = RunFolder(spec.output, spec.resume)
        self.counts = state.counts if state else self._count()
        fresh = network_named(spec.model).training_preprocessing(self.counts.mean_rgb)
        self.preprocessing = start.preprocessing or fresh
        self.learner = Learner(
            spec,
            len(self.labels.classes),
            self.labels.ignore,
            self.preprocessing,
            rarity_weights(self.counts.class_share, self.recipe.rarity),
            self.order.total,
            processes,
            start,
            teacher,
        )
        before = state.data_path if state else None
        self.data_path = choose_data_path(spec.data_path, before, train_set, spec.device)
        self.iteration, self.loss_sum = (state.iteration, state.loss_sum) if state else (0, 0.0)
        self.best, self.history = (state.best, [*state.history]) if state else (None, [])
        if resumed is not None and spec.resume is not None:
            restore(self.learner, resumed.state, resumed.training, self.iteration, spec.resume)
        self.loss, self.lr = math.nan, 0.0
        self.confusion: Counts | None = None
        self.unread: deque[tuple[int, float, Tensor]] = deque()
        self.stop_agreed = False
        usual = state.eval_every if state else eval_interval(self.recipe.max_epochs)
        self.eval_every = spec.eval_every or usual
        self.source = self._batches()
        self.watch = self._fit(spec.limit) if spec.limit else None
        self.log = RunLog(
            *(spec.output, self.labels, self.iteration, spec.tensorboard, processes.first),
            spec.visdom,
            scored=val_set.split + (" (seen in training)" if self.seen else ""),
        )

    def _count(self) -> SplitCounts:
        """Return the pixel counts of the training split.

        Both splits are read, unless the cache has them: a bad file is found now, not epochs later.
        """
        counts = self._counts_of(self.train_set, "reading the training split")
        split = self.train_set.split
        for name in check_classes_occur(counts, self.labels, split):
            self.notes.append(f"no label of the {split} split holds the class {name}")
        scored = self._counts_of(self.val_set, "reading the validation split")
        if not any(scored.class_pixels):
            raise _nothing_to_score()
        return counts

    def _counts_of(self, dataset: Dataset, what: str) -> SplitCounts:
        """Each process reads its share; ``what`` stands beside the progress bar."""
        processes, device = self.processes, self.spec.device
        cache = CountsCache(self.spec.cache_dir) if self.spec.cache_dir else None
        known = cache.load(dataset) if cache else None
        if processes.agree(known is not None, device) and known is not None:
            return known
        share = processes.share(len(dataset))
        with progress_bar(what, len(share), shown=processes.first) as step:
            part = count_pixels(dataset, share, step)
        numbers = [*part.class_pixels, *part.colour_sum, part.pixels]
        sums = processes.sum_(torch.tensor(numbers, dtype=torch.int64, device=device)).tolist()
        counts = SplitCounts(tuple(sums[:-4]), tuple(sums[-4:-1]), sums[-1])
        if cache and processes.first:
            cache.store(dataset, counts)
        return counts

    def _fit(self, limit: TimeLimit) -> Watch:
        """Make the epochs of the recipe as many as fit into the limit, by measured times."""
        per_epoch = self.order.batches_per_epoch
        asked = MOST_EPOCHS if self.scores_once else self.spec.eval_every
        (used_s,) = self.processes.largest([limit.used_s], self.spec.device)
        if limit.left_s(PLAN_MARGIN, used_s) <= 0:
            raise limit.too_short(Costs(0.0, 0.0), used_s)
        # Workers have made some batches before they are asked for them.
        warm_up = 2 + 2 * self.spec.workers
        with progress_columns("steps", self.processes.first) as bar:
            task = bar.add_task("measuring the speed", total=None, text="")
            step_s = measured_step_s(
                self.learner, self.source, warm_up, limit.measure_s, lambda: bar.advance(task)
            )
            # The slowest process decides.
            times = [step_s, self._measured_validation_s(), limit.used_s]
            step_s, validation_s, used_s = self.processes.largest(times, self.spec.device)
            costs = Costs(step_s, validation_s)
            first = 0 if self.scores_start else 1
            left_s = limit.left_s(PLAN_MARGIN, used_s)
            total = costs.fitting(left_s, 0, self.order.total, per_epoch, asked, first)
            if total == 0:
                raise limit.too_short(costs, used_s, validations=2 - first)
            self._end_at(total)
            self.eval_every = asked or costs.interval(per_epoch, self.recipe.max_epochs)
            self._show(
                bar,
                f"fits {self.recipe.max_epochs:g} epochs into {limit.minutes:g} minutes:"
                f" {self.recipe.batch_size / step_s:.1f} images/s; validations take"
                f" {validation_s:.1f} s, one per {self.eval_every} of the epochs",
            )
        return Watch(limit, costs, total)

    def _measured_validation_s(self) -> float:
        """Return the seconds of a validation, estimated from a few images."""
        share = self.processes.share(len(self.val_set))
        row = Epoch(0, 0, val_miou=0.0, val_pixel_accuracy=0.0)
        with TemporaryDirectory() as name:
            folder = Path(name)
            self.learner.segmenter.eval()
            # What comes once: the choice of kernels, and the import of what draws.
            matrix = self._confusion_of(share[:1])
            if self.processes.first:
                write_curves([row], folder / CURVES)
            started = time.monotonic()
            timed = share[:TIMED_IMAGES]
            self._confusion_of(timed)
            scored_s = (time.monotonic() - started) * len(share) / max(1, len(timed))
            if self.processes.first:
                started = time.monotonic()
                log = RunLog(folder, self.labels, 0, tensorboard=False, writes=True)
                log.validation([row], matrix, self._samples())
                RunFolder(folder).save_best(self._checkpoint(self.learner.state()))
                scored_s += time.monotonic() - started
        return scored_s

    def _end_at(self, total: int) -> None:
        """Let the run, its recipe and its schedule end after ``total`` iterations."""
        epochs, rest = divmod(total, self.order.batches_per_epoch)
        exact = total / self.order.batches_per_epoch if rest else epochs
        self.recipe = replace(self.recipe, max_epochs=exact)
        self.order.total = total
        self.learner.end_at(total)

    def _keep_to_the_limit(self, watch: Watch) -> str:
        """Give up what no longer fits; return the line to print, or nothing."""
        per_epoch, planned = self.order.batches_per_epoch, self.order.total
        own = watch.total(self.iteration, planned, per_epoch, self.eval_every)
        total = -int(self.processes.largest([-own], self.spec.device)[0])
        watch.begin(self.iteration, total)
        if total == planned:
            return ""
        before = self.recipe.max_epochs
        self._end_at(total)
        return f"slower than planned: {self.recipe.max_epochs:g} epochs fit, no longer {before:g}"

    def loop(self, stop: Stop) -> TrainingResult:
        self.saved_at = time.monotonic()
        with closing(self.log), progress_columns("iterations", self.processes.first) as bar:
            task = bar.add_task(
                "training", total=self.order.total, completed=self.iteration, text=""
            )
            for note in self.notes:
                self._show(bar, note)
            if self.scores_start and not self.history:
                self._show(bar, self._score_start())
            started, seen = time.monotonic(), 0
            for pixels, labels in self.source:
                lr = self.learner.lr
                outcome = self.learner.step(self.iteration, pixels, labels, stop)
                self.unread.append((self.iteration, lr, outcome))
                self.iteration += 1
                self._read(self.learner.lag)
                seen += self.recipe.batch_size
                rate = seen / (time.monotonic() - started)
                epoch = -(-self.iteration // self.order.batches_per_epoch)
                text = f"epoch {epoch}  loss {self.loss:.3f}  lr {lr:.2e}  {rate:.1f} images/s"
                bar.update(task, completed=self.iteration, total=self.order.total, text=text)
                if self.watch and self.watch.is_due(self.iteration):
                    self._show(bar, self._keep_to_the_limit(self.watch))
                at_end = self.iteration == self.order.total
                if at_end or self.iteration % self.order.batches_per_epoch == 0:
                    self._read(0)
                    self._show(bar, self._end_epoch(epoch, rate))
                    started, seen = time.monotonic(), 0
                if at_end or self.stop_agreed:
                    break
                # A run that dies can be continued after its first step.
                due = time.monotonic() - self.saved_at >= self.spec.save_seconds
                if self.processes.first and (due or self.folder.last is None):
                    self._save_last()
        finished = self.iteration == self.order.total
        if not finished:
            self._save_last()
        last = self.folder.path / LAST
        return TrainingResult(finished, last, self.best, self.confusion, self.seen)

    def _batches(self) -> Iterable[Batch]:
        spec, recipe = self.spec, self.recipe
        augmentation = Augmentation(
            recipe.input_size,
            recipe.scales,
            self.preprocessing.fill_rgb,
            self.labels.ignore,
            recipe.rare_crops,
        )
        self.order.start = self.iteration
        how = (self.train_set, augmentation, self.order, spec.device, spec.workers)
        try:
            return batches(self.data_path, *how, shown=self.processes.first)
        except DifferentSizes:
            if spec.data_path != "auto":
                raise
            self.data_path = "workers"
            return batches(self.data_path, *how, shown=self.processes.first)

    def _read(self, lag: int) -> None:
        """Wait for the outcome of all steps but the ``lag`` newest."""
        while len(self.unread) > lag:
            iteration, self.lr, outcome = self.unread.popleft()
            self.loss, asked = outcome.tolist()
            if not math.isfinite(self.loss):
                batch = self.order.batch(iteration)
                names = ", ".join(self.train_set[index].name for _, index in batch)
                raise self._not_finite(
                    f"the loss is {self.loss} at iteration {iteration + 1}, whose batch was"
                    f" {names}",
                    "a finite loss",
                )
            self.loss_sum += self.loss
            self.stop_agreed |= asked > 0
            self.log.iteration(iteration + 1, self.loss, self.lr)

    def _not_finite(self, given: str, expected: str) -> DabnetError:
        half = "--amp bf16 or off, or " if self.recipe.amp == "fp16" else ""
        good = f"; the last good state is {self.folder.last}" if self.folder.last else ""
        return DabnetError(given, expected, f"try {half}a lower --lr in another --output{good}")

    def _score_start(self) -> str:
        """Validate before the first step of fine-tuning, so that only a better state is kept as the
        best. Return the line to print."""
        self.history.append(Epoch(0, 0))
        return f"start, in int8  {self._validate()}"

    def _end_epoch(self, epoch: int, rate: float) -> str:
        """Log, validate if it is due, save; return the line to print, or nothing."""
        steps = (self.iteration - 1) % self.order.batches_per_epoch + 1
        loss, self.loss_sum = self.loss_sum / steps, 0.0
        row = Epoch(epoch, self.iteration, self.lr, loss, images_per_s=round(rate, 3))
        self.history.append(row)
        due = epoch % self.eval_every == 0 and not self.scores_once
        if not due and self.iteration < self.order.total:
            self.log.epoch(self.history)
            return ""
        scores = self._validate()
        place = f"epoch {epoch}/{self.recipe.max_epochs:g}"
        return f"{place}  loss {loss:.4f}  {scores}  {rate:.1f} images/s"

    def _validate(self) -> str:
        """Score the kept weights into the newest row of the history; save and log."""
        started = time.monotonic()
        self._require_finite()
        matrix = self.confusion = self._score()
        if not matrix.any():
            raise _nothing_to_score()
        miou, accuracy = float(mean_iou(matrix)), pixel_accuracy(matrix)
        self.history[-1] = replace(self.history[-1], val_miou=miou, val_pixel_accuracy=accuracy)
        if self.best is None or miou > self.best:
            self.best = miou
            if self.processes.first:
                self.folder.save_best(self._checkpoint({}))
        self._save_last()
        self.log.epoch(self.history)
        if self.processes.first:
            self.log.validation(self.history, matrix, self._samples())
        if self.watch:
            self.watch.validated(time.monotonic() - started)
        return f"val mIoU {100 * miou:.2f} %  pixel accuracy {100 * accuracy:.2f} %"

    def _score(self) -> Counts:
        """Return the confusion matrix of the validation split at the images' own size, int64
        (K, K); each process scores a share."""
        self.learner.align()
        self.learner.segmenter.eval()
        matrix = self._confusion_of(self.processes.share(len(self.val_set)))
        total = self.processes.sum_(torch.from_numpy(matrix).to(self.learner.device))
        result: Counts = total.cpu().numpy()
        return result

    def _confusion_of(self, indices: Sequence[int]) -> Counts:
        classes = len(self.labels.classes)
        matrix = np.zeros((classes, classes), np.int64)
        every = self.learner.label_stride
        taken = (slice(every // 2, None, every),) * 2
        for item in read_ahead(self.val_set.__getitem__, indices):
            matrix += confusion(self._segment(item.image)[taken], item.label[taken], classes)
        return matrix

    def _samples(self) -> Image.Image:
        """Return some images, each in a row with its truth and its prediction."""
        pictures = []
        for index in evenly_spaced(len(self.val_set), SAMPLES):
            item = self.val_set[index]
            height, width = item.label.shape
            shrink = min(1.0, SAMPLE_WIDTH / width)
            size = (round(height * shrink), round(width * shrink))
            image = resize_image(item.image, size)
            pictures.append((item.name, image))
            for caption, mask in (("truth", item.label), ("prediction", self._segment(item.image))):
                pictures.append((caption, overlay(image, resize_label(mask, size), self.labels)))
        return panel(pictures, columns=3)

    def _segment(self, image: Uint8Array) -> Uint8Array:
        return self.learner.segment(image)

    def _show(self, bar: Progress, line: str) -> None:
        if line and self.processes.first:
            bar.console.print(line, soft_wrap=True)

    def _require_finite(self) -> None:
        """Raise before a useless state replaces a good one."""
        if not self.learner.is_finite():
            raise self._not_finite(
                f"weights are no longer finite after iteration {self.iteration}", "finite weights"
            )

    def _checkpoint(self, training: dict[str, Any]) -> Checkpoint:
        scored = [row for row in self.history if row.val_miou is not None][-1:]
        metrics = {k: asdict(row)[k] for row in scored for k in ("val_miou", "val_pixel_accuracy")}
        return Checkpoint(
            self.spec.model,
            self.learner.kept_weights(),
            self.train_set.name,
            self.labels,
            self.preprocessing,
            self.iteration // self.order.batches_per_epoch,
            metrics,
            self.recipe.to_dict(),
            training,
            self.learner.activation_ranges,
            self.dilations,
            self.trained_on,
        )

    def _save_last(self) -> None:
        """Save the state that continues the run; only the process of rank 0 writes."""
        self._read(0)
        if not self.processes.first:
            return
        self._require_finite()
        self.saved_at = time.monotonic()
        state = RunState(
            iteration=self.iteration,
            loss_sum=self.loss_sum,
            best=self.best,
            history=tuple(self.history),
            seed=self.spec.seed,
            split=self.train_set.split,
            val_split=self.val_set.split,
            teacher=str(self.spec.teacher or ""),
            teacher_sha256=self.teacher_sha256,
            images=len(self.train_set),
            eval_every=self.eval_every,
            counts=self.counts,
            data_path=self.data_path,
            compile=self.spec.compile,
            channels_last=self.spec.channels_last,
        )
        self.folder.save_last(self._checkpoint(self.learner.state() | asdict(state)))


def _nothing_to_score() -> InputError:
    return InputError(
        "no pixel of the validation split has a class: there is no mIoU of it",
        "labels that hold classes",
        "see what they hold with: dabnet-data check DIR",
    )
