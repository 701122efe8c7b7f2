"""The artifact contract as a module: uint8 image in, class mask out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dabnet.head import LARGEST, LOGITS, MASK, MASK_AND_CONFIDENCE
from dabnet.preprocessing import Preprocessing


class ImageToMask(nn.Module):
    """A network with its preprocessing before it and upsample and argmax behind it.

    ``forward`` takes images uint8 (N, H, W, 3), RGB, and returns masks (N, H, W) of class indices
    in ``mask_dtype``: uint8, or int32 where a target cannot emit uint8 (TensorRT 8.6). This is
    the PyTorch reference that every exported artifact must agree with, and what is exported.

    Args:
        network, preprocessing: what the checkpoint holds.
        mask_dtype: of the mask and the confidence.
        float_input: ``forward`` takes preprocessed float32 images (N, 3, H, W) instead.
        head: ``mask``; ``logits``: ``forward`` returns float32 logits (N, K, H, W) instead;
            ``mask+confidence``: it returns the mask and the confidence (N, H, W), 0…255, that
            ``dabnet.head.confidence_of`` defines.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        mask_dtype: torch.dtype = torch.uint8,
        *,
        float_input: bool = False,
        head: str = MASK,
    ) -> None:
        super().__init__()
        self.network = network
        self.mask_dtype = mask_dtype
        self.float_input = float_input
        self.head = head
        as_channels = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(preprocessing.mean_rgb).view(as_channels))
        self.register_buffer("scale", torch.tensor(preprocessing.scale).view(as_channels))
        self.scales = any(factor != 1.0 for factor in preprocessing.scale)

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) → float32 (N, 3, H, W), normalised."""
        # Cast before the transpose: TensorRT lets a uint8 tensor be cast and nothing else.
        normalised = images.to(torch.float32).permute(0, 3, 1, 2) - self.mean
        return normalised * self.scale if self.scales else normalised

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        inputs = images if self.float_input else self.preprocess(images)
        logits: Tensor = self.network(inputs)  # (N, K, H, W)
        if self.head == LOGITS:
            return logits
        mask = logits.argmax(dim=1).to(self.mask_dtype)  # (N, H, W)
        return (mask, self._confidence(logits)) if self.head == MASK_AND_CONFIDENCE else mask

    def _confidence(self, logits: Tensor) -> Tensor:
        if logits.dtype != torch.float32:  # under autocast
            logits = logits.to(torch.float32)
        below = logits - logits.amax(dim=1, keepdim=True)  # (N, K, H, W), at most 0
        probability = below.exp().sum(dim=1).reciprocal()  # (N, H, W)
        return (LARGEST * probability).round().to(self.mask_dtype)


def node_scope(module: str) -> str:
    """Return how ``torch.onnx.export`` names a module of the network: ``a.0`` → ``/network/a/a.0``.

    Args:
        module: dotted name of the submodule; an index keeps the name of its list, which is one that
            is called (``nn.Sequential``, not ``nn.ModuleList``).
    """
    parts = ["network"]
    for part in module.split("."):
        parts.append(f"{parts[-1]}.{part}" if part.isdigit() and len(parts) > 1 else part)
    return "/" + "/".join(parts)
