"""LEDNet, ERFNet and ENet equal the published ones: names, shapes, and what the papers describe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dabnet.models import build_model, network_named
from dabnet.models.enet import first_maximum, max_unpool
from dabnet.models.lednet import LEDNet
from tests.support.seeded_checkpoint import seeded_network

# Names and shapes at 19 classes, as the published code has them; without running statistics.
PUBLIC = json.loads((Path(__file__).parent / "public_networks.json").read_text())
PARAMETERS = {
    "lednet": {11: 924_502, 12: 924_631, 19: 925_534, 20: 925_663},
    "erfnet": {11: 2_065_090, 12: 2_065_284, 19: 2_066_642, 20: 2_066_836},
    "enet": {11: 350_508, 12: 350_652, 19: 351_660, 20: 351_804},
}


class Weights:
    """A state dict as functions of tensors; each convolution keeps the size up to its stride."""

    def __init__(self, state: dict[str, Tensor], eps: float) -> None:
        self.state, self.eps = state, eps

    def conv(self, x: Tensor, name: str, rate: int = 1, stride: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        rates = [rate if side > 1 else 1 for side in weight.shape[2:]]
        pads = [r * ((side - 1) // 2) for r, side in zip(rates, weight.shape[2:], strict=True)]
        return F.conv2d(x, weight, bias, stride, pads, rates)

    def up(self, x: Tensor, name: str, padding: int) -> Tensor:
        """Transposed, of stride 2, to twice the size."""
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return F.conv_transpose2d(x, weight, bias, 2, padding, output_padding=padding)

    def norm(self, x: Tensor, name: str) -> Tensor:
        shift, gain, mean, variance = (
            self.state[f"{name}.{what}"].view(1, -1, 1, 1)
            for what in ("bias", "weight", "running_mean", "running_var")
        )
        return (x - mean) / (variance + self.eps).sqrt() * gain + shift

    def prelu(self, x: Tensor, name: str) -> Tensor:
        return torch.where(x > 0, x, self.state[f"{name}.weight"] * x)

    def joined_pool(self, x: Tensor, name: str) -> Tensor:
        """The downsampling of LEDNet and ERFNet."""
        joined = torch.cat([self.conv(x, f"{name}.conv", stride=2), F.max_pool2d(x, 2)], 1)
        return self.norm(joined, f"{name}.bn").relu()

    def pairs(self, x: Tensor, name: str, rate: int, side: str = "") -> Tensor:
        """Two pairs of 1D convolutions, the second dilated; a side ``_r`` begins with the row."""
        kernels = ("1x3", "3x1") if side == "_r" else ("3x1", "1x3")
        for pair, dilation in ((1, 1), (2, rate)):
            if pair == 2:
                x = x.relu()
            x = self.conv(x, f"{name}.conv{kernels[0]}_{pair}{side}", dilation).relu()
            x = self.conv(x, f"{name}.conv{kernels[1]}_{pair}{side}", dilation)
            x = self.norm(x, f"{name}.bn{pair}{side}")
        return x


def lednet(of: Weights, image: Tensor) -> Tensor:
    def unit(x: Tensor, name: str, rate: int) -> Tensor:
        left, right = x.split(x.shape[1] // 2, 1)
        new = torch.cat([of.pairs(left, name, rate, "_l"), of.pairs(right, name, rate, "_r")], 1)
        return F.channel_shuffle((x + new).relu(), 2)

    def cbr(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return of.norm(of.conv(x, f"{name}.conv.0", stride=stride), f"{name}.conv.1").relu()

    def enlarged(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)

    x = of.joined_pool(image, "encoder.initial_block")
    rates = (1, 1, 1, 0, 1, 1, 0, 1, 2, 5, 9, 2, 5, 9, 17)
    for index, rate in enumerate(rates):
        name = f"encoder.layers.{index}"
        x = unit(x, name, rate) if rate else of.joined_pool(x, name)
    apn = "decoder.apn"
    one = cbr(x, f"{apn}.down1", 2)
    two = cbr(one, f"{apn}.down2", 2)
    three = cbr(cbr(two, f"{apn}.down3.0", 2), f"{apn}.down3.1")
    two = cbr(two, f"{apn}.conv2") + enlarged(three, two)
    attention = enlarged(cbr(one, f"{apn}.conv1") + enlarged(two, one), x)
    whole = enlarged(cbr(x.mean((2, 3), keepdim=True), f"{apn}.branch1.1"), x)
    return enlarged(cbr(x, f"{apn}.mid.0") * attention + whole, image)


def erfnet(of: Weights, image: Tensor) -> Tensor:
    def block(x: Tensor, name: str, rate: int) -> Tensor:
        return (of.pairs(x, name, rate) + x).relu()

    x = of.joined_pool(of.joined_pool(image, "encoder.initial_block"), "encoder.layers.0")
    for index, rate in enumerate((1, 1, 1, 1, 1, 0, 2, 4, 8, 16, 2, 4, 8, 16), start=1):
        name = f"encoder.layers.{index}"
        x = block(x, name, rate) if rate else of.joined_pool(x, name)
    for index in range(6):
        name = f"decoder.layers.{index}"
        if index % 3:
            x = block(x, name, 1)
        else:
            x = of.norm(of.up(x, f"{name}.conv", padding=1), f"{name}.bn").relu()
    return of.up(x, "decoder.output_conv", padding=0)


def enet(of: Weights, image: Tensor) -> Tensor:
    def cba(x: Tensor, name: str, rate: int = 1, stride: int = 1, index: int = 0) -> Tensor:
        x = of.norm(of.conv(x, f"{name}.{index}", rate, stride), f"{name}.{index + 1}")
        slope = f"{name}.{index + 2}"
        return of.prelu(x, slope) if f"{slope}.weight" in of.state else x.relu()

    def act(x: Tensor, name: str) -> Tensor:
        slope = f"{name}.out_activation"
        return of.prelu(x, slope) if f"{slope}.weight" in of.state else x.relu()

    def regular(x: Tensor, name: str, rate: int = 1) -> Tensor:
        new = cba(cba(x, f"{name}.ext_conv1"), f"{name}.ext_conv2", rate)
        if f"{name}.ext_conv2.3.weight" in of.state:
            new = cba(new, f"{name}.ext_conv2", index=3)
        return act(x + cba(new, f"{name}.ext_conv3"), name)

    def down(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        pooled, indices = F.max_pool2d(x, 2, return_indices=True)
        new = cba(cba(x, f"{name}.ext_conv1", stride=2), f"{name}.ext_conv2")
        new = cba(new, f"{name}.ext_conv3")
        zeros = torch.zeros_like(new[:, pooled.shape[1] :])
        return act(torch.cat([pooled, zeros], 1) + new, name), indices

    def up(x: Tensor, indices: Tensor, name: str) -> Tensor:
        main = of.norm(of.conv(x, f"{name}.main_conv1.0"), f"{name}.main_conv1.1")
        new = of.up(cba(x, f"{name}.ext_conv1"), f"{name}.ext_tconv1", padding=0)
        new = cba(of.norm(new, f"{name}.ext_tconv1_bnorm").relu(), f"{name}.ext_conv2")
        return (F.max_unpool2d(main, indices, 2) + new).relu()

    first = "initial_block"
    joined = [of.conv(image, f"{first}.main_branch", stride=2), F.max_pool2d(image, 3, 2, 1)]
    x = act(of.norm(torch.cat(joined, 1), f"{first}.batch_norm"), first)
    x, half = down(x, "downsample1_0")
    for index in (1, 2, 3, 4):
        x = regular(x, f"regular1_{index}")
    x, quarter = down(x, "downsample2_0")
    kinds = ("regular", "dilated", "asymmetric", "dilated") * 2
    rates = (1, 2, 1, 4, 1, 8, 1, 16)
    for stage, start in ((2, 1), (3, 0)):
        for index, (kind, rate) in enumerate(zip(kinds, rates, strict=True), start):
            x = regular(x, f"{kind}{stage}_{index}", rate)
    x = up(x, quarter, "upsample4_0")
    x = regular(regular(x, "regular4_1"), "regular4_2")
    x = regular(up(x, half, "upsample5_0"), "regular5_1")
    return of.up(x, "transposed_conv", padding=1)


REFERENCES: dict[str, tuple[float, Callable[[Weights, Tensor], Tensor]]] = {
    "lednet": (1e-3, lednet),
    "erfnet": (1e-3, erfnet),
    "enet": (1e-5, enet),
}


def image_with_ties(*shape: int) -> Tensor:
    """Noise of three values, a flat square and a saturated half: equal maxima are common."""
    image = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(1)) / 2
    image[..., :16, :16] = 0.5
    image[..., shape[-1] // 2 :] = 1.0
    return image


@pytest.mark.parametrize("name", REFERENCES)
def test_the_state_has_the_public_names_and_the_network_the_public_parameters(name: str) -> None:
    state = build_model(name, 19).state_dict()
    shapes = {key: list(tensor.shape) for key, tensor in state.items()}
    assert {k: v for k, v in shapes.items() if ".running" not in k and ".num_" not in k} == PUBLIC[
        name
    ]
    for classes, expected in PARAMETERS[name].items():
        network = build_model(name, classes)
        assert sum(parameter.numel() for parameter in network.parameters()) == expected


@torch.inference_mode()
@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("size", [(64, 96), (72, 40)])  # of odd sides at 1/8, too
def test_logits_equal_the_papers_description(name: str, size: tuple[int, int]) -> None:
    # In float64: where ENet's maxima are nearly equal, rounding to float32 would choose.
    network, image = seeded_network(7, name).double(), image_with_ties(2, 3, *size).double()
    eps, reference = REFERENCES[name]
    found, expected = network(image), reference(Weights(network.state_dict(), eps), image)
    assert found.shape == (2, 7, *size)
    expected = expected[:, :7]  # LEDNet's pyramid has 20 outputs for any number of classes
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("name", REFERENCES)
def test_each_parameter_that_takes_a_gradient_gets_one(name: str) -> None:
    """Or a training on several GPUs, which waits for all gradients, would not start."""
    network = build_model(name, 5)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    for key, parameter in network.named_parameters():
        unused = key.startswith("encoder.output_conv")
        assert parameter.requires_grad == (parameter.grad is not None) == (not unused), key


@torch.inference_mode()
def test_lednets_encoder_has_logits_of_its_own() -> None:
    network = seeded_network(5, "lednet")
    assert isinstance(network, LEDNet)
    found = network.encoder_logits(torch.rand(1, 3, 64, 96))
    assert found.shape == (1, 5, 8, 12)


def test_more_classes_than_the_pyramid_has_outputs_in_public() -> None:
    assert build_model("lednet", 150).eval()(torch.rand(1, 3, 64, 64)).shape == (1, 150, 64, 64)


def test_unpooling_is_that_of_torch_at_ties() -> None:
    x, y = image_with_ties(2, 4, 16, 24), torch.randn(2, 4, 8, 12)
    _, indices = F.max_pool2d(x, 2, return_indices=True)
    corners = first_maximum(x)
    assert (sum(corner.int() for corner in corners) == 1).all()
    assert torch.equal(max_unpool(y, corners), F.max_unpool2d(y, indices, 2))


@pytest.mark.parametrize("name", REFERENCES)
def test_dilations_are_those_asked_for(name: str) -> None:
    network = network_named(name)
    asked = tuple(range(3, 3 + len(network.dilations)))
    found = [
        max(module.dilation)
        for module in build_model(name, 4, asked).modules()
        if isinstance(module, torch.nn.Conv2d) and max(module.dilation) > 1
    ]
    assert tuple(dict.fromkeys(found)) == asked
