"""PyTorch: the checkpoint itself, eager in FP32 as the reference, and faster ways of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.record import Setting
from dabnet.artifact import open_checkpoint
from dabnet.errors import BackendUnavailable

PAPER = "paper"
_MODES = {
    "fp32": "eager",
    "channels-last": "channels-last",
    "compiled": "compiled",
    "fp16": "fp16",
    "bf16": "bf16",
    "cuda-graph": "cuda-graph",
}


class PyTorchBackend:
    """``fp32`` is the reference; ``paper`` is timed by ``bench.measure.paper`` and never scored."""

    name = "pytorch"
    variants: Sequence[str] = (*_MODES, PAPER)

    def by_default(self, device: str) -> Sequence[str]:
        # The protocol is of a GPU; on a CPU its 450 calls take longer than all other rows.
        return ("fp32", "compiled", "fp16", "cuda-graph", PAPER) if device == "cuda" else ("fp32",)

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        device = workshop.device
        # In the order of PaperProtocol, which takes them too.
        arguments = {
            "checkpoint": workshop.checkpoint_path,
            "dataset": workshop.dataset,
            "shape": (setting.batch, *setting.size, 3),
            "device": device,
            "threads": workshop.threads_of(setting),
        }
        if variant == PAPER:
            if (setting.batch, setting.streams) != (1, 1):
                raise BackendUnavailable(
                    "the published protocol is one image a call, one call at a time"
                )
        else:
            from dabnet.runtime.torch_runner import mode_notes

            mode = _MODES[variant]
            mode_notes(mode, device)  # raises where the mode makes no sense
            if mode == "compiled" and device == "cuda" and setting.streams > 1:
                raise BackendUnavailable("torch.compile replays CUDA graphs from one thread only")
            arguments["mode"] = mode
        graph = workshop.onnx(setting, "fp32", "portable")
        return Recipe(open_checkpoint, arguments, workshop.checkpoint_path, graph=graph)
