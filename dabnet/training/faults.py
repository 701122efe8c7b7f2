"""What can go wrong in a training step, told as one line with a way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dabnet.errors import DabnetError
from dabnet.training.processes import Processes, is_lost_peer, lost_peer
from dabnet.training.spec import TrainingSpec


@contextmanager
def told_as_one_line(spec: TrainingSpec, processes: Processes) -> Iterator[None]:
    """Turn a lack of memory, a lost process or a failed compilation into a ``DabnetError``."""
    try:
        yield
    except MemoryError as error:
        raise _out_of_memory(spec, processes) from error
    except RuntimeError as error:
        text = str(error)
        # The CPU's allocator raises a plain RuntimeError.
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
            raise _out_of_memory(spec, processes) from error
        if processes.size > 1 and is_lost_peer(error):
            way_out = f"start them all again with --resume {spec.output}"
            raise lost_peer(processes, text.strip().partition("\n")[0], way_out) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            first = text.strip().partition("\n")[0]
            raise DabnetError(
                f"--compile failed: {first}",
                "a C++ compiler for a CPU, Triton for a GPU",
                "install it, or leave --compile out",
            ) from error
        raise


def _out_of_memory(spec: TrainingSpec, processes: Processes) -> DabnetError:
    recipe = spec.recipe
    height, width = recipe.input_size
    shared = f" over {processes.size} processes" if processes.size > 1 else ""
    smaller = max(2, recipe.batch_size // 2)
    advice = [f"--batch-size {smaller}"] if smaller < recipe.batch_size else []
    if recipe.amp == "off" and spec.device.type == "cuda":
        advice.append("--amp bf16")
    advice.append("a smaller --input-size")
    if spec.data_path != "workers" and spec.device.type == "cuda":
        advice.append("--data-path workers")
    return DabnetError(
        f"out of memory on {spec.device} with --batch-size {recipe.batch_size}{shared}"
        f" and crops of {height}x{width}",
        "a batch that fits",
        "try " + ", or ".join(advice),
    )
