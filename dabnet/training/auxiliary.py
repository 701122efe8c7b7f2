"""Linear classifiers on features inside a network, which its training uses and its result lacks.

Zhao et al. 2017, arXiv 1612.01105, section 3.3.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dabnet.errors import InputError
from dabnet.models import network_named


class WithInnerLogits(nn.Module):
    """A network that also classifies its inner features (``Network.inner``).

    ``forward`` takes images (N, 3, H, W) and returns the network's logits (N, K, H, W), and those
    of each inner feature, (N, K, h, w) of its own size.

    Args:
        network: of the registered name ``model``, with ``classes`` classes.

    Raises:
        InputError: it names no inner features.
    """

    def __init__(self, network: nn.Module, model: str, classes: int) -> None:
        super().__init__()
        names = network_named(model).inner
        if not names:
            raise InputError(
                f"--auxiliary for {model}, whose inner features are not named", "--model dabnet"
            )
        self.network = network
        self.seen: dict[str, Tensor] = {}
        for name in names:
            network.get_submodule(name).register_forward_hook(partial(self._see, name))
        weight = next(network.parameters())
        stride = 8 * network_named(model).stride
        network.eval()
        with torch.no_grad():
            network(torch.zeros(1, 3, stride, stride, device=weight.device))
        network.train()
        heads = [nn.Conv2d(self.seen[name].shape[1], classes, 1) for name in names]
        self.heads = nn.ModuleList(heads).to(weight.device)

    def _see(self, name: str, _: nn.Module, __: object, output: Tensor) -> None:
        self.seen[name] = output

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits = self.network(image)
        return logits, [head(x) for head, x in zip(self.heads, self.seen.values(), strict=True)]


def shrunk(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return labels int64 (N, H, W) at a smaller size, the middle pixel of each area."""
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
