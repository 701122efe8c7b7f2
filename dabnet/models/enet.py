"""ENet: efficient neural network (Paszke et al., 2016, arXiv 1606.02147).

Module names and layers are those of the code published at davidtvs/PyTorch-ENet, so that its
checkpoints load. It differs from the paper: one PReLU slope serves all channels, an activation
follows the expansion too, the initial pooling is 3x3, the transposed convolutions of
bottlenecks are 2x2 and the last one 3x3, and BatchNorm has PyTorch's eps.

The shape comments are those of ``dabnet.models.dabnet``: ``[64, /4]`` is (N, 64, H/4, W/4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REDUCTION = 4
"""Channels of a bottleneck's input for each one inside it."""

STAGE_1 = ("regular1_1", "regular1_2", "regular1_3", "regular1_4")
CONTEXT = ("regular", "dilated", "asymmetric", "dilated") * 2
"""Bottlenecks of stage 2 behind its downsampling, and of stage 3."""

Corners = tuple[Tensor, Tensor, Tensor, Tensor]


def first_maximum(x: Tensor) -> Corners:
    """Say which pixel of each 2x2 square is its maximum, the first of equal ones.

    Args:
        x: (N, C, H, W), H and W even.

    Returns:
        Four masks bool (N, C, H/2, W/2), in the order of rows: exactly one holds at each place.
        That is the choice of ``F.max_pool2d(x, 2, return_indices=True)``, whose indices neither
        onnxruntime nor TensorRT can scatter as torch numbers them.
    """
    a, b, c, d = (x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1))
    later = torch.maximum(c, d)
    is_a = a >= torch.maximum(b, later)
    is_b = ~is_a & (b >= later)
    a_or_b = is_a | is_b
    is_c = ~a_or_b & (c >= d)
    return is_a, is_b, is_c, ~(a_or_b | is_c)


def max_unpool(x: Tensor, corners: Corners) -> Tensor:
    """Put each value at the maximum of its square, and 0 beside it: [C, s] → [C, 2s]."""
    placed = torch.stack([torch.where(corner, x, 0.0) for corner in corners], 2)
    return F.pixel_shuffle(placed.flatten(1, 2), 2)  # (N, 4C, rows, columns) → [C, 2s]


Activation = Callable[[], nn.Module]


def _conv_bn(
    inputs: int, outputs: int, kernel: tuple[int, int], activation: Activation, rate: int = 1
) -> list[nn.Module]:
    """Convolution without bias that keeps the size, BatchNorm, activation."""
    padding = (rate * (kernel[0] // 2), rate * (kernel[1] // 2))
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False)
    return [conv, nn.BatchNorm2d(outputs), activation()]


class InitialBlock(nn.Module):
    """A strided convolution of 13 channels, joined by the pooled image (figure 2a)."""

    def __init__(self) -> None:
        super().__init__()
        self.main_branch = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=False)
        self.ext_branch = nn.MaxPool2d(3, stride=2, padding=1)
        self.batch_norm = nn.BatchNorm2d(16)
        self.out_activation = nn.PReLU()

    def forward(self, image: Tensor) -> Tensor:
        joined = torch.cat([self.main_branch(image), self.ext_branch(image)], 1)  # [16, /2]
        out: Tensor = self.out_activation(self.batch_norm(joined))
        return out


class RegularBottleneck(nn.Module):
    """Bottleneck that keeps size and channels (figure 2b): [C, s] → [C, s].

    Args:
        channels: C.
        dropout: of whole channels of the branch.
        dilation: of the 3x3 convolution between projection and expansion.
        asymmetric: that convolution is a 5x1 and a 1x5 one.
        activation: makes each activation; a PReLU has one slope for all channels.
    """

    def __init__(
        self,
        channels: int,
        dropout: float,
        *,
        dilation: int = 1,
        asymmetric: bool = False,
        activation: Activation = nn.PReLU,
    ) -> None:
        super().__init__()
        inside = channels // REDUCTION
        kernels = [(5, 1), (1, 5)] if asymmetric else [(3, 3)]
        middle = [_conv_bn(inside, inside, kernel, activation, dilation) for kernel in kernels]
        self.ext_conv1 = nn.Sequential(*_conv_bn(channels, inside, (1, 1), activation))
        self.ext_conv2 = nn.Sequential(*(layer for layers in middle for layer in layers))
        self.ext_conv3 = nn.Sequential(*_conv_bn(inside, channels, (1, 1), activation))
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.ext_conv2(self.ext_conv1(x))  # [C/4, s]
        branch = self.ext_regul(self.ext_conv3(branch))  # [C, s]
        out: Tensor = self.out_activation(x + branch)
        return out


