"""Which device PyTorch computes on."""

from __future__ import annotations

import torch

from dabnet.errors import InputError

DEVICE_NAMES = ("auto", "cpu", "cuda")


def torch_device(name: str) -> torch.device:
    """Resolve one of ``DEVICE_NAMES``; raise where CUDA was asked for and cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda, but PyTorch sees no CUDA device",
            "an NVIDIA GPU and a CUDA build of PyTorch",
            "use --device cpu",
        )
    return torch.device(name)
