"""Training of an encoder as a classifier of pictures, before it learns to segment.

    DIR/train/CLASS/*.jpg  DIR/val/CLASS/*.jpg

As in the public code of ERFNet (``imagenet/main.py``): random crops that are resized, mirrored;
centre crops for validation. The files written have its names, and serve ``--encoder``.
"""

from __future__ import annotations

import io
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dabnet.console import progress_columns
from dabnet.data.batches import Batch, BatchOrder, Key, begin_worker
from dabnet.data.image_files import is_image, read_image
from dabnet.errors import DabnetError, InputError
from dabnet.files import existing_directory, replacing, writable_directory
from dabnet.interrupt import Stop, stop_on_signal
from dabnet.models import UNIT, network_named
from dabnet.records import Codec, Count, Name
from dabnet.torch_file import read_torch_file
from dabnet.training.faults import told_as_one_line
from dabnet.training.folder import BEST, LAST, held_for_a_run
from dabnet.training.learner import Learner
from dabnet.training.processes import Processes
from dabnet.training.recipes import Recipe
from dabnet.training.restoring import restore
from dabnet.training.spec import TrainingResult, TrainingSpec
from dabnet.training.start import Start

LEAST_AREA, MOST_STRETCH, TRIES = 0.08, 4 / 3, 10
CENTRE = 224 / 256
"""Share of the shorter side that a centre crop shows."""

Box = tuple[float, float, float, float]


class Pictures(TorchDataset[Batch]):
    """The images of one split, each with the number of its class: folders in order of their names.

    Args:
        size: (height, width) that crops are resized to.
        seed: of random crops; None: centre crops.

    Raises:
        InputError: there are no two folders with images.
    """

    def __init__(
        self, root: Path, split: str, size: tuple[int, int], seed: int | None = None
    ) -> None:
        folder = existing_directory(root / split, "a folder with a folder of images per class")
        found = {
            child.name: sorted(filter(is_image, child.rglob("*")))
            for child in sorted(folder.iterdir())
            if child.is_dir() and not child.name.startswith(".")
        }
        self.classes = tuple(found)
        self.files = [(p, n) for n, paths in enumerate(found.values()) for p in paths]
        self.size, self.seed = size, seed
        empty = [name for name, paths in found.items() if not paths]
        if len(found) < 2 or empty:
            given = f"{str(folder)!r} holds {len(found)} folders of classes"
            if empty:
                given = f"{str(folder / empty[0])!r} holds no image"
            raise InputError(given, "two or more folders of images")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Key) -> Batch:
        """(epoch, index) → uint8 (h, w, 3) and int64 (1, 1)."""
        path, number = self.files[key[1]]
        image = read_image(path)
        rows, columns = image.shape[:2]
        mirror = False
        if self.seed is None:
            box = _centre(rows, columns, CENTRE)
        else:
            rng = np.random.default_rng([self.seed, *key])
            box, mirror = _random_box(rows, columns, rng), bool(rng.random() < 0.5)
        cropped = Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BILINEAR, box)
        pixels = np.asarray(cropped)[:, :: -1 if mirror else 1].copy()
        return torch.from_numpy(pixels), torch.tensor([[number]])


def _centre(rows: int, columns: int, share: float) -> Box:
    side = share * min(rows, columns)
    left, top = (columns - side) / 2, (rows - side) / 2
    return left, top, left + side, top + side


