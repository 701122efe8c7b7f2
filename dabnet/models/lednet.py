"""LEDNet: lightweight encoder-decoder network (Wang et al., ICIP 2019, arXiv 1905.02423).

Module names are those of the code published at xiaoyufenfei/LEDNet (train/lednet.py), so that its
checkpoints load. That code takes images of 512 x 1024 only; here each side is any multiple of 8.

The shape comments are those of ``dabnet.models.dabnet``: ``[64, /4]`` is (N, 64, H/4, W/4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BN_EPS = 1e-3
PYRAMID_OUTPUTS = 20
"""Outputs of the published attention pyramid for any number of classes; the first K are used."""


class DownsamplerBlock(nn.Module):
    """Halve the size: a strided 3x3 convolution, joined by max-pooling (paper, section 2.1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.conv(x), self.pool(x)], 1)
        return F.relu(self.bn(joined))


class SplitShuffleUnit(nn.Module):
    """Split-shuffle non-bottleneck (paper, section 2.1, figure 2d): [C, s] → [C, s].

    Each half of the channels goes through two pairs of 3x1 and 1x3 convolutions, the second pair
    dilated; the right half has 1x3 first. The sum with the input is shuffled in two groups.
    """

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.channels, half = channels, channels // 2

        def column(rate: int = 1) -> nn.Conv2d:
            return nn.Conv2d(half, half, (3, 1), padding=(rate, 0), dilation=(rate, 1))

        def row(rate: int = 1) -> nn.Conv2d:
            return nn.Conv2d(half, half, (1, 3), padding=(0, rate), dilation=(1, rate))

        self.conv3x1_1_l = column()
        self.conv1x3_1_l = row()
        self.bn1_l = nn.BatchNorm2d(half, eps=BN_EPS)
        self.conv3x1_2_l = column(dilation)
        self.conv1x3_2_l = row(dilation)
        self.bn2_l = nn.BatchNorm2d(half, eps=BN_EPS)

        self.conv3x1_1_r = column()
        self.conv1x3_1_r = row()
        self.bn1_r = nn.BatchNorm2d(half, eps=BN_EPS)
        self.conv3x1_2_r = column(dilation)
        self.conv1x3_2_r = row(dilation)
        self.bn2_r = nn.BatchNorm2d(half, eps=BN_EPS)

        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        half = self.channels // 2
        x_l, x_r = x[:, :half], x[:, half:]  # [C/2, s] each

        left = self.conv1x3_1_l(F.relu(self.conv3x1_1_l(x_l)))  # [C/2, s]
        left = F.relu(self.bn1_l(left))
        left = self.conv1x3_2_l(F.relu(self.conv3x1_2_l(left)))  # [C/2, s]
        left = self.dropout(self.bn2_l(left))

        right = self.conv3x1_1_r(F.relu(self.conv1x3_1_r(x_r)))  # [C/2, s]
        right = F.relu(self.bn1_r(right))
        right = self.conv3x1_2_r(F.relu(self.conv1x3_2_r(right)))  # [C/2, s]
        right = self.dropout(self.bn2_r(right))

        # Joined and shuffled in two groups: the channels of left and right alternate.
        pairs = torch.stack([F.relu(left + x_l), F.relu(right + x_r)], 2)  # (N, C/2, 2, rows, cols)
        return pairs.flatten(1, 2)  # [C, s]


class Encoder(nn.Module):
    """The encoder of the paper's table 1: [3, 1] → [128, /8].

    Args:
        classes: outputs K of ``output_conv``, which only the first stage of the training uses.
        dilations: of the eight units with 128 channels.
    """

    def __init__(self, classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.initial_block = DownsamplerBlock(3, 32)
        self.layers = nn.Sequential(
            *(SplitShuffleUnit(32, 1, dropout=0.03) for _ in range(3)),  # [32, /2]
            DownsamplerBlock(32, 64),  # [64, /4]
            *(SplitShuffleUnit(64, 1, dropout=0.03) for _ in range(2)),
            DownsamplerBlock(64, 128),  # [128, /8]
            *(SplitShuffleUnit(128, dilation, dropout=0.3) for dilation in dilations),
        )
        self.output_conv = nn.Conv2d(128, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.layers(self.initial_block(image))  # [32, /2] → [128, /8]
        return features


class ConvBnRelu(nn.Module):
    """Convolution that keeps the size (up to its stride), BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2),
            nn.BatchNorm2d(outputs, eps=BN_EPS),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class AttentionPyramid(nn.Module):
    """Attention pyramid network (paper, section 2.2, figure 3): [128, /8] → [P, /8].

    A pyramid of one channel weighs each pixel of a 1x1 convolution; the global mean is added.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch1 = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBnRelu(inputs, outputs, 1))
        self.mid = nn.Sequential(ConvBnRelu(inputs, outputs, 1))
        self.down1 = ConvBnRelu(inputs, 1, 7, stride=2)
        self.down2 = ConvBnRelu(1, 1, 5, stride=2)
        self.down3 = nn.Sequential(ConvBnRelu(1, 1, 3, stride=2), ConvBnRelu(1, 1, 3))
        self.conv2 = ConvBnRelu(1, 1, 5)
        self.conv1 = ConvBnRelu(1, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        image_level = self.branch1(x)  # [P, one pixel]: enlarging it is broadcasting it
        middle = self.mid(x)  # [P, /8]

        level_1 = self.down1(x)  # [1, /16], rounded up as all of them
        level_2 = self.down2(level_1)  # [1, /32]
        level_3 = self.down3(level_2)  # [1, /64]
        joined_2 = self.conv2(level_2) + _enlarged(level_3, level_2)  # [1, /32]
        joined_1 = self.conv1(level_1) + _enlarged(joined_2, level_1)  # [1, /16]
        attention = _enlarged(joined_1, x)  # [1, /8]

        weighed: Tensor = attention * middle + image_level  # [P, /8]
        return weighed


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Enlarge ``x`` to the rows and columns of ``like``."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


class Decoder(nn.Module):
    """The attention pyramid, and its outputs of the K classes: [128, /8] → [K, /8]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.outputs = max(classes, PYRAMID_OUTPUTS)
        self.apn = AttentionPyramid(128, self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.apn(x)
        return outputs if self.outputs == self.classes else outputs[:, : self.classes]


class LEDNet(nn.Module):
    """The whole network; 925,534 parameters at 19 classes.

    Args:
        classes: number of classes K.
        dilations: of the units with 128 channels.

    ``forward`` takes float images (N, 3, H, W), RGB / 255, H and W multiples of 8, and returns
    float logits (N, K, H, W). It does not use ``encoder.output_conv``, which therefore takes no
    gradient until a training of the encoder alone asks for it.
    """

    def __init__(
        self, classes: int = 19, dilations: Sequence[int] = (1, 2, 5, 9, 2, 5, 9, 17)
    ) -> None:
        super().__init__()
        self.encoder = Encoder(classes, dilations)
        self.decoder = Decoder(classes)
        self.encoder.output_conv.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        coarse = self.decoder(self.encoder(image))  # [K, /8]
        return F.interpolate(coarse, scale_factor=8, mode="bilinear", align_corners=True)

    def encoder_logits(self, image: Tensor) -> Tensor:
        """Return the encoder's own logits, of the first stage: (N, 3, H, W) → (N, K, H/8, W/8)."""
        logits: Tensor = self.encoder.output_conv(self.encoder(image))
        return logits
