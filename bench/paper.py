"""The protocol behind DABNet's published 104 FPS, so that a row can be compared with it.

``eval_fps.py`` of https://github.com/Reagan1311/DABNet: a random float input, logits out, 50 calls
to warm up, 100 calls timed as one, with a single synchronisation at the end; ``cudnn.benchmark``
and gradients on. TF32 is off, as the card of that figure had none. Such a time holds no copies, no
normalisation and no argmax, and the CPU is ahead of the GPU all the while: it is no latency.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dabnet.errors import BackendUnavailable
from dabnet.given import Given

WARM_UP = 50
TIMED = 100


class PaperProtocol:
    """The protocol as a service of ``bench.isolation.Isolated``.

    Args:
        given: what the checkpoint does not say.
        shape: (N, H, W, 3), as of an artifact's images; the network gets (N, 3, H, W).
    """

    def __init__(
        self,
        checkpoint: Path,
        given: Given,
        shape: tuple[int, int, int, int],
        device: str,
        threads: int | None = None,
    ) -> None:
        import torch

        from dabnet.checkpoint import load_checkpoint

        chosen = torch.device(device)
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable("PyTorch sees no NVIDIA GPU", fix="check nvidia-smi")
        if threads is not None:
            torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        batch, height, width, _ = shape
        self._network = load_checkpoint(checkpoint, given).network().to(device)
        wait = partial(torch.cuda.synchronize, chosen)
        self._synchronize: Callable[[], None] = wait if chosen.type == "cuda" else lambda: None
        self._input = torch.randn(batch, 3, height, width, device=device)

    def run(self, warm_up: int = WARM_UP, timed: int = TIMED) -> float:
        """Seconds per call: one measurement, which the caller repeats."""
        for _ in range(warm_up):
            self._network(self._input)
        self._synchronize()
        start = time.perf_counter()
        for _ in range(timed):
            self._network(self._input)
        self._synchronize()
        return (time.perf_counter() - start) / timed
