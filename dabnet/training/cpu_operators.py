"""Training steps of two operators on a CPU, where those of PyTorch 2.13 are slow, or wrong.

The results are the same but for rounding, names of the state dict stay, and a network in evaluation
computes as before. docs/training.md has the measurements.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def with_cpu_operators(network: nn.Module) -> nn.Module:
    """Return ``network``, changed in place: its PReLUs and dilated depth-wise convolutions along
    one axis train by the operators below."""
    for module in network.modules():
        if type(module) is nn.PReLU:
            module.__class__ = QuickPReLU
        elif type(module) is nn.Conv2d and _is_dilated_along_one_axis(module):
            module.__class__ = PhaseConv2d
    return network


class QuickPReLU(nn.PReLU):
    """PReLU whose gradients are made by vectorised operators.

    ``aten::_prelu_kernel_backward`` takes some 13 times as long as the forward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        out: Tensor = _PReLU.apply(x, self.weight.to(x.dtype))  # type: ignore[no-untyped-call]
        return out


class _PReLU(torch.autograd.Function):
    """max(x, 0) + w min(x, 0), of x (N, C, H, W) and w (C,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.prelu(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        above = torch.ops.aten.threshold_backward(gradient, x, 0)  # of x > 0
        below = gradient - above
        of_x = torch.addcmul(above, below, weight.view(1, -1, *[1] * (x.dim() - 2)))
        return of_x, (below * x).sum([0, *range(2, x.dim())])


class PhaseConv2d(nn.Conv2d):
    """A depth-wise convolution of 3x1 or 1x3 with a dilation d, computed without a dilation.

    Rows of the same phase, their index modulo d, see each other only::

        (N, C, H, W), kernel 3x1, dilation d  =  (N, C, H/d, dW), kernel 3x1
        (N, C, H, W), kernel 1x3, dilation d  =  (NH, C, W/d, d), kernel 3x1

    In (N, H, W, C) order both are views. oneDNN's backward pass of a dilated depth-wise
    convolution takes 5 to 30 times as long, and in bfloat16 its gradients of the weights are wrong.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        along_rows = self.kernel_size[0] > 1
        (images, channels, height, width), phases = x.shape, max(self.dilation)
        axis = 2 if along_rows else 3
        if missing := -x.shape[axis] % phases:
            x = F.pad(x, (0, 0, 0, missing) if along_rows else (0, missing))
        if along_rows:
            split = x.reshape(images, channels, -1, phases * width)
        else:
            split = x.transpose(1, 2).reshape(images * height, channels, -1, phases)
        kernel = self.weight.view(channels, 1, -1, 1)
        out = F.conv2d(split, kernel, padding=(1, 0), groups=channels)
        if along_rows:
            return out.view(images, channels, -1, width)[:, :, :height]
        return out.view(images, height, channels, -1).transpose(1, 2)[..., :width]


def _is_dilated_along_one_axis(layer: nn.Conv2d) -> bool:
    """Whether a layer is a depth-wise 3x1 or 1x3 convolution that keeps the size."""
    along = 0 if layer.kernel_size[0] > 1 else 1
    dilation = layer.dilation[along]
    return (
        layer.groups == layer.in_channels == layer.out_channels
        and sorted(layer.kernel_size) == [1, 3]
        and layer.stride == (1, 1)
        and dilation > 1
        and layer.bias is None
        and layer.padding_mode == "zeros"
        and layer.padding == ((dilation, 0) if along == 0 else (0, dilation))
    )
