"""Fake quantisation in training is the arithmetic of the INT8 export, with straight gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from calibration.qdq import quantize_weight
from dabnet.training.qat import (
    FakeQuantConv2d,
    FrozenBatchNorm2d,
    convolutions,
    fake_quantized,
)
from tests.support.seeded_checkpoint import seeded_network

RANGE = 1.5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conv(groups: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(4, 6 if groups == 1 else 4, 3, padding=1, groups=groups, bias=False)
    with torch.no_grad():
        layer.weight.copy_(drawn(*layer.weight.shape, seed=1))
        layer.weight[2] = 0  # a dead output channel
    return layer


def faked(layer: nn.Conv2d, threshold: float = RANGE) -> nn.Conv2d:
    network = fake_quantized(nn.Sequential(copy.deepcopy(layer)), {"0": threshold})
    assert isinstance(network, nn.Sequential)
    assert isinstance(network[0], FakeQuantConv2d)
    return network[0]


def rounded_input(values: Tensor, threshold: float = RANGE) -> Tensor:
    scale = np.float32(threshold / 127)
    levels = np.clip(np.rint(values.numpy() / scale), -127, 127)
    return torch.from_numpy((levels * scale).astype(np.float32))


def rounded_weight(weight: Tensor) -> Tensor:
    levels, scales = quantize_weight(weight.detach().numpy())
    return torch.from_numpy(levels * scales[:, None, None, None])


@pytest.mark.parametrize("groups", [1, 4])
def test_outputs_and_gradients_are_those_of_the_definition(groups: int) -> None:
    layer = conv(groups)
    image = drawn(2, 4, 7, 9).requires_grad_()
    assert float((image.abs() > RANGE).float().mean()) > 0.05  # some are clipped
    quantised = faked(layer)
    output = quantised(image)
    output.backward(drawn(*output.shape, seed=2))

    plain = copy.deepcopy(layer)
    plain.weight.data = rounded_weight(layer.weight)
    inner = rounded_input(image.detach()).requires_grad_()
    expected = plain(inner)
    torch.testing.assert_close(output, expected)
    expected.backward(drawn(*output.shape, seed=2))
    assert image.grad is not None
    assert inner.grad is not None
    torch.testing.assert_close(image.grad, inner.grad * (image.detach().abs() <= RANGE))
    torch.testing.assert_close(quantised.weight.grad, plain.weight.grad)


def test_inputs_that_are_always_zero_give_zero() -> None:
    output = faked(conv(), threshold=0.0)(torch.zeros(1, 4, 5, 5))
    assert torch.equal(output, torch.zeros_like(output))


def test_rounding_unfolded_weights_is_rounding_folded_ones() -> None:
    layer, norm = conv().eval(), nn.BatchNorm2d(6, eps=1e-3).eval()
    with torch.no_grad():
        norm.weight.copy_(drawn(6, seed=3))  # of both signs
        norm.bias.copy_(drawn(6, seed=4))
        norm.running_mean = drawn(6, seed=5)
        norm.running_var = drawn(6, seed=6).square() + 0.1
        assert norm.weight.min() < 0 < norm.weight.max()
    folded = fuse_conv_bn_eval(layer, norm)
    folded.weight.data = rounded_weight(folded.weight)
    image = drawn(2, 4, 8, 8)
    expected = folded(rounded_input(image))
    torch.testing.assert_close(norm(faked(layer)(image)), expected, rtol=1e-4, atol=1e-5)


def test_a_network_keeps_its_state_dict_and_its_statistics() -> None:
    network = seeded_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ranges = dict.fromkeys(convolutions(network), 8.0)
    assert len(ranges) == 60
    quantised = fake_quantized(copy.deepcopy(network), ranges)
    quantised.load_state_dict(before)
    assert quantised.state_dict().keys() == before.keys()
    quantised.train()
    image = drawn(2, 3, 32, 32) * 60
    logits = quantised(image)
    logits.square().mean().backward()
    for name, buffer in quantised.named_buffers():
        if not name.endswith("input_range"):
            assert torch.equal(buffer, before[name]), name
    for name, parameter in quantised.named_parameters():
        assert parameter.grad is not None, name
    norms = [m for m in quantised.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)
    with torch.no_grad():
        assert torch.equal(logits, quantised.eval()(image))
        assert not torch.allclose(logits, network(image), rtol=1e-3)


def test_under_autocast_convolutions_are_half_of_rounded_values() -> None:
    layer, image = faked(conv()), drawn(1, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(image.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(image), rtol=0.05, atol=0.1)
