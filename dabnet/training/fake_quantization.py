"""Convolutions that round their input and weights to int8 while they train (fake quantisation).

The same places and the same arithmetic as the INT8 export with Q/DQ at the inputs of convolutions:
127 levels on each side of 0, one scale for an input, one for each output channel of the weights.
The gradient passes through the rounding as if it were not there, and stops at inputs that are
clipped (Jacob et al. 2018, arXiv 1712.05877, section 3; Krishnamoorthi 2018, arXiv 1806.08342).

The export folds a BatchNorm behind a convolution into its weights: a factor for each output
channel, which goes into that channel's scale and leaves the levels as they are. So the weights that
are rounded here, unfolded, are those that the export rounds, folded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

    The names of its state dict stay the same.

    Args:
        activation_ranges: threshold t > 0 of the input of each convolution, by its module's name.
    """
    for name, convolution in convolutions(network).items():
        threshold = torch.tensor(activation_ranges[name], device=convolution.weight.device)
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
