"""A network's run on one input buffer as a CUDA graph.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs: static buffers, a few runs on a
side stream before the capture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP = 3


class CapturedCall:
    """``function(images)``, recorded once; a replay reads and writes the buffers of the record.

    Args:
        function: gives a tensor. Without autocast: its cast weights would be freed before a replay.
        images: on the GPU; the graph reads this very tensor.
        stream: on which to record. It must be the current stream, and not the default one.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], images: Tensor, stream: torch.cuda.Stream
    ) -> None:
        self._images = images
        for _ in range(_WARM_UP):  # cuDNN tries its kernels, which cannot be recorded
            function(images)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._result = function(images)

    def replay(self, images: Tensor | None = None) -> Tensor:
        """Start a run, of other images if they are given; the result is overwritten by the next."""
        if images is not None:
            self._images.copy_(images)
        self._graph.replay()
        return self._result
