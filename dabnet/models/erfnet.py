"""ERFNet: efficient residual factorised network (Romera et al., IEEE T-ITS 19(1), 2018).

Written from the paper; module names and shapes are those of the published checkpoints
(Eromera/erfnet_pytorch), so that these load.

The shape comments are those of ``dabnet.models.dabnet``: ``[64, /4]`` is (N, 64, H/4, W/4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BN_EPS = 1e-3


class Downsampler(nn.Module):
    """Halve the size: a strided 3x3 convolution, joined by max-pooling (paper, section III-B)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.conv(x), self.pool(x)], 1)
        return F.relu(self.bn(joined))


class NonBottleneck1d(nn.Module):
    """Residual block of 1D convolutions (paper, section III-A, figure 2c): [C, s] → [C, s].

    Each of two 3x3 convolutions is a 3x1 and a 1x3 one; those of the second pair are dilated.
    """

    def __init__(self, channels: int, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()

        def column(rate: int) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, (3, 1), padding=(rate, 0), dilation=(rate, 1))

        def row(rate: int) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, (1, 3), padding=(0, rate), dilation=(1, rate))

        self.conv3x1_1 = column(1)
        self.conv1x3_1 = row(1)
        self.bn1 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.conv3x1_2 = column(dilation)
        self.conv1x3_2 = row(dilation)
        self.bn2 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.bn1(self.conv1x3_1(F.relu(self.conv3x1_1(x)))))  # [C, s]
        second = self.bn2(self.conv1x3_2(F.relu(self.conv3x1_2(first))))  # [C, s]
        return F.relu(self.dropout(second) + x)


class Upsampler(nn.Module):
    """Double the size: a transposed 3x3 convolution of stride 2, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Encoder(nn.Module):
    """Layers 1 to 16 of the paper's table I: [3, 1] → [128, /8].

    Args:
        classes: outputs K of ``output_conv``, which the whole network does not use.
        dilations: of the eight blocks with 128 channels.
    """

    def __init__(self, classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.initial_block = Downsampler(3, 16)
        self.layers = nn.Sequential(
            Downsampler(16, 64),  # [64, /4]
            *(NonBottleneck1d(64, dropout=0.03) for _ in range(5)),
            Downsampler(64, 128),  # [128, /8]
            *(NonBottleneck1d(128, dilation, dropout=0.3) for dilation in dilations),
        )
        self.output_conv = nn.Conv2d(128, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.layers(self.initial_block(image))  # [16, /2] → [128, /8]
        return features


class Decoder(nn.Module):
    """Layers 17 to 23 of the paper's table I: [128, /8] → [K, 1]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Upsampler(128, 64),  # [64, /4]
            *(NonBottleneck1d(64) for _ in range(2)),
            Upsampler(64, 16),  # [16, /2]
            *(NonBottleneck1d(16) for _ in range(2)),
        )
        self.output_conv = nn.ConvTranspose2d(16, classes, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output_conv(self.layers(x))  # [16, /2] → [K, 1]
        return logits


class ERFNet(nn.Module):
    """The whole network; 2,066,642 parameters at 19 classes.

    Args:
        classes: number of classes K.
        dilations: of the blocks with 128 channels.

    ``forward`` takes float images (N, 3, H, W), RGB / 255, H and W multiples of 8, and returns
    float logits (N, K, H, W). It does not use ``encoder.output_conv``, which published checkpoints
    hold from the training of the encoder alone; that convolution therefore takes no gradient.
    """

    def __init__(
        self, classes: int = 19, dilations: Sequence[int] = (2, 4, 8, 16, 2, 4, 8, 16)
    ) -> None:
        super().__init__()
        self.encoder = Encoder(classes, dilations)
        self.decoder = Decoder(classes)
        self.encoder.output_conv.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.encoder(image))
        return logits

    def encoder_logits(self, image: Tensor) -> Tensor:
        """Return the encoder's own logits, of the first stage: (N, 3, H, W) → (N, K, H/8, W/8)."""
        logits: Tensor = self.encoder.output_conv(self.encoder(image))
        return logits
