"""A checkpoint of a network with seeded random weights, and what is exported from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dabnet.checkpoint import Checkpoint, save_checkpoint
from dabnet.data.registry import label_set
from dabnet.models import build_model, network_named
from dabnet.models.image_to_mask import ImageToMask
from dabnet.preprocessing import Preprocessing

SIZE = (64, 96)
PREPROCESSING = Preprocessing((99.5, 103.25, 105.75))


# What computes the logits of each class: its tensors and the axis of the classes.
_OF_CLASSES = {
    "dabnet": {"classifier.0.conv.weight": 0},
    "lednet": {f"decoder.apn.mid.0.conv.1.{what}": 0 for what in ("weight", "bias")},
    "erfnet": {"decoder.output_conv.weight": 1, "decoder.output_conv.bias": 0},
    "enet": {"transposed_conv.weight": 1},
}

# Ends branches, which as drawn would let rounding grow from one to the next.
_LAST_OF_BRANCH = (".bn2", ".bn2_l", ".bn2_r", ".ext_conv3.1", ".main_conv1.1")


def seeded_network(classes: int = 11, model: str = "dabnet") -> torch.nn.Module:
    """A network in evaluation mode; BatchNorms and PReLUs are far from their initial values.

    The running statistics are those of noise images, so that every class occurs in the masks.
    """
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_model(model, classes)
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # statistics of all batches seen, not a running mean
                module.weight.copy_(torch.rand(module.weight.shape, generator=random) + 0.5)
                if name.endswith(_LAST_OF_BRANCH):
                    module.weight.mul_(0.1)
                module.bias.copy_(torch.randn(module.bias.shape, generator=random) * 0.2)
            elif isinstance(module, torch.nn.PReLU):
                module.weight.copy_(torch.rand(module.weight.shape, generator=random) * 0.5)
        for module in network.train().modules():
            if isinstance(module, torch.nn.Dropout2d):
                module.eval()
        ImageToMask(network, preprocessing_of(model))(torch.from_numpy(noise((4, *SIZE, 3), 0)))
    return network.eval()


def preprocessing_of(model: str) -> Preprocessing:
    """That of a network whose training subtracts a mean, or its own."""
    return network_named(model).training_preprocessing(PREPROCESSING.mean_rgb)


def write_checkpoint(folder: Path, decisive: bool = False, model: str = "dabnet") -> Path:
    """Write a toy-street checkpoint of ours and return its path.

    ``decisive`` lets one class win or lose by far, so that the rounding of INT8 moves few pixels:
    as drawn, some 94 % of them stay.
    """
    state = seeded_network(model=model).state_dict()
    if decisive:
        others = torch.tensor([index for index in range(11) if index != 3])
        for name, axis in _OF_CLASSES[model].items():
            state[name].index_copy_(axis, others, 0.02 * state[name].index_select(axis, others))
    path = folder / "seeded.pth"
    labels = label_set("toy-street")
    of_model = (state, "toy-street", labels, preprocessing_of(model))
    save_checkpoint(Checkpoint(model, *of_model, trained_on=("toy-street train",)), path)
    return path


@contextmanager
def no_bar(what: str, steps: int, *_: Any) -> Iterator[Callable[[], None]]:
    """A progress bar that shows nothing."""
    yield lambda: None


def noise(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Images with structure at several scales, uint8 (N, H, W, 3)."""
    random = np.random.default_rng(seed)
    count, height, width, _ = shape
    coarse = random.integers(0, 256, (count, height // 8, width // 8, 3))
    blocks = coarse.repeat(8, axis=1).repeat(8, axis=2)
    fine = random.integers(-40, 41, shape)
    return np.clip(blocks + fine, 0, 255).astype(np.uint8)
