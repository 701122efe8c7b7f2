"""The optimiser of a recipe and its learning rate: linear warm-up, then polynomial decay."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dabnet.training.recipes import Recipe

WARMUP_FACTOR = 1 / 3


def build_optimizer(recipe: Recipe, network: nn.Module) -> Optimizer:
    """Return the recipe's optimiser over all of the network's parameters."""
    parameters = network.parameters()
    if recipe.optimizer == "sgd":
        return SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    return Adam(parameters, recipe.lr, weight_decay=recipe.weight_decay)


def warmup_poly(optimizer: Optimizer, total: int, warmup: int, power: float) -> LambdaLR:
    """Return a scheduler to step once an iteration.

    Args:
        optimizer: its learning rates are the peak.
        total: iterations of the whole run.
        warmup: iterations over which the rate rises linearly from 1/3 of the peak to the peak.
        power: exponent of the decay to 0 at ``total`` (Reagan1311/DABNet, WarmupPolyLR).
    """

    def factor(iteration: int) -> float:
        if iteration < warmup:
            progress = iteration / warmup
            return WARMUP_FACTOR * (1 - progress) + progress
        remaining = 1 - (iteration - warmup) / max(1, total - warmup)
        return float(max(0.0, remaining) ** power)

    return LambdaLR(optimizer, factor)