class DownsamplingBottleneck(nn.Module):
    """Halve the size (figure 2b): [C, s] → [D, s/2], and where the maxima were, (N, C, ...)."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        inside = inputs // REDUCTION
        self.missing = outputs - inputs
        self.main_max1 = nn.MaxPool2d(2)
        self.ext_conv1 = nn.Sequential(
            nn.Conv2d(inputs, inside, 2, stride=2, bias=False), nn.BatchNorm2d(inside), nn.PReLU()
        )
        self.ext_conv2 = nn.Sequential(*_conv_bn(inside, inside, (3, 3), nn.PReLU))
        self.ext_conv3 = nn.Sequential(*_conv_bn(inside, outputs, (1, 1), nn.PReLU))
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_activation = nn.PReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Corners]:
        pooled = self.main_max1(x)  # [C, s/2]
        main = F.pad(pooled, (0, 0, 0, 0, 0, self.missing))  # [D, s/2]: zeros in the new channels
        branch = self.ext_conv2(self.ext_conv1(x))  # [C/4, s/2]
        branch = self.ext_regul(self.ext_conv3(branch))  # [D, s/2]
        return self.out_activation(main + branch), first_maximum(x)


class UpsamplingBottleneck(nn.Module):
    """Double the size with ReLUs (figure 2b): [C, s], maxima of [D, 2s] → [D, 2s]."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        inside = inputs // REDUCTION
        self.main_conv1 = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.ext_conv1 = nn.Sequential(*_conv_bn(inputs, inside, (1, 1), nn.ReLU))
        self.ext_tconv1 = nn.ConvTranspose2d(inside, inside, 2, stride=2, bias=False)
        self.ext_tconv1_bnorm = nn.BatchNorm2d(inside)
        self.ext_tconv1_activation = nn.ReLU()
        self.ext_conv2 = nn.Sequential(*_conv_bn(inside, outputs, (1, 1), nn.ReLU))
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_activation = nn.ReLU()

    def forward(self, x: Tensor, corners: Corners) -> Tensor:
        main = max_unpool(self.main_conv1(x), corners)  # [D, 2s]
        branch = self.ext_tconv1(self.ext_conv1(x))  # [C/4, 2s]
        branch = self.ext_tconv1_activation(self.ext_tconv1_bnorm(branch))
        branch = self.ext_regul(self.ext_conv2(branch))  # [D, 2s]
        out: Tensor = self.out_activation(main + branch)
        return out


class ENet(nn.Module):
    """The network of the paper's table 1; 351,660 parameters at 19 classes.

    Args:
        classes: number of classes K.
        dilations: of the dilated bottlenecks, stage 2 and then stage 3.

    ``forward`` takes float images (N, 3, H, W), RGB / 255, H and W multiples of 8, and returns
    float logits (N, K, H, W).
    """

    def __init__(
        self, classes: int = 19, dilations: Sequence[int] = (2, 4, 8, 16, 2, 4, 8, 16)
    ) -> None:
        super().__init__()
        self.initial_block = InitialBlock()

        self.downsample1_0 = DownsamplingBottleneck(16, 64, dropout=0.01)
        for name in STAGE_1:
            self.add_module(name, RegularBottleneck(64, dropout=0.01))

        self.downsample2_0 = DownsamplingBottleneck(64, 128, dropout=0.1)
        self.context: list[str] = []
        rates = iter(dilations)
        for stage, first in ((2, 1), (3, 0)):
            for index, kind in enumerate(CONTEXT, first):
                rate = next(rates) if kind == "dilated" else 1
                asymmetric = kind == "asymmetric"
                block = RegularBottleneck(128, 0.1, dilation=rate, asymmetric=asymmetric)
                self.context.append(f"{kind}{stage}_{index}")
                self.add_module(self.context[-1], block)

        self.upsample4_0 = UpsamplingBottleneck(128, 64, dropout=0.1)
        self.regular4_1 = RegularBottleneck(64, 0.1, activation=nn.ReLU)
        self.regular4_2 = RegularBottleneck(64, 0.1, activation=nn.ReLU)

        self.upsample5_0 = UpsamplingBottleneck(64, 16, dropout=0.1)
        self.regular5_1 = RegularBottleneck(16, 0.1, activation=nn.ReLU)
        self.transposed_conv = nn.ConvTranspose2d(
            16, classes, 3, stride=2, padding=1, output_padding=1, bias=False
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.initial_block(image)  # [16, /2]

        x, maxima_2 = self.downsample1_0(x)  # [64, /4], masks of [16, /4]
        for name in STAGE_1:
            x = self.get_submodule(name)(x)  # [64, /4]

        x, maxima_4 = self.downsample2_0(x)  # [128, /8], masks of [64, /8]
        for name in self.context:
            x = self.get_submodule(name)(x)  # [128, /8]

        x = self.upsample4_0(x, maxima_4)  # [64, /4]
        x = self.regular4_2(self.regular4_1(x))  # [64, /4]

        x = self.upsample5_0(x, maxima_2)  # [16, /2]
        x = self.regular5_1(x)  # [16, /2]

        logits: Tensor = self.transposed_conv(x)  # [K, 1]
        return logits
