"""A backend that does nothing: timing it measures the harness itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dabnet.runtime.runner import RunnerInfo, Uint8Array, check_images


class NullRunner:
    """Returns an empty mask at once."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._info = RunnerInfo("null", "", "none", "none", shape)
        self._masks = np.zeros(shape[:3], np.uint8)

    @property
    def info(self) -> RunnerInfo:
        return self._info

    def infer(self, images: Uint8Array) -> Uint8Array:
        check_images(images, self._info.shape)
        return self._masks

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        pass

    def launch(self, index: int) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        pass
