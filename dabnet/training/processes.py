"""The processes of one run: one alone, or those that torchrun started on one or more machines.

``torchrun`` (https://docs.pytorch.org/docs/stable/elastic/run.html) tells each process its place
by the environment variables RANK, LOCAL_RANK and WORLD_SIZE. BatchNorm may see the batch of all:
PyTorch's ``SyncBatchNorm`` works on GPUs only; on CPUs, ``CpuSyncBatchNorm`` does the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from dabnet.errors import InputError

MOST_WAIT_S = 120.0
"""Seconds that a process waits for the others to start."""
_MEETING = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place among those that train together.

    Attributes:
        rank: 0 to ``size - 1``; the process of rank 0 prints and writes.
        size: how many train together.
        local_rank: the place on this machine; the GPU of that number is this process's.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Connect the processes while the block runs: NCCL between GPUs, Gloo between CPUs.

        Of several GPUs, ``device`` is the current one in the block: pinning memory, NCCL and
        kernels of ``torch.compile`` take that one, whatever the device of the tensors
        (pytorch/pytorch#21081).
        """
        on_gpu = device.type == "cuda"
        with torch.cuda.device(device) if on_gpu else nullcontext():
            if self.size > 1:
                self._join("nccl" if on_gpu else "gloo")
            yield
            if self.size > 1:
                # Gloo's threads may abort a process that leaves while another still has work.
                dist.barrier()
                dist.destroy_process_group()  # not after an error: it would wait for the dead

    def _join(self, backend: str) -> None:
        """Wait for all processes, but not for ever, and connect them."""
        at = ":".join(os.environ[name] for name in _MEETING)
        wait = timedelta(seconds=MOST_WAIT_S)
        try:
            store, _, _ = next(rendezvous("env://", self.rank, self.size, timeout=wait))
            store.set(f"came-{self.rank}", "")
            store.wait([f"came-{rank}" for rank in range(self.size)], wait)
        except (dist.DistError, ValueError, OverflowError) as error:
            raise InputError(
                f"process {self.rank} met not all of {self.size} processes at {at}"
                f" within {MOST_WAIT_S:g} s",
                "all of them started",
                "start them with torchrun, or unset WORLD_SIZE to train in one",
            ) from error
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over all processes, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def take_from_first_(self, tensors: Sequence[Tensor]) -> None:
        """Replace ``tensors`` by those of the process of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def agree(self, yes: bool, device: torch.device) -> bool:
        """Whether ``yes`` holds in every process."""
        return int(self.sum_(torch.tensor(int(yes), device=device))) == self.size

    def largest(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Return the largest of all processes in each place of ``numbers``."""
        if self.size == 1:
            return [*numbers]
        tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        largest: list[float] = tensor.tolist()
        return largest

    def share(self, count: int) -> range:
        """Return the indices, out of ``count``, that this process works on."""
        return range(self.rank, count, self.size)


def processes_of_torchrun() -> Processes:
    """Return the place that torchrun gave this process, or that of a process alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in os.environ:
        return Processes()
    texts = {name: os.environ.get(name, "unset") for name in (*names, *_MEETING)}
    rank, size, local_rank = (
        int(texts[name]) if re.fullmatch("[0-9]{1,6}", texts[name]) else -1 for name in names
    )
    fits = 0 <= rank < size and 0 <= local_rank < size
    if not fits or (size > 1 and "unset" in texts.values()):
        raise InputError(
            ", ".join(f"{name}={value}" for name, value in texts.items()),
            "the variables that torchrun sets, with RANK and LOCAL_RANK below WORLD_SIZE",
            "start with torchrun, or unset WORLD_SIZE",
        )
    return Processes(rank, size, local_rank)


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """Return ``network`` with every BatchNorm synchronised; names of the state stay the same."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CpuSyncBatchNorm
    return network


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; so is its gradient, since every process uses the sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm of (N, C, H, W) whose mean and variance are those of all processes' batches."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or dist.get_world_size() == 1:
            return super().forward(input)
        wide = input.float()  # as every BatchNorm does, whatever the type of its input
        here = wide.new_tensor([wide.numel() / wide.shape[1]])
        sums = _sum_over_processes(torch.cat([wide.sum((0, 2, 3)), here]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean[:, None, None]
        variance = _sum_over_processes(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
