"""A small DABNet checkpoint with seeded random weights, and what is exported from it."""

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
from dabnet.models import build_model
from dabnet.models.image_to_mask import ImageToMask
from dabnet.preprocessing import Preprocessing

SIZE = (64, 96)
PREPROCESSING = Preprocessing((99.5, 103.25, 105.75))


def seeded_network(classes: int = 11) -> torch.nn.Module:
    """DABNet in evaluation mode; BatchNorms and PReLUs are far from their initial values.

    The running statistics are those of noise images, so that every class occurs in the masks.
    """
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_model("dabnet", classes)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # statistics of all batches seen, not a running mean
                module.weight.copy_(torch.rand(module.weight.shape, generator=random) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=random) * 0.2)
            elif isinstance(module, torch.nn.PReLU):
                module.weight.copy_(torch.rand(module.weight.shape, generator=random) * 0.5)
        ImageToMask(network.train(), PREPROCESSING)(torch.from_numpy(noise((4, *SIZE, 3), 0)))
    return network.eval()


def write_checkpoint(folder: Path, decisive: bool = False) -> Path:
    """Write a toy-street checkpoint of ours and return its path.

    ``decisive`` lets one class win or lose by far, so that the rounding of INT8 moves few pixels:
    as drawn, some 94 % of them stay.
    """
    state = seeded_network().state_dict()
    if decisive:
        others = [index for index in range(11) if index != 3]
        state["classifier.0.conv.weight"][others] *= 0.02
    path = folder / "seeded.pth"
    labels = label_set("toy-street")
    save_checkpoint(Checkpoint("dabnet", state, "toy-street", labels, PREPROCESSING), path)
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
