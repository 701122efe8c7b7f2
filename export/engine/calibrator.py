"""INT8 ranges chosen by TensorRT itself, from images, for TensorRT 8 and 10.

API: ``IInt8EntropyCalibrator2`` and ``IInt8MinMaxCalibrator``. The bindings print an exception of a
callback and go on as if the images had ended (NVIDIA/TensorRT, python/src/infer/pyInt8.cpp), so
that a broken calibration would pass for one over fewer images: errors are kept, and raised after.

A calibrator's batches are float32, also where the network takes uint8: that is what TensorRT reads
(NVIDIA/TensorRT, samples/common/sampleInference or sampleEngines.cpp, ``RndInt8Calibrator``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from dabnet.data.dataset import Uint8Array
from dabnet.errors import InputError
from dabnet.runtime.cuda import DeviceMemory, HostArray
from dabnet.runtime.manifest import CalibrationInfo
from export.engine.caches import CalibrationCache
from export.engine.progress import KeptErrors, Phases
from export.engine.spec import Job

CALIBRATOR_CLASSES = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
PHASE = "Calibrating"


class Calibrator:
    """One calibration: batches to the GPU, ranges from and to the cache.

    ``close`` gives back what was allocated in ``memory``, not the GPU. An error of a callback is
    kept in ``errors``, for the caller to raise.
    """

    def __init__(self, job: Job, memory: DeviceMemory, phases: Phases, errors: KeptErrors) -> None:
        self._job, self._memory, self._phases, self._errors = job, memory, phases, errors
        self._shape = job.profile[1] if job.profile else job.manifest.input.shape  # (N, H, W, 3)
        _, height, width, _ = self._shape
        self._images = job.images((height, width)) if job.images else None
        if self._images is not None and len(self._images) < self._shape[0]:
            given = f"{self._images.description} for batches of {self._shape[0]}"
            fix = "raise --calibration-images, or export with a smaller batch"
            raise InputError(given, "at least one batch of calibration images", fix)
        path = job.spec.calibration_cache
        self._cache = CalibrationCache(path, job.graph_sha256) if path else None
        self._stored = self._cache.read() if self._cache else None
        self._batches = self._read_batches()
        self._hashes: list[str] = []
        self._found: bytes | None = None
        self._staging: HostArray | None = None
        self._address = self._stream = 0
        self._held = ExitStack()

    def handle(self, module: Any) -> Any:
        """Return the object that ``IBuilderConfig.int8_calibrator`` takes."""
        keep = self._errors.run
        members = {
            "get_batch_size": lambda _: self._shape[0],
            "get_batch": lambda _, names: keep(lambda: self._next_batch(names)),
            "read_calibration_cache": lambda _: self._stored[0] if self._stored else None,
            "write_calibration_cache": lambda _, cache: keep(lambda: self._keep(cache)),
        }
        base = getattr(module, CALIBRATOR_CLASSES[str(self._job.spec.calibrator)])
        # The base class is known only at run time, so ``class`` cannot be used under mypy strict.
        return type("ImageCalibrator", (base,), members)()

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
        method, dataset = f"tensorrt-{self._job.spec.calibrator}", self._job.manifest.dataset
        return CalibrationInfo(method, dataset, split, len(self._hashes), tuple(self._hashes))

    def close(self) -> None:
        self._held.close()

    def _next_batch(self, names: list[str]) -> list[int] | None:
        if self._images is None:
            refused = ", and TensorRT did not take the calibration cache" if self._stored else ""
            expected = "training images, or a cache of this TensorRT version and calibrator"
            raise InputError(f"no images to calibrate on{refused}", expected, "add --data-dir DIR")
        if len(names) != 1:
            raise InputError(f"a network of the inputs {', '.join(names)}", "one image")
        batch = next(self._batches, None)
        if batch is None:
            self._phases.finish(PHASE)
            return None
        if self._staging is None:
            self._staging = self._memory.pinned(self._shape, np.float32)
            self._held.callback(self._memory.free_pinned, self._staging)
            self._address = self._memory.allocate(self._staging.nbytes)
            self._held.callback(self._memory.free, self._address)
            self._stream = self._memory.create_stream()
            self._held.callback(self._memory.destroy_stream, self._stream)
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
        for item in itertools.islice(self._images, whole):
            self._hashes.append(item.sha256)
            waiting.append(item.image)
            if len(waiting) == size:
                self._phases.step(PHASE, len(self._hashes) // size)
                yield np.stack(waiting)
                waiting.clear()

    def _keep(self, cache: Any) -> None:
        self._found = bytes(cache)  # the memory is TensorRT's, and goes with the build
