"""The harness itself: a backend that returns an empty mask at once."""

from __future__ import annotations

from collections.abc import Sequence

from bench.backends.base import Recipe
from bench.backends.cache import Workshop
from bench.record import Setting
from dabnet.runtime.runner import NullRunner


class NullBackend:
    """Its row shows what the timer adds to each sample of the others."""

    name = "null"
    variants: Sequence[str] = ("harness",)

    def by_default(self, device: str) -> Sequence[str]:
        return ()

    def prepare(self, variant: str, setting: Setting, workshop: Workshop) -> Recipe:
        arguments = {"shape": (setting.batch, *setting.size, 3)}
        return Recipe(NullRunner, arguments, workshop.checkpoint_path)
