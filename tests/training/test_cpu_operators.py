"""The operators of training on a CPU compute what PyTorch's compute."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dabnet.models import NETWORKS, build_model
from dabnet.training.cpu_operators import PhaseConv2d, QuickPReLU, with_cpu_operators

torch.set_num_threads(1)


def depthwise(channels: int, rows: bool, dilation: int) -> nn.Conv2d:
    """A convolution of 3x1 (``rows``) or 1x3 that keeps the size."""
    kernel, padding, rates = (
        (a, b) if rows else (b, a) for a, b in ((3, 1), (dilation, 0), (dilation, 1))
    )
    return nn.Conv2d(channels, channels, kernel, 1, padding, rates, channels, bias=False)


def gradients(layer: nn.Module, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output of a layer, and the gradients of its input and its parameter for Σ output·weights."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    (out * weights).sum().backward()
    (parameter,) = layer.parameters()
    assert x.grad is not None
    assert parameter.grad is not None
    return out.detach(), x.grad, parameter.grad


def assert_equal_training(plain: nn.Module, x: Tensor, kind: type[nn.Module]) -> None:
    plain = plain.double()
    quick = with_cpu_operators(copy.deepcopy(plain))
    assert type(quick) is kind
    weights = torch.randn_like(plain(x))
    for got, expected in zip(
        gradients(quick, x, weights), gradients(plain, x, weights), strict=True
    ):
        torch.testing.assert_close(got, expected)
    assert torch.equal(quick.eval()(x), plain.eval()(x))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 19),
    st.integers(1, 19),
    st.sampled_from([2, 3, 4, 16]),
    st.booleans(),
    st.sampled_from([torch.channels_last, torch.contiguous_format]),
)
def test_a_dilated_convolution(
    images: int, height: int, width: int, dilation: int, rows: bool, order: torch.memory_format
) -> None:
    x = torch.randn(images, 4, height, width, dtype=torch.float64)
    plain = depthwise(4, rows, dilation)
    assert_equal_training(plain, x.contiguous(memory_format=order), PhaseConv2d)


@pytest.mark.parametrize("slopes", [1, 4])
def test_prelu(slopes: int) -> None:
    plain = nn.PReLU(slopes)
    with torch.no_grad():
        plain.weight.copy_(torch.linspace(-0.5, 1.5, slopes))
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    x[0, :, 0, 0] = 0.0
    assert_equal_training(plain, x, QuickPReLU)


@pytest.mark.parametrize("name", NETWORKS)
def test_which_layers_of_a_network_change(name: str) -> None:
    plain = build_model(name, 3)
    quick = with_cpu_operators(copy.deepcopy(plain))
    assert list(quick.state_dict()) == list(plain.state_dict())
    kinds = [type(module) for module in quick.modules()]
    # Of DABNet the two dilated convolutions of each of nine modules.
    assert kinds.count(PhaseConv2d) == (18 if name == "dabnet" else 0)
    assert nn.PReLU not in kinds


@pytest.mark.parametrize(("rows", "dilation"), [(True, 2), (True, 16), (False, 2), (False, 16)])
def test_gradients_in_bfloat16(rows: bool, dilation: int) -> None:
    """Those of oneDNN's dilated convolutions are not even finite on some processors."""
    plain = depthwise(32, rows, dilation)
    quick = with_cpu_operators(copy.deepcopy(plain)).bfloat16()
    x = torch.randn(8, 32, 30, 40).contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(x)
    rounded = gradients(quick, x.bfloat16(), weights.bfloat16())
    for got, expected in zip(rounded, gradients(plain, x, weights), strict=True):
        assert float((got.float() - expected).norm() / expected.norm()) < 0.02
