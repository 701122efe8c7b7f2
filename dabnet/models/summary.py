"""What a network is made of: layers, output shapes, parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One leaf module in the order of its execution.

    Attributes:
        name: of the module, as in the state dict.
        kind: its class.
        shape: of its output, (N, C, H, W).
        parameters: trainable ones.
        multiply_adds: of its convolution for the whole output; 0 for other layers.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def summarise(network: nn.Module, size: tuple[int, int]) -> list[LayerSummary]:
    """Run one image of (height, width) pixels through ``network`` and list its leaf modules."""
    rows: list[LayerSummary] = []

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        macs = 0
        if isinstance(module, nn.Conv2d):
            macs = output.numel() * module.weight[0].numel()
        parameters = sum(p.numel() for p in module.parameters())
        kind = type(module).__name__
        rows.append(LayerSummary(name, kind, tuple(output.shape), parameters, macs))

    hooks = [
        module.register_forward_hook(lambda m, _, out, name=name: record(name, m, out))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *size))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return rows


def summary_text(rows: list[LayerSummary]) -> str:
    """Return a table of the layers and their totals; a pool that runs thrice stands thrice."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'layer':<{width}}  {'kind':<12}{'output':>18}{'parameters':>12}{'M mult-adds':>13}"]
    for row in rows:
        shape = "x".join(str(side) for side in row.shape[1:])
        macs = f"{row.multiply_adds / 1e6:.2f}" if row.multiply_adds else ""
        count = f"{row.parameters:,}" if row.parameters else ""
        lines.append(f"{row.name:<{width}}  {row.kind:<12}{shape:>18}{count:>12}{macs:>13}")
    total = sum(row.multiply_adds for row in rows)
    parameters = sum(row.parameters for row in rows)
    lines.append(f"{parameters:,} parameters, {total / 1e9:.2f} G multiply-adds in convolutions")
    return "\n".join(lines)
