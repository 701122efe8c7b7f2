"""An ONNX file or an engine as it is: ours, or of another tool. Nothing is built of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.backends.base import Recipe
from bench.record import Setting
from dabnet.artifact import ENGINE, Artifact, as_input, predict
from dabnet.device import Device
from dabnet.errors import BackendUnavailable
from dabnet.runtime.manifest import DYNAMIC, Manifest
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.runner import LayerTime, Runner, RunnerInfo, Uint8Array, check_images
from dabnet.runtime.trt.runner import TensorRTRunner


def file_recipe(
    path: Path,
    manifest: Manifest,
    setting: Setting,
    device: Device,
    threads: int,
    trust: bool = False,
) -> Recipe:
    """Return how to run a file: ONNX on onnxruntime, an engine on TensorRT.

    ``trust`` loads an engine also without a manifest that has its hash.

    Raises:
        BackendUnavailable: it takes another size or batch, or cannot run on the device.
    """
    stride = manifest.stride
    asked, steps = (setting.batch, *setting.size), (1, stride, stride)
    pairs = zip(manifest.input.sides, asked, steps, strict=True)
    if any(side % step if own == DYNAMIC else own != side for own, side, step in pairs):
        sides = [*manifest.input.sides]
        takes = "x".join("?" if side == DYNAMIC else str(side) for side in sides)
        is_fixed = DYNAMIC not in sides
        multiples = "" if is_fixed else f", multiples of {stride}"
        raise BackendUnavailable(
            f"it takes images of {takes} (batch x height x width{multiples}), not"
            f" {'x'.join(map(str, asked))}",
            fix="add --size {}x{}".format(*manifest.size) if is_fixed else "",
        )
    said = manifest if manifest.is_described else None
    arguments: dict[str, Any] = {"path": path, "device": str(device), "manifest": said}
    if Artifact.open(path).kind == ENGINE:
        if not device.is_gpu:
            raise BackendUnavailable("an engine needs a GPU", fix="choose --device cuda")
        arguments["trust"] = trust
        return Recipe(open_engine, arguments, path, manifest=manifest)
    arguments["threads"] = threads
    with closing(OnnxRuntimeRunner(**arguments)) as runner:  # it may not run here
        exact = {**arguments, "exact_qdq": True} if runner.fuses_int8 else None
    return Recipe(open_onnx, arguments, path, exact, manifest, graph=path)


def open_onnx(**arguments: Any) -> Runner:
    """Load an ONNX file; ``arguments`` are those of ``OnnxRuntimeRunner``."""
    return _of_images(OnnxRuntimeRunner(**arguments))


def open_engine(path: Path, device: str, manifest: Manifest | None, trust: bool) -> Runner:
    """Load an engine."""
    return _of_images(TensorRTRunner(path, device, manifest=manifest, trust=trust))


def _of_images(runner: OnnxRuntimeRunner | TensorRTRunner) -> Runner:
    """Itself if it takes uint8 images and gives masks, with or without confidences."""
    given, result = runner.manifest.input, runner.manifest.output
    return runner if given.dtype == "uint8" and len(result.shape) == 3 else ImageRunner(runner)


class ImageRunner(Runner):
    """A file that takes floats or gives logits, with what its user has to do around it.

    Preprocessing and argmax are part of each call, in numpy: all rows do the same work. In the
    scope ``device`` images and masks are in host memory, too.
    """

    def __init__(self, runner: OnnxRuntimeRunner | TensorRTRunner) -> None:
        self._runner, manifest = runner, runner.manifest
        batch, height, width = manifest.input.sides
        around = [
            *(["preprocessing"] if manifest.input.dtype != "uint8" else []),
            *(["argmax"] if len(manifest.output.shape) == 4 else []),
        ]
        notes = (*runner.info.notes, f"{' and '.join(around)} in numpy")
        self._info = replace(runner.info, shape=(batch, height, width, 3), notes=notes)
        self._staged: list[Uint8Array] = []

    @property
    def info(self) -> RunnerInfo:
        return self._info

    def infer(self, images: Uint8Array) -> Uint8Array:
        return predict(self._runner, check_images(images, self._info.shape))

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        self._staged = [batch.copy() for batch in batches]

    def launch(self, index: int) -> None:
        self.infer(self._staged[index])

    def synchronize(self) -> None:
        """Each launch has finished."""

    def layer_times(self, images: Uint8Array, calls: int) -> tuple[LayerTime, ...]:
        return self._runner.layer_times(as_input(self._runner.manifest, images), calls)

    def close(self) -> None:
        self._runner.close()
