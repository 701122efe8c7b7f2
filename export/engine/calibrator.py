"""INT8 ranges chosen by TensorRT itself, from images, for TensorRT 8 and 10.

API: ``IInt8EntropyCalibrator2`` and ``IInt8MinMaxCalibrator``. The bindings print an exception of a
callback and go on as if the images had ended (NVIDIA/TensorRT, python/src/infer/pyInt8.cpp), so
that a broken calibration would pass for one over fewer images: errors are kept, and raised after.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.calibrate import CalibrationImage
from dabnet.data.dataset import Uint8Array
from dabnet.data.images import ImageSource
from dabnet.errors import ArtifactError, InputError
from dabnet.files import existing_file, replacing, write_text
from dabnet.runtime.cuda import DeviceMemory, HostArray
from dabnet.runtime.manifest import CalibrationInfo
from export.engine.progress import KeptErrors, Phases

CALIBRATOR_CLASSES = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
PHASE = "Calibrating"


@dataclass(frozen=True, slots=True)
class CalibrationCache:
    """TensorRT's file of ranges, and beside it (``.json``) which images and graph they are of.

    Attributes:
        path: the file; TensorRT's own format, so that its other tools read it too.
        graph_sha256: of the ONNX graph that is built; ranges belong to the names of its tensors.
    """

    path: Path
    graph_sha256: str

    def read(self) -> tuple[bytes, CalibrationInfo | None] | None:
        """Return the content and its origin (None if unknown); None where there is no file.

        Raises:
            InputError: it was made for another graph.
            ArtifactError: the file beside it is damaged.
        """
        if not self.path.exists():
            return None
        content = existing_file(self.path, "a calibration cache").read_bytes()
        if not self._beside.exists():
            return content, None
        try:
            origin = json.loads(self._beside.read_text(encoding="utf-8"))
            graph, info = origin["graph_sha256"], CalibrationInfo.from_plain(origin["calibration"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{str(self._beside)!r} cannot be read ({error})",
                "where the calibration cache beside it came from",
                "delete both, and calibrate again",
            ) from error
        if graph != self.graph_sha256:
            raise InputError(
                f"the calibration cache {str(self.path)!r} was made for another ONNX graph",
                "one of this ONNX file",
                "delete it, or name another --calibration-cache",
            )
        return content, info

    def write(self, content: bytes, info: CalibrationInfo) -> None:
        """Write both files, each atomically."""
        origin = {"graph_sha256": self.graph_sha256, "calibration": dataclasses.asdict(info)}
        write_text(self._beside, json.dumps(origin, indent=2))
        with replacing(self.path) as temporary:
            temporary.write_bytes(content)

    @property
    def _beside(self) -> Path:
        return self.path.with_name(self.path.name + ".json")


class Calibrator:
    """One calibration: batches to the GPU, ranges from and to the cache.

    Args:
        method: ``entropy`` or ``minmax``.
        memory: the GPU; ``close`` gives back what was allocated, not the GPU.
        shape: uint8 (N, H, W, 3) of a batch.
        images: training images of that height and width; None where the cache must do.
        cache: where ranges are kept; None keeps none.
        phases: where progress is shown.
        errors: where an error of a callback is kept, for the caller to raise.
        dataset: name of the data set, for ranges of unknown origin.
    """

    def __init__(
        self,
        method: str,
        memory: DeviceMemory,
        shape: tuple[int, ...],
        images: ImageSource | None,
        cache: CalibrationCache | None,
        phases: Phases,
        errors: KeptErrors,
        dataset: str,
    ) -> None:
        self._base, self._method = CALIBRATOR_CLASSES[method], f"tensorrt-{method}"
        self._errors, self._dataset = errors, dataset
        self._memory, self._shape = memory, shape
        self._images, self._cache, self._phases = images, cache, phases
        self._stored = cache.read() if cache else None
        if images is not None and len(images) < shape[0]:
            raise InputError(
                f"{images.description} for batches of {shape[0]}",
                "at least one batch of calibration images",
                "raise --calibration-images, or export with a smaller batch",
            )
        self._hashes: list[str] = []
        self._batches = self._read_batches()
        self._found: bytes | None = None
        self._staging: HostArray | None = None
        self._address = self._stream = 0

    def handle(self, module: Any) -> Any:
        """Return the object that ``IBuilderConfig.int8_calibrator`` takes."""
        keep = self._errors.run
        members = {
            "get_batch_size": lambda _: self._shape[0],
            "get_batch": lambda _, names: keep(lambda: self._next_batch(names)),
            "read_calibration_cache": lambda _: self._stored[0] if self._stored else None,
            "write_calibration_cache": lambda _, cache: keep(lambda: self._keep(cache)),
        }
        # The base class is known only at run time, so ``class`` cannot be used under mypy strict.
        return type("ImageCalibrator", (getattr(module, self._base),), members)()

    def save(self) -> None:
        """Write the cache, if this calibration found ranges of its own."""
        if self._cache and self._found is not None and self._hashes:
            self._cache.write(self._found, self.info)

    @property
    def info(self) -> CalibrationInfo:
        """Where the ranges came from: the images that were read, or the cache."""
        split = "unknown"
        if self._hashes and self._images:
            split = self._images.dataset.split
        elif self._stored and self._stored[1]:
            return self._stored[1]
        return CalibrationInfo(
            self._method, self._dataset, split, len(self._hashes), tuple(self._hashes)
        )

    def close(self) -> None:
        """Free the GPU memory. May be called twice."""
        if self._address:
            self._memory.free(self._address)
        if self._staging is not None:
            self._memory.free_pinned(self._staging)
        if self._stream:
            self._memory.destroy_stream(self._stream)
        self._address = self._stream = 0
        self._staging = None

    def _next_batch(self, names: list[str]) -> list[int] | None:
        """The addresses of the next batch, one for each input; None after the last."""
        if self._images is None:
            refused = ", and TensorRT did not take the calibration cache" if self._stored else ""
            raise InputError(
                f"no images to calibrate on{refused}",
                "training images, or a cache of this TensorRT version and calibrator",
                "add --data-dir DIR",
            )
        if len(names) != 1:
            raise InputError(f"a network of the inputs {', '.join(names)}", "one image")
        batch = next(self._batches, None)
        if batch is None:
            self._phases.finish(PHASE)
            return None
        if self._staging is None:
            self._staging = self._memory.pinned(self._shape, np.uint8)
            self._address = self._memory.allocate(self._staging.nbytes)
            self._stream = self._memory.create_stream()
        self._staging[...] = batch
        self._memory.copy_to_device(self._address, self._staging, self._stream)
        self._memory.synchronize(self._stream)  # the next batch is written to the same buffer
        return [self._address]

    def _read_batches(self) -> Iterator[Uint8Array]:
        """Yield uint8 (N, H, W, 3); images that fill no batch are left out."""
        assert self._images is not None
        size = self._shape[0]
        whole = len(self._images) // size * size
        self._phases.start(PHASE, None, whole // size)
        waiting: list[Uint8Array] = []
        for done, item in enumerate(self._first(whole), start=1):
            self._hashes.append(item.sha256)
            waiting.append(item.image)
            if len(waiting) == size:
                self._phases.step(PHASE, done // size)
                yield np.stack(waiting)
                waiting.clear()

    def _first(self, count: int) -> Iterator[CalibrationImage]:
        assert self._images is not None
        return itertools.islice(self._images.hashed(), count)

    def _keep(self, cache: Any) -> None:
        self._found = bytes(cache)  # the memory is TensorRT's, and goes with the build
