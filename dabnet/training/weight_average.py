"""An exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Keeps a network whose weights and running statistics are averages over the steps.

    After the first update they are those of the first; each further one moves them by
    ``1 - decay`` towards the present ones. Counters are copied. Unlike
    ``torch.optim.swa_utils.AveragedModel``, an update does not make the host wait for a GPU.

    Attributes:
        network: holds the averages.
        updates: how many there were.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        ours, theirs = self.network.state_dict(), network.state_dict()
        floating = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        for name in ours.keys() - floating:
            ours[name].copy_(theirs[name])
        weight = 1 - self.decay if self.updates else 1.0
        torch._foreach_lerp_([ours[n] for n in floating], [theirs[n] for n in floating], weight)
        self.updates += 1
