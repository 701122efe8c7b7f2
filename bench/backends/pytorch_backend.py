"""PyTorch: the checkpoint itself, eager in FP32 as the reference, and faster ways of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.paper import PaperProtocol
from bench.record import PAPER, Setting
from dabnet.artifact import open_checkpoint
from dabnet.errors import BackendUnavailable
from dabnet.precision import BF16, FP16, FP32


class PyTorchBackend:
    """``fp32`` is the reference; ``paper`` is timed by ``bench.paper`` and never scored.

    The other variants are modes of ``dabnet.runtime.torch_runner``.
    """

    name = "pytorch"
    variants: Sequence[str] = (FP32, "channels-last", "compiled", FP16, BF16, "cuda-graph", PAPER)

    def by_default(self, device: str) -> Sequence[str]:
        # The protocol is for a GPU; on a CPU its 450 calls take longer than all other rows.
        return (FP32, "compiled", FP16, "cuda-graph", PAPER) if device == "cuda" else (FP32,)

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        device = workshop.device
        arguments: dict[str, Any] = {
            "checkpoint": workshop.checkpoint_path,
            "given": workshop.given,
            "shape": (setting.batch, *setting.size, 3),
            "device": str(device),
            "threads": workshop.threads_of(setting),
        }
        service: Callable[..., Any] = PaperProtocol if variant == PAPER else open_checkpoint
        if variant != PAPER:
            from dabnet.runtime.torch_runner import mode_notes

            mode = "eager" if variant == FP32 else variant
            mode_notes(mode, device.kind)  # raises if the mode makes no sense
            if mode == "compiled" and device.is_gpu and setting.streams > 1:
                raise BackendUnavailable("torch.compile replays CUDA graphs from one thread only")
            arguments |= {"mode": mode, "head": workshop.spec.head}
        elif (setting.batch, setting.streams) != (1, 1):
            raise BackendUnavailable(
                "the published protocol is one image per call, one call at a time"
            )
        graph = workshop.onnx(setting, FP32, "portable")
        return Recipe(service, arguments, workshop.checkpoint_path, graph=graph)
