"""DABNet: Depth-wise Asymmetric Bottleneck network (Li & Kim, BMVC 2019, arXiv 1907.11357).

Module names are those of the checkpoints published at Reagan1311/DABNet, so that these load.

Legend of the shape comments: N images, H x W pixels, K classes; a tensor is (N, channels, rows,
columns), and only channels and the fraction of H and W are written: ``[64, /4]`` is
(N, 64, H/4, W/4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BN_EPS = 1e-3
UNITS_1 = 3
"""DAB modules in the first block; the second has the rest."""


class BNPReLU(nn.Module):
    """Batch normalisation, then PReLU with one slope per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.acti = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.acti(self.bn(x))
        return out


class Conv(nn.Module):
    """Convolution without bias that keeps the size (up to its stride), optionally BN and PReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bn_prelu: bool = False,
    ) -> None:
        super().__init__()
        # Dilation acts along the sides longer than 1; padding keeps the size for odd kernels.
        rows, columns = kernel
        rates = (dilation if rows > 1 else 1, dilation if columns > 1 else 1)
        padding = (rates[0] * (rows // 2), rates[1] * (columns // 2))
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, rates, groups, bias=False)
        if bn_prelu:
            self.bn_prelu = BNPReLU(outputs)
        self.has_bn_prelu = bn_prelu

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return self.bn_prelu(out) if self.has_bn_prelu else out


class DABModule(nn.Module):
    """Depth-wise asymmetric bottleneck (paper, section 3.1, figure 2c): [C, s] → [C, s].

    Half of the channels go through two parallel depth-wise pairs of 3x1 and 1x3 convolutions,
    one plain and one dilated; a 1x1 convolution restores the channels before the residual sum.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2

        def depthwise(kernel: tuple[int, int], rate: int = 1) -> Conv:
            return Conv(half, half, kernel, dilation=rate, groups=half, bn_prelu=True)

        self.bn_relu_1 = BNPReLU(channels)
        self.conv3x3 = Conv(channels, half, (3, 3), bn_prelu=True)
        self.dconv3x1 = depthwise((3, 1))
        self.dconv1x3 = depthwise((1, 3))
        self.ddconv3x1 = depthwise((3, 1), dilation)
        self.ddconv1x3 = depthwise((1, 3), dilation)
        self.bn_relu_2 = BNPReLU(half)
        self.conv1x1 = Conv(half, channels, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.conv3x3(self.bn_relu_1(x))  # [C/2, s]
        near = self.dconv1x3(self.dconv3x1(reduced))  # [C/2, s]
        far = self.ddconv1x3(self.ddconv3x1(reduced))  # [C/2, s]
        restored: Tensor = self.conv1x1(self.bn_relu_2(near + far))  # [C, s]
        return restored + x


class DownSamplingBlock(nn.Module):
    """Halve the size: a strided 3x3 convolution, joined by max-pooling where channels grow."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.joins_pool = inputs < outputs
        convolved = outputs - inputs if self.joins_pool else outputs
        self.conv3x3 = Conv(inputs, convolved, (3, 3), stride=2)
        self.max_pool = nn.MaxPool2d(2, stride=2)
        self.bn_prelu = BNPReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        convolved = self.conv3x3(x)
        joined = torch.cat([convolved, self.max_pool(x)], 1) if self.joins_pool else convolved
        out: Tensor = self.bn_prelu(joined)
        return out


class DABNet(nn.Module):
    """The network of the paper's table 1; 756,643 parameters at 19 classes.

    Args:
        classes: number of classes K.
        dilations: of the DAB modules, block 1 and then block 2.

    ``forward`` takes float images (N, 3, H, W), preprocessed, H and W multiples of 8, and returns
    float logits (N, K, H, W).
    """

    def __init__(
        self, classes: int = 19, dilations: Sequence[int] = (2, 2, 2, 4, 4, 8, 8, 16, 16)
    ) -> None:
        super().__init__()
        self.init_conv = nn.Sequential(
            Conv(3, 32, (3, 3), stride=2, bn_prelu=True),
            Conv(32, 32, (3, 3), bn_prelu=True),
            Conv(32, 32, (3, 3), bn_prelu=True),
        )
        # The image itself, average-pooled, is joined to the features at each scale.
        self.halve_image = nn.AvgPool2d(3, stride=2, padding=1)
        self.bn_prelu_1 = BNPReLU(32 + 3)

        self.downsample_1 = DownSamplingBlock(32 + 3, 64)
        self.DAB_Block_1 = nn.Sequential()
        for index, dilation in enumerate(dilations[:UNITS_1]):
            self.DAB_Block_1.add_module(f"DAB_Module_1_{index}", DABModule(64, dilation))
        self.bn_prelu_2 = BNPReLU(64 + 64 + 3)

        self.downsample_2 = DownSamplingBlock(64 + 64 + 3, 128)
        self.DAB_Block_2 = nn.Sequential()
        for index, dilation in enumerate(dilations[UNITS_1:]):
            self.DAB_Block_2.add_module(f"DAB_Module_2_{index}", DABModule(128, dilation))
        self.bn_prelu_3 = BNPReLU(128 + 128 + 3)

        self.classifier = nn.Sequential(Conv(128 + 128 + 3, classes, (1, 1)))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        coarse = self.coarse_logits(image)  # [K, /8]
        return F.interpolate(coarse, scale_factor=8, mode="bilinear", align_corners=False)

    def coarse_logits(self, image: Tensor) -> Tensor:
        """Return the logits before the upsample: (N, 3, H, W) → (N, K, H/8, W/8)."""
        half = self.halve_image(image)  # [3, /2]
        quarter = self.halve_image(half)  # [3, /4]
        eighth = self.halve_image(quarter)  # [3, /8]

        stem = self.init_conv(image)  # [32, /2]
        joined_1 = self.bn_prelu_1(torch.cat([stem, half], 1))  # [35, /2]

        down_1 = self.downsample_1(joined_1)  # [64, /4]
        block_1 = self.DAB_Block_1(down_1)  # [64, /4]
        joined_2 = self.bn_prelu_2(torch.cat([block_1, down_1, quarter], 1))  # [131, /4]

        down_2 = self.downsample_2(joined_2)  # [128, /8]
        block_2 = self.DAB_Block_2(down_2)  # [128, /8]
        joined_3 = self.bn_prelu_3(torch.cat([block_2, down_2, eighth], 1))  # [259, /8]

        logits: Tensor = self.classifier(joined_3)  # [K, /8]
        return logits


def _initialise(module: nn.Module) -> None:
    """He initialisation by fan-in, as the published training does (``utils.init_weight``)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
