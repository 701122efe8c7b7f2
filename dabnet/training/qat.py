"""Fake quantisation: convolutions that round their input and weights to int8 while they train.

The same places and the same arithmetic as the INT8 export with Q/DQ at the inputs of convolutions:
127 levels on each side of 0, one scale per input, one per output channel of the weights.
The gradient passes through the rounding as if it were not there, and stops at inputs that are
clipped (Jacob et al. 2018, arXiv 1712.05877, section 3; Krishnamoorthi 2018, arXiv 1806.08342).

The export folds a BatchNorm behind a convolution into its weights: a factor for each output
channel, which goes into that channel's scale and leaves the levels as they are. So the weights that
are rounded here, unfolded, are those that the export rounds, folded.

Fine-tuning starts from a trained network and from ranges that are read off training images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dabnet.checkpoint import Checkpoint, Given, load_checkpoint
from dabnet.console import progress_bar
from dabnet.data.augmentation import whole_image
from dabnet.data.dataset import Dataset, evenly_spaced
from dabnet.errors import ArtifactError, InputError
from dabnet.models import network_named
from dabnet.models.image_to_mask import ImageToMask
from dabnet.training.processes import Processes
from dabnet.training.spec import TrainingSpec

LEVELS = 127  # -128 is left out, so that the levels are symmetric around 0

# An all-zero channel would have scale 0; with this one, the export's, it stays zero.
MIN_SCALE = 2.0**-60


class FakeQuantConv2d(nn.Conv2d):
    """A convolution of int8 values in float32.

    Attributes:
        input_range: float32 (): inputs beyond ± this are clipped. It is no part of the state dict,
            which stays that of the float network.
    """

    input_range: Tensor

    def forward(self, input: Tensor) -> Tensor:
        # Rounded in float32 under autocast, too, which may make the convolution half.
        rounded = _rounded_input(input.float(), self.input_range)
        weight = _rounded_weight(self.weight.float())
        return F.conv2d(
            rounded, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm by its running statistics, in training as well; slope and offset are trained.

    The network is scored and exported with the running statistics, and those of a short run are
    the statistics of its last few batches (compare Krishnamoorthi 2018).
    """

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        super().train(False)
        return self


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the convolutions of ``network`` by the names of their modules."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def fake_quantized(network: nn.Module, activation_ranges: Mapping[str, float]) -> nn.Module:
    """Return ``network``, changed in place: it computes in int8, and its statistics are frozen.

    The names of its state dict stay the same. Transposed convolutions stay float, as in the export.

    Args:
        activation_ranges: threshold t > 0 of the input of each convolution, by its module's name.
            One that the network does not use has none.
    """
    found = convolutions(network)
    for name, threshold_value in activation_ranges.items():
        convolution = found[name]
        threshold = torch.tensor(threshold_value, device=convolution.weight.device)
        convolution.__class__ = FakeQuantConv2d
        convolution.register_buffer("input_range", threshold, persistent=False)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = FrozenBatchNorm2d
            module.eval()
    return network


def _rounded_input(values: Tensor, threshold: Tensor) -> Tensor:
    scale = (threshold / LEVELS).clamp_min(MIN_SCALE)
    zero = torch.zeros((), dtype=torch.int32, device=values.device)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, -LEVELS, LEVELS)


def _rounded_weight(weight: Tensor) -> Tensor:
    """Round weights (O, I, rows, columns); the range of an output channel is its largest |w|."""
    largest = weight.detach().abs().amax((1, 2, 3))
    scales = (largest / LEVELS).clamp_min(MIN_SCALE)
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -LEVELS, LEVELS)


BINS = 2048


