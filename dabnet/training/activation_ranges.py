"""The ranges that fake quantisation starts from, read off training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dabnet.errors import ArtifactError
from dabnet.models import STRIDE
from dabnet.training.fake_quantization import LEVELS, convolutions

BINS = 2048


@torch.no_grad()
def observed_ranges(
    network: nn.Module,
    names: Sequence[str],
    image: Callable[[int], Tensor],
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return the threshold of each convolution's input with the least squared error of int8.

    Memory holds one image and one histogram a tensor. Every image is looked at twice: for the
    largest |x|, and for a histogram up to it.

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
    groups = _readers(network)
    modules = convolutions(network)
    observed = {group[0]: modules[group[0]] for group in groups}
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
        hooks = [
            module.register_forward_pre_hook(lambda _, given, n=name, f=look: f(n, given[0]))
            for name, module in observed.items()
        ]
        try:
            for number, name in enumerate(names):
                network(image(number))
                _require_finite(largest, name)
                progress()
        finally:
            for hook in hooks:
                hook.remove()
    return {
        name: least_error_range(counts[group[0]], float(largest[group[0]]))
        for group in groups
        for name in group
    }


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


def _readers(network: nn.Module) -> list[list[str]]:
    """Return the names of the convolutions, those that read one tensor together."""
    inputs: dict[str, Tensor] = {}  # held, so that no other tensor takes the place of one
    hooks = [
        module.register_forward_pre_hook(lambda _, given, n=name: inputs.setdefault(n, given[0]))
        for name, module in convolutions(network).items()
    ]
    weight = next(network.parameters())
    try:
        network(torch.zeros(1, 3, 4 * STRIDE, 4 * STRIDE, device=weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    groups: dict[int, list[str]] = {}
    for name, tensor in inputs.items():
        groups.setdefault(id(tensor), []).append(name)
    return list(groups.values())


def _require_finite(largest: dict[str, Tensor], image: str) -> None:
    for name, top in largest.items():
        if not bool(top.isfinite()):
            raise ArtifactError(
                f"the input of the convolution {name!r} is {float(top)} on image {image!r}",
                "finite activations",
                "check the checkpoint: its training may have diverged",
            )
