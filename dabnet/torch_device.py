"""The device that PyTorch computes on."""

from __future__ import annotations

import torch

from dabnet.errors import InputError


def torch_device(name: str, local_rank: int | None = None) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``; raise if CUDA was asked for and is unavailable.

    Args:
        local_rank: number of this process's GPU if several processes of a machine compute.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda, but PyTorch sees no CUDA device",
            "an NVIDIA GPU and a CUDA build of PyTorch",
            "use --device cpu",
        )
    if name == "cuda" and local_rank is not None:
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise InputError(
                f"process {local_rank} of this machine, which has {count} GPUs",
                "a GPU for each process",
                f"use torchrun --nproc-per-node {count}, or --device cpu",
            )
        return torch.device("cuda", local_rank)
    return torch.device(name)
