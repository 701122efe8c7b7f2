"""The network, its loss, its optimiser and its schedule: one step of training at a time."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dabnet.data.augmentation import recoloured, whole_image
from dabnet.data.dataset import Uint8Array
from dabnet.data.images import resize_label
from dabnet.interrupt import Stop
from dabnet.models import MOST_CLASSES, build_model, network_named
from dabnet.models.image_to_mask import ImageToMask
from dabnet.preprocessing import Preprocessing
from dabnet.training.auxiliary import WithInnerLogits, shrunk
from dabnet.training.cpu_operators import with_cpu_operators
from dabnet.training.losses import build_loss
from dabnet.training.processes import Processes, synchronised
from dabnet.training.qat import fake_quantized
from dabnet.training.recipes import CLASSIFIER, ENCODER, Recipe
from dabnet.training.spec import TrainingSpec
from dabnet.training.stages import EncoderAlone, encoder_alone, encoder_classifier
from dabnet.training.start import RANDOM, Start
from dabnet.training.teacher import Teacher, distilled

WARMUP_FACTOR = 1 / 3
_BUILD = {ENCODER: encoder_alone, CLASSIFIER: encoder_classifier}
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fastest_amp(device: torch.device) -> str:
    """Return the ``--amp`` of which a GPU makes the most: bf16 from compute capability 8.0 on, fp16
    on 7.x, none before. On a CPU it is none.

    ``torch.cuda.is_bf16_supported`` would also count a GPU that emulates it.
    """
    if device.type != "cuda":
        return "off"
    major, _ = torch.cuda.get_device_capability(device)
    return "bf16" if major >= 8 else "fp16" if major == 7 else "off"


def learning_rate(
    optimizer: Optimizer,
    total: int,
    warmup: int,
    decay: Callable[[float], float],
    done: int = 0,
) -> LambdaLR:
    """Return a scheduler to step once per iteration.

    Args:
        optimizer: its learning rates are the peak.
        total: iterations of the whole run.
        warmup: iterations over which the rate rises linearly from 1/3 of the peak to the peak.
        decay: the share of the run after the warm-up that remains, 1…0 → the share of the peak.
        done: iterations done, by a scheduler of the same optimiser.
    """

    def factor(iteration: int) -> float:
        if iteration < warmup:
            progress = iteration / warmup
            return WARMUP_FACTOR * (1 - progress) + progress
        return decay(max(0.0, 1 - (iteration - warmup) / max(1, total - warmup)))

    return LambdaLR(optimizer, factor, done - 1)


def _decayed(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return what is trained, in groups of one weight decay: weights of one axis are those of
    BatchNorm and PReLU, and biases."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    if recipe.norm_decay:
        return [{"params": trained, "weight_decay": recipe.weight_decay}]
    return [
        {"params": [w for w in trained if w.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [w for w in trained if w.dim() <= 1], "weight_decay": 0.0},
    ]


class WeightAverage:
    """Keeps a network whose weights and running statistics are averages over the steps.

    After the first update they are those of the first; each further one moves them by
    ``1 - decay`` towards the present ones. Counters are copied. Unlike
    ``torch.optim.swa_utils.AveragedModel``, an update does not make the host wait for a GPU.

    Attributes:
        network: holds the averages.
        updates: how many there were.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        ours, theirs = self.network.state_dict(), network.state_dict()
        floating = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        for name in ours.keys() - floating:
            ours[name].copy_(theirs[name])
        weight = 1 - self.decay if self.updates else 1.0
        torch._foreach_lerp_([ours[n] for n in floating], [theirs[n] for n in floating], weight)
        self.updates += 1