@torch.no_grad()
def observed_ranges(
    network: nn.Module,
    names: Sequence[str],
    image: Callable[[int], Tensor],
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return the threshold of each convolution's input with the least squared error of int8.

    Every image is read twice: for the largest |x|, and for a histogram up to it.

    Args:
        network: in evaluation mode, float32.
        names: of the images.
        image: number of an image → preprocessed float32 (1, 3, H, W) on the network's device.
        progress: called after each look at an image.

    Returns:
        By module name; convolutions that read the same tensor have the same range. Numbers that
        float32 holds exactly.

    Raises:
        ArtifactError: an activation is NaN or infinite.
    """
    modules = convolutions(network)
    inputs: dict[str, Tensor] = {}  # held, so that no other tensor takes the place of one
    with _watched(modules, inputs.__setitem__):
        network(image(0))
    # Convolution → the first of those that read the same tensor.
    first: dict[int, str] = {}
    leader = {name: first.setdefault(id(tensor), name) for name, tensor in inputs.items()}
    inputs.clear()
    observed = {name: modules[name] for name in first.values()}
    largest: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}

    def measure(name: str, values: Tensor) -> None:
        top = values.abs().amax()
        largest[name] = torch.maximum(top, largest.get(name, top))

    def count(name: str, values: Tensor) -> None:
        top = float(largest[name])
        # A histogram of zero width would be one of another range.
        bins = torch.histc(values.float().abs(), BINS, 0, top or 1.0).double()
        counts[name] = counts[name] + bins if name in counts else bins

    for look in (measure, count):
        with _watched(observed, look):
            for number, image_name in enumerate(names):
                network(image(number))
                for name, top in largest.items():
                    if not bool(top.isfinite()):
                        raise ArtifactError(
                            f"the input of the convolution {name!r} is {float(top)} on image"
                            f" {image_name!r}",
                            "finite activations",
                            "check the checkpoint: its training may have diverged",
                        )
                progress()
    ranges = {name: least_error_range(counts[name], float(largest[name])) for name in observed}
    return {name: ranges[leader[name]] for name in leader}


@contextmanager
def _watched(
    modules: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Show ``see`` the name and the input of each module that runs in the block."""
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: see(name, given[0]))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def least_error_range(counts: Tensor, largest: float) -> float:
    """Return the threshold t that minimises rounding plus clipping error.

    Rounding errs by step²/12 on average within ±t, step = t / 127; clipping by (|x| - t)² beyond
    (Banner et al. 2019, arXiv 1810.05723, section 3).

    Args:
        counts: float64 (bins,): of |x| in equal bins over [0, ``largest``].
        largest: the largest |x|.
    """
    if largest == 0:
        return 0.0
    bins = len(counts)
    width = largest / bins
    centres = (torch.arange(bins, dtype=torch.float64, device=counts.device) + 0.5) * width
    edges = torch.arange(1, bins + 1, dtype=torch.float64, device=counts.device) * width
    inside = counts.cumsum(0)
    # Of the values above each edge: how many, their sum, and the sum of their squares.
    above, first, second = (
        (counts * centres**power).sum() - (counts * centres**power).cumsum(0) for power in (0, 1, 2)
    )
    rounding = inside * (edges / LEVELS) ** 2 / 12
    clipping = second - 2 * edges * first + edges**2 * above
    return float(edges[(rounding + clipping).argmin()].float())


RANGE_IMAGES = 32


def load_float_checkpoint(path: Path, dataset: str | None, model: str | None) -> Checkpoint:
    """Return the checkpoint of ``--qat``.

    Args:
        dataset, model: what was asked for beside it; None takes the checkpoint's own.

    Raises:
        DabnetError: it is no checkpoint, is of another data set or network, or has been trained
            with fake quantisation already.
    """
    checkpoint = load_checkpoint(path, Given(dataset))
    if model not in (None, checkpoint.model):
        raise InputError(
            f"--model {model}, but {str(path)!r} is a {checkpoint.model}",
            "the network of the checkpoint",
            "leave --model out",
        )
    if checkpoint.activation_ranges:
        raise InputError(
            f"--qat {path}: it was trained with fake quantisation already",
            "a checkpoint of float training",
            "start from that one again with other options, or continue its run with --resume",
        )
    return checkpoint


def qat_start(
    path: Path, spec: TrainingSpec, train_set: Dataset, processes: Processes
) -> Checkpoint:
    """Return the checkpoint at ``path`` with the ranges of its activations on training images.

    The images are spread evenly over the split, and are seen as in validation.
    """
    checkpoint = load_float_checkpoint(path, train_set.name, spec.model)
    if checkpoint.labels.classes != train_set.labels.classes:
        raise InputError(
            f"{str(path)!r} has the classes {', '.join(checkpoint.labels.classes)}",
            f"those of {train_set.name}: {', '.join(train_set.labels.classes)}",
        )
    indices, stride = evenly_spaced(len(train_set), RANGE_IMAGES), network_named(spec.model).stride
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing).to(spec.device).eval()

    def image(number: int) -> Tensor:
        item = train_set[indices[number]]
        pixels, _ = whole_image(
            item.image, spec.recipe.validation_scale, stride, checkpoint.preprocessing.fill_rgb
        )
        # A copy: arrays that Pillow gives are read-only, which tensors cannot be.
        return module.preprocess(torch.tensor(pixels[None], device=spec.device))

    names = [train_set[index].name for index in indices]
    with progress_bar("ranges of activations", 2 * len(indices), shown=processes.first) as step:
        ranges = observed_ranges(module.network, names, image, step)
    # Rounding may differ from one GPU to the next; the ranges of a run must not.
    thresholds = torch.tensor(list(ranges.values()), device=spec.device)
    processes.take_from_first_([thresholds])
    agreed = dict(zip(ranges, thresholds.tolist(), strict=True))
    return replace(checkpoint, activation_ranges=agreed)
