"""Faults of a training step as one line with a fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import DistError

from dabnet.errors import DabnetError, InputError, first_line
from dabnet.starvation import is_lack_of_memory
from dabnet.training.processes import Processes
from dabnet.training.spec import TrainingSpec


@contextmanager
def told_as_one_line(spec: TrainingSpec, processes: Processes) -> Iterator[None]:
    """Turn a lack of memory, too small a batch, a lost process or a failed compilation into a
    ``DabnetError``."""
    try:
        yield
    except ValueError as error:
        # BatchNorm behind a global mean, as LEDNet has it, sees one value for each image.
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"--batch-size {spec.recipe.batch_size} over {processes.size} processes",
            f"2 images or more in each for {spec.model} (batch normalisation)",
            "raise it, or add --sync-bn",
        ) from error
    except (MemoryError, RuntimeError) as error:
        if is_lack_of_memory(error):
            raise _out_of_memory(spec, processes) from error
        first = first_line(error)
        if processes.size > 1 and _is_lost_peer(error):
            raise DabnetError(
                f"another of the {processes.size} processes of this run ended, or its connection"
                f" broke (seen by process {processes.rank}: {first})",
                "all of them to run to the end",
                f"start them all again with --resume {spec.output}",
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise DabnetError(
                f"--compile failed: {first}",
                "a C++ compiler for a CPU, Triton for a GPU",
                "install it, or leave --compile out",
            ) from error
        raise


def _is_lost_peer(error: Exception) -> bool:
    """Whether ``error`` says that another process of the run is gone."""
    # Gloo raises a plain RuntimeError that only its text tells from others.
    signs = ("gloo", "connection closed by peer", "connection reset by peer")
    return isinstance(error, DistError) or any(sign in str(error).lower() for sign in signs)


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