class Learner:
    """The network in training in this process; its state is the same in all processes of a run.

    Args:
        spec: what to train.
        classes: number of classes K.
        ignore: label of the pixels that are not counted.
        preprocessing: of an image before the network.
        class_weights: float32 (K,).
        iterations: of the whole run.
        processes: those that train together.
        start: the network to start from. If it has ranges of activations, it is trained in int8
            with these ranges and its BatchNorm statistics.
        teacher: what it learns from beside the labels.

    Raises:
        InputError: the encoder is to be trained alone, and the network has none with outputs.

    Attributes:
        kept: the network that is validated and saved: of averaged weights, if there are some.
        segmenter: it with its preprocessing; its masks are ``label_stride`` times smaller than the
            image.
        label_stride: every how many rows and columns a label is taken: 1, or the stride of an
            encoder that is trained alone.
        lag: how many steps later the outcome of a step is best read.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        classes: int,
        ignore: int,
        preprocessing: Preprocessing,
        class_weights: Tensor,
        iterations: int,
        processes: Processes,
        start: Start = RANDOM,
        teacher: Teacher | None = None,
    ) -> None:
        self.recipe, self.device, self.seed = spec.recipe, spec.device, spec.seed
        self.stride, self.fill_rgb = network_named(spec.model).stride, preprocessing.fill_rgb
        recipe, self.processes = spec.recipe, processes
        # A GPU works on while the outcome of the step before is read.
        self.lag = 1 if self.device.type == "cuda" else 0
        self.criterion = build_loss(
            recipe.loss, class_weights, ignore, processes.size, recipe.label_smoothing
        )
        self.criterion.to(self.device)

        torch.manual_seed(spec.seed)
        network = _BUILD.get(recipe.stage, build_model)(spec.model, classes, start.dilations)
        network = network.to(self.device)
        self.memory_format = torch.channels_last if spec.channels_last else torch.contiguous_format
        # mypy: torch's own stub of Module.to lacks this overload.
        network = network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        network.load_state_dict(start.state, strict=False)
        self.label_stride = self.stride if recipe.stage == ENCODER else 1
        self.activation_ranges = start.activation_ranges
        if self.activation_ranges:
            network = fake_quantized(network, self.activation_ranges)
        elif recipe.sync_bn and processes.size > 1:
            network = synchronised(network, self.device)
        if self.device.type == "cpu":
            network = with_cpu_operators(network)
        self.network = network
        self.average = WeightAverage(network, recipe.ema) if recipe.ema else None
        self.inner = WithInnerLogits(network, spec.model, classes) if recipe.auxiliary else None
        groups = _decayed(self.inner or network, recipe)
        self.optimiser: Optimizer = (
            SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
            if recipe.optimizer == "sgd"
            else Adam(groups, lr=recipe.lr)
        )
        self.schedule = self._schedule(iterations, 0)
        self.amp = AMP_TYPES.get(recipe.amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.amp == "fp16")
        kept = self.average.network if self.average else network
        self.kept = kept
        seen = EncoderAlone(kept) if recipe.stage == ENCODER else kept
        mask = torch.uint8 if classes <= MOST_CLASSES else torch.int32
        self.segmenter = ImageToMask(seen, preprocessing, mask).to(self.device)
        self._forward = self._prepared(spec)
        self.ignore, self.teacher = ignore, teacher

    def _prepared(self, spec: TrainingSpec) -> nn.Module:
        """Return the network as a step calls it: distributed and compiled, if the run is."""
        forward = (
            EncoderAlone(self.network) if self.label_stride > 1 else self.inner or self.network
        )
        if self.processes.size > 1:
            # Of depth-wise kernels: their strides differ where a side is 1, which costs nothing.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            here = [self.device] if self.device.type == "cuda" else None
            forward = DistributedDataParallel(forward, device_ids=here)
        if spec.compile:
            forward = torch.compile(forward)  # type: ignore[assignment]
        return forward

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def end_at(self, iterations: int) -> None:
        """Let the rate of the next steps be that of a run of ``iterations`` in all."""
        self.schedule = self._schedule(iterations, self.schedule.last_epoch)

    def _schedule(self, iterations: int, done: int) -> LambdaLR:
        warmup = self.recipe.warmup_of(iterations)
        return learning_rate(self.optimiser, iterations, warmup, self.recipe.decay, done)

    def step(self, iteration: int, pixels: Tensor, labels: Tensor, stop: Stop) -> Tensor:
        """Train on this process's part of a batch.

        Args:
            iteration: counted from 0; with the seed it decides every random number of the step.
            pixels: uint8 (n, h, w, 3).
            labels: uint8 (n, h, w).
            stop: says whether this process was asked to stop.

        Returns:
            float32 (2,) on the device, over all processes: the loss of the batch, and how many
            processes were asked to stop. It is not waited for.
        """
        self._reseed(iteration)
        self.network.train()
        pixels = pixels.to(self.device, non_blocking=True)
        if self.recipe.colour_jitter:
            pixels = recoloured(pixels, self._light(iteration, len(pixels)))
        middle = slice(self.label_stride // 2, None, self.label_stride)
        labels = labels[:, middle, middle].to(self.device, non_blocking=True).long()
        # An input in (N, H, W, C) order would make all of the network compute in it.
        image = self.segmenter.preprocess(pixels).contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            outputs = self._forward(image)
        shares, totals, weights = zip(*self._losses(outputs, pixels, labels), strict=True)
        weight = self.processes.sum_(torch.stack(weights).detach())
        means = torch.stack(totals) / weight.clamp_min(torch.finfo(torch.float32).tiny)
        parts = [share * mean for share, mean in zip(shares, means, strict=True)]
        loss = torch.stack(parts).sum()

        self.optimiser.zero_grad()
        # Gradients are averaged over processes, whose losses add up to that of the batch.
        self.scaler.scale(loss * self.processes.size).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimiser)
        self.scaler.update()
        with warnings.catch_warnings():
            # A step that the scaler skips is no step to the optimiser, and torch warns of it.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.schedule.step()
        if self.average is not None:
            self.average.update(self.network)
        asked = torch.full((), float(stop.asked), device=self.device)
        return self.processes.sum_(torch.stack([loss.detach(), asked]))

    def _losses(
        self, outputs: Any, pixels: Tensor, labels: Tensor
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Yield the parts of the loss: the share of each, its sum here, and the sum of weights."""
        logits, inner = outputs if self.inner else (outputs, [])
        logits, share = logits.float(), self.recipe.teacher_share
        yield 1 - share, *self.criterion(logits, labels)
        for seen in inner:
            small = shrunk(labels, seen.shape[2:])
            yield self.recipe.auxiliary, *self.criterion(seen.float(), small)
        if self.teacher:
            with torch.no_grad():
                known = self.teacher(pixels)
            yield share, *distilled(logits, known, labels != self.ignore)

    def _light(self, iteration: int, images: int) -> Tensor:
        """Draw the changes of the colours of this process's images, float32 (4, n).

        Those of a batch are the same however many processes share it.
        """
        number = int(np.random.SeedSequence([self.seed, iteration]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(number)
        drawn = 2 * torch.rand(4, images * self.processes.size, generator=generator) - 1
        first = self.processes.rank * images
        return self.recipe.colour_jitter * drawn[:, first : first + images]

    def _reseed(self, iteration: int) -> None:
        """Seed every generator, so that a run continues at any iteration as if uninterrupted."""
        place = [self.seed, iteration, self.processes.rank]
        number = int(np.random.SeedSequence(place).generate_state(1)[0])
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002  # networks and their libraries may draw from it
        torch.manual_seed(number)

    @torch.inference_mode()
    def segment(self, image: Uint8Array) -> Uint8Array:
        """Return the mask of an image of any size, uint8 (H, W, 3) → uint8 (H, W).

        An encoder alone decides once for each square of ``label_stride`` pixels a side.
        """
        pixels, (height, width) = whole_image(
            image, self.recipe.validation_scale, self.stride, self.fill_rgb
        )
        # A copy: arrays that Pillow gives are read-only, which tensors cannot be.
        mask = self.segmenter(torch.tensor(pixels[None], device=self.device))[0].cpu().numpy()
        mask = mask.repeat(self.label_stride, 0).repeat(self.label_stride, 1)
        return resize_label(mask[:height, :width], image.shape[:2])

    def align(self) -> None:
        """Give all processes the running statistics of the first, whose weights are kept."""
        self.processes.take_from_first_(list(self.kept.buffers()))

    def is_finite(self) -> bool:
        """Whether all weights are finite: the loss depends on those before the last step only."""
        networks = {self.network, self.kept}
        return all(
            bool(tensor.isfinite().all())
            for network in networks
            for tensor in network.state_dict().values()
        )

    def kept_weights(self) -> dict[str, Tensor]:
        """Return the state dict that is validated and used: the averaged one, if there is one."""
        state = self.kept.state_dict()
        return {name: tensor.cpu().contiguous() for name, tensor in state.items()}

    def state(self) -> dict[str, Any]:
        """Return the state of training, without ``kept_weights``."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            # The weights themselves, where the kept ones are their average.
            "network": self.network.state_dict() if self.average else {},
            "averaged": self.average.updates if self.average else 0,
            **({"heads": self.inner.heads.state_dict()} if self.inner else {}),
        }

    def restore(self, kept_weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from what ``kept_weights`` and ``state`` returned."""
        self.kept.load_state_dict(kept_weights)
        if self.average is not None:
            self.network.load_state_dict(state["network"])
            self.average.updates = state["averaged"]
        if self.inner:
            self.inner.heads.load_state_dict(state["heads"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
