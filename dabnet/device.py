"""The device that computes: the CPU, or one of the GPUs of this machine.

A GPU's number is CUDA's: ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` decide what it means.
NVML and nvidia-smi count otherwise; the PCI address (``dabnet.runtime.cuda``) is common to all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dabnet.errors import InputError

if TYPE_CHECKING:
    import torch

CPU, CUDA, AUTO = "cpu", "cuda", "auto"


@dataclass(frozen=True, slots=True)
class Device:
    """``cpu``, or ``cuda`` with the number of a GPU."""

    kind: str = CPU
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Device:
        """``cpu``, ``cuda`` (the first GPU) or ``cuda:1`` → a device; InputError else."""
        found = re.fullmatch(r"(cpu|cuda)(?::(\d{1,3}))?", text)
        if found is None or (found[1] == CPU and found[2]):
            raise InputError(f"device {text!r}", "cpu, cuda or cuda:N, such as cuda:1")
        return cls(found[1], int(found[2] or 0))

    @property
    def is_gpu(self) -> bool:
        return self.kind == CUDA

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.is_gpu else self.kind


def available_device(name: str) -> Device:
    """Resolve ``auto`` (a GPU that PyTorch sees, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: PyTorch does not see the GPU that was asked for.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == AUTO:
        return Device(CUDA if count else CPU)
    device = Device.parse(name)
    if device.is_gpu and count <= device.index:
        sees = f"{count} GPUs, cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
        raise InputError(
            f"--device {name}, but PyTorch sees {sees}",
            "an NVIDIA GPU and a CUDA build of PyTorch",
            "use --device cuda or cpu" if count else "use --device cpu",
        )
    return device


def torch_device(name: str, local_rank: int | None = None) -> torch.device:
    """The same as PyTorch's device.

    Args:
        local_rank: number of this process's GPU if several processes of a machine compute.
    """
    import torch

    device = available_device(name)
    if device.is_gpu and local_rank is not None:
        count = torch.cuda.device_count()
        if device.index:
            raise InputError(
                f"--device {name} under torchrun",
                "--device cuda: each process takes the GPU of its own number",
                "choose GPUs with CUDA_VISIBLE_DEVICES",
            )
        if local_rank >= count:
            raise InputError(
                f"process {local_rank} of this machine, which has {count} GPUs",
                "a GPU for each process",
                f"use torchrun --nproc-per-node {count}, or --device cpu",
            )
        return torch.device(CUDA, local_rank)
    return torch.device(str(device))