def _random_box(rows: int, columns: int, rng: np.random.Generator) -> Box:
    """A box of 8 to 100 % of the area whose sides differ by up to 4:3."""
    for _ in range(TRIES):
        area = rows * columns * rng.uniform(LEAST_AREA, 1)
        ratio = math.exp(rng.uniform(-math.log(MOST_STRETCH), math.log(MOST_STRETCH)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= columns and 0 < height <= rows:
            left, top = rng.integers(columns - width + 1), rng.integers(rows - height + 1)
            return float(left), float(top), float(left + width), float(top + height)
    return _centre(rows, columns, 1.0)


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress and options of such a run, which its files hold.

    Attributes:
        model: name in the registry of networks.
        recipe: as ``Recipe.to_dict`` gives it.
        seed, dilations: as of ``TrainingSpec``.
        classes: names of the folders of pictures.
        iteration: steps done.
        best: highest share of validation pictures that were right, -1 before the first.
    """

    model: Name
    recipe: dict[Name, Any]
    seed: Annotated[int, Ge(0), Lt(2**32)]
    classes: tuple[Name, ...]
    dilations: tuple[Count, ...]
    iteration: Count
    best: Annotated[float, Ge(-1), Le(1)]


_PROGRESS = Codec(
    Progress, "state of a classifier", "dabnet-train", "start a new run in another --output"
)


@dataclass(frozen=True, slots=True)
class PretrainingState:
    """A ``last.pth`` of ``pretrain``.

    Attributes:
        progress: checked.
        recipe: of the run, checked.
        weights, training: as of ``Learner.kept_weights`` and ``state``, as the file has them.
    """

    progress: Progress
    recipe: Recipe
    weights: Any
    training: dict[str, Any]


def read_state(path: Path) -> PretrainingState:
    """Read a ``last.pth`` that ``pretrain`` wrote.

    Raises:
        DabnetError: there is none, it is another file, or damaged.
    """
    content = read_torch_file(path, "the last.pth of such a run")
    if "pretraining" not in content:
        raise InputError(
            f"--resume {path} with --stage classifier", "a run that was started with this stage"
        )
    source = f"--resume {path}"
    progress = _PROGRESS.take(content["pretraining"], source)
    training = content.get("training")
    if not isinstance(training, dict) or not training:
        raise InputError(f"{source}: it holds weights only", "the last.pth of a run")
    recipe = Recipe.from_dict(progress.recipe, source)
    return PretrainingState(progress, recipe, content.get("state_dict"), training)


def pretrain(spec: TrainingSpec, root: Path, processes: Processes) -> TrainingResult:
    """Train the encoder of a network on the pictures of ``root``, or continue; Ctrl-C stops it.

    Returns:
        Its ``best_miou`` is the highest share of validation pictures that are right.
    """
    with (
        held_for_a_run(spec.output, spec.resume, processes.first),
        told_as_one_line(spec, processes),
        processes.joined(spec.device),
    ):
        run = _Pretraining(spec, root, processes)
        with stop_on_signal() as stop:
            return run.loop(stop)


class _Pretraining:
    def __init__(self, spec: TrainingSpec, root: Path, processes: Processes) -> None:
        recipe = spec.recipe
        self.spec, self.processes = spec, processes
        self.train_set = Pictures(root, "train", recipe.input_size, spec.seed)
        self.val_set = Pictures(root, "val", recipe.input_size)
        if self.val_set.classes != self.train_set.classes:
            other = min({*self.val_set.classes} ^ {*self.train_set.classes})
            raise InputError(f"only train or val of {str(root)!r} holds {other!r}", "both")
        self.order = BatchOrder(
            len(self.train_set),
            recipe.batch_size,
            recipe.max_epochs,
            spec.seed,
            rank=processes.rank,
            processes=processes.size,
        )
        state = read_state(spec.resume) if spec.resume else None
        self.dilations = spec.dilations or (state.progress.dilations if state else ())
        self.learner = Learner(
            spec,
            len(self.train_set.classes),
            -1,
            network_named(spec.model).preprocessing or UNIT,
            torch.ones(len(self.train_set.classes)),
            self.order.total,
            processes,
            Start(dilations=self.dilations),
        )
        self.best = -1.0
        if state and spec.resume:
            self._restore(state, spec.resume)
        self.folder = writable_directory(spec.output)

    def _restore(self, state: PretrainingState, path: Path) -> None:
        before, now = state.progress, self._progress()
        same = {"recipe": state.recipe == self.spec.recipe}
        same |= {
            name: getattr(before, name) == getattr(now, name)
            for name in ("model", "seed", "classes", "dilations")
        }
        for name, equal in same.items():
            if not equal:
                given = f"--resume {path}, whose run differs in {name}"
                raise InputError(given, "the same to continue it")
        if before.iteration > self.order.total:
            fault = f"iteration {before.iteration} of a run of {self.order.total}"
            _PROGRESS.refuse(f"--resume {path}", fault)
        restore(self.learner, state.weights, state.training, before.iteration, path)
        self.order.start, self.best = before.iteration, before.best

    def _progress(self) -> Progress:
        return Progress(
            self.spec.model,
            self.spec.recipe.to_dict(),
            self.spec.seed,
            self.train_set.classes,
            self.dilations,
            self.order.start,
            self.best,
        )

    def loop(self, stop: Stop) -> TrainingResult:
        per_epoch, total = self.order.batches_per_epoch, self.order.total
        losses: list[float] = []
        saved_at = time.monotonic()
        with progress_columns("iterations", self.processes.first) as bar:
            task = bar.add_task("training", total=total, completed=self.order.start, text="")
            for number, (pixels, labels) in enumerate(self._loader(), self.order.start):
                loss, asked = self.learner.step(number, pixels, labels, stop).tolist()
                if not math.isfinite(loss):
                    given = f"the loss is {loss} at iteration {number + 1}"
                    raise DabnetError(given, "a finite loss", "try a lower --lr")
                losses.append(loss)
                done = self.order.start = number + 1
                bar.update(task, completed=done, text=f"loss {loss:.3f}")
                if done % per_epoch == 0 or done == total:
                    line = f"epoch {-(-done // per_epoch)}/{self.spec.recipe.max_epochs:g}"
                    line += f"  loss {sum(losses) / len(losses):.4f}  {self._validate()}"
                    losses.clear()
                    if self.processes.first:
                        bar.console.print(line, soft_wrap=True)
                if asked or time.monotonic() - saved_at >= self.spec.save_seconds:
                    self._save(LAST)
                    saved_at = time.monotonic()
                if asked:
                    break
        return TrainingResult(self.order.start == total, self.folder / LAST, self.best, None)

    def _loader(self) -> DataLoader[Batch]:
        return self._batches(self.train_set, self.order)

    def _batches(self, pictures: Pictures, keys: Any) -> DataLoader[Batch]:
        return DataLoader(
            pictures,
            batch_sampler=keys,
            num_workers=self.spec.workers,
            pin_memory=self.spec.device.type == "cuda",
            worker_init_fn=begin_worker,
        )

    @torch.inference_mode()
    def _validate(self) -> str:
        """Save, and return the share of pictures that are right as a text."""
        self.learner.align()
        self.learner.segmenter.eval()
        mine, size = self.processes.share(len(self.val_set)), self.spec.recipe.batch_size
        keys = [[(0, index) for index in mine[at : at + size]] for at in range(0, len(mine), size)]
        device, right = self.spec.device, torch.zeros((), dtype=torch.int64)
        right = right.to(device)
        for pixels, labels in self._batches(self.val_set, keys):
            found: Tensor = self.learner.segmenter(pixels.to(device))
            right += (found == labels.to(device)).sum()
        accuracy = int(self.processes.sum_(right)) / len(self.val_set)
        better = accuracy > self.best
        self.best = max(accuracy, self.best)
        self._save(LAST)
        if better:
            self._save(BEST)
        return f"val accuracy {100 * accuracy:.2f} %"

    def _save(self, name: str) -> None:
        if not self.processes.first:
            return
        content = {
            "epoch": self.order.start // self.order.batches_per_epoch,
            "state_dict": self.learner.kept_weights(),
            "pretraining": _plain(self._progress()),
            "training": self.learner.state() if name == LAST else {},
        }
        buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError; bytes as an OSError
        torch.save(content, buffer)
        with replacing(self.folder / name) as temporary:
            temporary.write_bytes(buffer.getbuffer())


def _plain(progress: Progress) -> dict[str, Any]:
    values = asdict(progress)
    return {name: [*x] if isinstance(x, tuple) else x for name, x in values.items()}
