"""The network equals the published one: names, shapes, and logits recorded from its code."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchinfo

from dabnet.errors import InputError
from dabnet.models import build_model, network_named
from dabnet.models.dabnet import DABNet
from dabnet.models.image_to_mask import ImageToMask
from dabnet.preprocessing import Preprocessing
from tests.support.training_runs import command

PUBLIC = json.loads((Path(__file__).parent / "public_dabnet.json").read_text())


def _filled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under which the published network gave the recorded logits."""
    filled = {}
    for number, (name, tensor) in enumerate(sorted(state.items())):
        wave = np.sin(0.37 * np.arange(tensor.numel()) + number)
        if name.endswith("num_batches_tracked"):
            filled[name] = tensor
            continue
        if name.endswith("running_var"):
            wave = 1 + 0.5 * wave
        elif name.endswith("bn.weight"):
            wave = 1 + 0.2 * wave
        elif name.endswith("acti.weight"):
            wave = 0.25 + 0.2 * wave
        elif tensor.dim() == 4:
            wave = wave * (3 / np.prod(tensor.shape[1:])) ** 0.5
        else:
            wave = 0.1 * wave
        filled[name] = torch.from_numpy(wave.astype(np.float32)).view(tensor.shape)
    return filled


def test_state_dict_has_the_public_names_and_shapes_and_parameter_count():
    network = DABNet(19)
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == PUBLIC["shapes"]
    assert sum(parameter.numel() for parameter in network.parameters()) == 756_643


def test_logits_equal_the_published_network():
    network = DABNet(19)
    network.load_state_dict(_filled(network.state_dict()))
    network.eval()
    height, width = 48, 64
    wave = 100 * np.sin(0.05 * np.arange(3 * height * width))
    image = torch.from_numpy(wave.astype(np.float32)).view(1, 3, height, width)
    with torch.no_grad():
        logits = network(image)
    assert logits.shape == (1, 19, height, width)
    got = [logits[tuple(index)].item() for index in PUBLIC["logits"]["index"]]
    np.testing.assert_allclose(got, PUBLIC["logits"]["value"], rtol=1e-4, atol=1e-3)


def test_image_to_mask_is_argmax_of_the_network_on_the_normalised_image():
    torch.manual_seed(0)
    preprocessing = Preprocessing(mean_rgb=(10.0, 20.0, 30.0), scale=(0.5, 1.0, 2.0))
    network = DABNet(11).eval()
    images = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    with torch.no_grad():
        mask = ImageToMask(network, preprocessing)(images)
        by_hand = (images.float() - torch.tensor([10.0, 20.0, 30.0])) * torch.tensor([0.5, 1, 2])
        expected = network(by_hand.permute(0, 3, 1, 2)).argmax(1)
    assert mask.dtype == torch.uint8
    assert torch.equal(mask.long(), expected)


def test_registry_refuses_unknown_models_and_sizes():
    with pytest.raises(InputError, match="unknown model 'unet'.*dabnet"):
        build_model("unet", 11)
    with pytest.raises(InputError, match="500x1001.*multiples of 8.*nearest is 496x1000"):
        network_named("dabnet").check_size(500, 1001)
    network_named("dabnet").check_size(360, 480)


def test_the_size_of_the_network():
    found = torchinfo.summary(DABNet(19), (1, 3, 512, 1024), verbose=0)
    convolutions = [layer for layer in found.summary_list if layer.class_name == "Conv2d"]
    assert found.total_params == 756_643
    assert sum(layer.macs for layer in convolutions) == 10_220_380_160


def test_summary_prints_the_layers_and_their_totals(monkeypatch, capsys):
    assert command(monkeypatch, "--summary", "--dataset", "cityscapes") == 0
    out = capsys.readouterr().out
    assert out.startswith("dabnet for cityscapes, one image of 512x1024\n")
    assert re.search(r"Conv2d \(conv\) +\[1, 19, 64, 128\] +4,921 +40,312,832\n", out)
    assert "Total params: 756,643\n" in out and "Total mult-adds (G): 10.22\n" in out


def test_a_summary_of_a_size_that_the_network_cannot_take(monkeypatch, capsys):
    assert command(monkeypatch, "--summary", "--input-size", "100x200") == 2
    assert "error: image size 100x200; expected height" in capsys.readouterr().err
