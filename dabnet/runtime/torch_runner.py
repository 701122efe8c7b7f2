"""PyTorch as a backend: the reference that every other artifact is compared with."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch
from torch import Tensor

from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.runner import RunnerInfo, Uint8Array, check_images


class TorchRunner:
    """Runs a network eagerly in float32, as a user of the checkpoint would.

    Args:
        module: the network behind the artifact contract.
        shape: (N, H, W, 3) of the images.
        device: where to compute. TF32 is switched off on CUDA, so that FP32 means FP32.
        threads: CPU threads; None leaves PyTorch's choice. Acts on the whole process.
    """

    def __init__(
        self,
        module: ImageToMask,
        shape: tuple[int, int, int, int],
        device: torch.device,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self._device = device
        self._module = module.to(device).eval()
        self._staged: list[Tensor] = []
        self._info = RunnerInfo(
            "pytorch", torch.__version__, _describe(device), "fp32", shape, ("eager",)
        )

    @property
    def info(self) -> RunnerInfo:
        return self._info

    @torch.inference_mode()
    def infer(self, images: Uint8Array) -> Uint8Array:
        images = check_images(images, self._info.shape)
        masks = self._module(torch.from_numpy(images).to(self._device)).to(torch.uint8)
        found: Uint8Array = masks.cpu().numpy()
        return found

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        checked = [check_images(images, self._info.shape) for images in batches]
        # A copy on the CPU too, where ``to`` gives a view: the arrays belong to the caller.
        self._staged = [torch.from_numpy(i).to(self._device, copy=True) for i in checked]

    @torch.inference_mode()
    def launch(self, index: int) -> None:
        self._module(self._staged[index])

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def close(self) -> None:
        self._staged = []
        del self._module


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads, {platform.machine()})"
