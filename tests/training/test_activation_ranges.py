"""The ranges that fake quantisation starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calibration.histogram import StreamingHistogram
from calibration.ranges import symmetric_range
from dabnet.errors import ArtifactError
from dabnet.models.image_to_mask import ImageToMask
from dabnet.training.qat import BINS, convolutions, least_error_range, observed_ranges
from tests.support.seeded_checkpoint import PREPROCESSING, SIZE, noise, seeded_network

IMAGES = 6
NAMES = [f"image_{number}" for number in range(IMAGES)]


def squared_error(values: np.ndarray, threshold: float) -> float:
    scale = threshold / 127
    rounded = np.clip(np.rint(values / scale), -127, 127) * scale
    return float(np.mean((values - rounded) ** 2))


@pytest.mark.parametrize(
    "draw",
    [
        lambda random: random.standard_normal(200_000),
        lambda random: random.laplace(size=200_000),
        lambda random: random.standard_t(3, 200_000),
        lambda random: random.uniform(-1, 1, 200_000),
        lambda random: np.append(random.standard_normal(200_000), [400.0, -350.0]),
    ],
    ids=["normal", "laplace", "heavy", "uniform", "outliers"],
)
def test_the_range_has_nearly_the_least_error_there_is(draw: Any) -> None:
    values = np.abs(draw(np.random.default_rng(0)))
    largest = float(values.max())
    counts, _ = np.histogram(values, BINS, (0, largest))
    found = least_error_range(torch.from_numpy(counts.astype(np.float64)), largest)
    errors = [squared_error(values, largest * k / 400) for k in range(1, 401)]
    assert squared_error(values, found) < 1.02 * min(errors)


def test_nothing_but_zeros_has_the_range_zero() -> None:
    counts = torch.zeros(BINS, dtype=torch.float64)
    counts[0] = 9
    assert least_error_range(counts, 0.0) == 0


def inputs_of(network: nn.Module) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
    """What each convolution reads on the images, and the images, preprocessed."""
    module = ImageToMask(network, PREPROCESSING)
    pictures = torch.from_numpy(noise((IMAGES, *SIZE, 3), 5))
    images = [module.preprocess(picture[None]) for picture in pictures]
    read: dict[str, list[Tensor]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, n=name: read.setdefault(n, []).append(x[0]))
        for name, layer in convolutions(network).items()
    ]
    with torch.no_grad():
        for image in images:
            network(image)
    for hook in hooks:
        hook.remove()
    return read, images


def test_ranges_are_those_of_the_calibration_and_shared_by_the_readers_of_a_tensor() -> None:
    network = seeded_network()
    read, images = inputs_of(network)
    steps: list[None] = []
    ranges = observed_ranges(network, NAMES, lambda n: images[n], lambda: steps.append(None))
    assert len(steps) == 2 * IMAGES
    assert ranges.keys() == read.keys()
    for name, tensors in read.items():
        histogram = StreamingHistogram()
        for tensor in tensors:
            histogram.update(tensor.numpy())
        assert ranges[name] == pytest.approx(symmetric_range(histogram, "mse"), rel=0.06), name
        twin = name.replace(".ddconv3x1.", ".dconv3x1.")
        assert ranges[name] == ranges[twin]
    assert ranges == {n: float(np.float32(t)) for n, t in ranges.items()}
    assert len(set(ranges.values())) > 45  # all others are their own
    # The order of the images does not matter, and no hook stays behind.
    assert observed_ranges(network, NAMES[::-1], lambda n: images[-1 - n]) == ranges
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_value_that_is_no_number_is_named() -> None:
    network = seeded_network()
    _, images = inputs_of(network)
    images[3][0, 1, 5, 5] = torch.inf
    with pytest.raises(ArtifactError, match="the input of .*'init_conv.0.conv' is inf on .*_3'"):
        observed_ranges(network, NAMES, lambda n: images[n])
    name = "DAB_Block_1.DAB_Module_1_1.conv3x3.bn_prelu.bn.bias"
    network.state_dict()[name][0] = torch.nan
    with pytest.raises(ArtifactError, match="'DAB_Block_1.DAB_Module_1_1.*' is nan on .*_0'"):
        observed_ranges(network, NAMES[:1], lambda n: images[n])
