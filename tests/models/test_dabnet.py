"""The network equals the published one: names, shapes, and logits recorded from its code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dabnet.errors import InputError
from dabnet.models import build_model, check_size
from dabnet.models.dabnet import DABNet
from dabnet.models.image_to_mask import ImageToMask
from dabnet.models.summary import summarise
from dabnet.preprocessing import Preprocessing

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
        check_size(500, 1001)
    check_size(360, 480)


def test_summary_counts_what_the_network_has_and_does():
    network = DABNet(19)
    rows = summarise(network, (64, 128))
    assert sum(row.parameters for row in rows) == 756_643
    by_name = {row.name: row for row in rows}
    stem = by_name["init_conv.0.conv"]
    assert stem.shape == (1, 32, 32, 64)
    assert stem.multiply_adds == 32 * 32 * 64 * 3 * 3 * 3
    depthwise = by_name["DAB_Block_2.DAB_Module_2_0.ddconv3x1.conv"]
    assert depthwise.multiply_adds == 64 * 8 * 16 * 3
    # 10.2 G at 512x1024, and a 64th of it at a 64th of the pixels.
    assert sum(row.multiply_adds for row in rows) * 64 == pytest.approx(10.2e9, rel=5e-3)
    assert network.training
