"""An engine on TensorRT or TensorRT-RTX: uint8 image in, class mask out, without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from dabnet.device import Device
from dabnet.errors import BackendUnavailable, InputError
from dabnet.files import existing_file
from dabnet.runtime.cuda import DeviceMemory, HostArray, close_at_exit, open_device_memory
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.runner import LayerTime, Prediction, RunnerInfo, prediction
from dabnet.runtime.trt.check import EngineCheck
from dabnet.runtime.trt.launch import EngineLauncher, EngineSettings
from dabnet.runtime.trt.layers import engine_layer_times
from dabnet.runtime.trt.product import TENSORRT, Product, create, find_product, logger_of


class TensorRTRunner:
    """A Runner (``dabnet.runtime.runner``) of one engine on one GPU.

    Host memory is pinned, and allocated once for the largest input that the engine takes; there is
    one stream. It may be used from any thread, but not from several at a time.

    Args:
        device: ``cuda`` or ``cuda:N``.
        memory: that GPU, which ``close`` gives back; None opens it.
        cuda_graph: run as a CUDA graph (``dabnet.runtime.trt.launch``). TensorRT then has an
            execution context, with its scratch memory, for each staged input.
        runtime_cache: file of the kernels that TensorRT-RTX compiled, read at the load and written
            by ``close``.
        manifest: of an engine that has none beside it. Whoever gives one trusts the engine.
        trust: whether the engine may be another file than its manifest was written for.

    Raises:
        InputError: there is no such file, or an option does not fit the product.
        ArtifactError: the engine or its manifest does not fit TensorRT or the GPU of this machine;
            the message gives the command that rebuilds it.
        BackendUnavailable: TensorRT, the driver or the GPU is missing.
    """

    def __init__(
        self,
        engine_path: str | Path,
        device: str = "cuda",
        *,
        memory: DeviceMemory | None = None,
        cuda_graph: bool = False,
        runtime_cache: str | Path | None = None,
        manifest: Manifest | None = None,
        trust: bool = False,
    ) -> None:
        chosen = Device.parse(device)
        if not chosen.is_gpu:
            fix = "on a CPU run the ONNX file that it was built from"
            raise InputError(f"device {device!r} for the engine {str(engine_path)!r}", "cuda", fix)
        path = existing_file(engine_path, "an engine written by dabnet-export")
        self._check = EngineCheck(path, manifest, trust)
        self.manifest = self._check.manifest
        product = find_product(self._check.info.product)
        self._check.version(product)
        self._module = product.module
        self._settings = EngineSettings(product, cuda_graph, runtime_cache)
        self._memory = memory or open_device_memory(chosen.index)
        self._allocated: list[int] = []  # all addresses on the GPU
        self._addresses: list[int] = []  # of staged inputs; grows only
        self._shapes: list[tuple[int, ...]] = []  # of those that are staged now
        self._engine: Any = None
        self._runtime: Any = None
        self._held = ExitStack()  # what lies on the GPU is released by it, the last first
        self._closing = ExitStack()
        self._closing.callback(self._memory.close)
        self._closing.callback(self._release)
        close_at_exit(self._closing)
        try:
            with self._memory.active():
                self._check.card(self._memory)
                notes = self._load(product)
                self._allocate()
        except BaseException:
            self._closing.close()
            raise
        self._held.callback(self._settings.save)
        self._held.callback(self._quiesce)
        version = product.version if product.name == TENSORRT else f"RTX {product.version}"
        device, precision, shape = self._memory.name, self.manifest.precision, self._check.shape
        ran, head = (device, precision, shape, tuple(notes)), self.manifest.head
        self.info = RunnerInfo("tensorrt", version, *ran, head=head)

    def infer(self, images: HostArray) -> HostArray:
        return self._results(images)[0]

    def infer_with_confidence(self, images: HostArray) -> Prediction:
        return prediction(self._results(images))

    def _results(self, images: HostArray) -> list[HostArray]:
        images = self._check.input(images)
        shape = self.manifest.output_shape(images.shape)
        found = {name: _view(buffer, shape) for name, buffer in self._found.items()}
        with self._memory.active():
            self._upload(self._input, images)
            self._launcher.enqueue(self._input, images.shape)
            for name, result in found.items():
                self._memory.copy_to_host(result, self._outputs[name], self._stream)
            self._memory.synchronize(self._stream)
        # Copies: the pinned buffers are written by the next call.
        return [result.astype(self.manifest.result_dtype) for result in found.values()]

    def stage(self, batches: Sequence[HostArray]) -> None:
        if not batches:
            raise InputError("no images to stage", "at least one batch")
        checked = [self._check.input(batch) for batch in batches]
        with self._memory.active():
            self._memory.synchronize(self._stream)
            while len(self._addresses) < len(checked):
                self._addresses.append(self._device(self._image.nbytes))
            self._shapes = [batch.shape for batch in checked]
            for address, batch in zip(self._addresses, checked, strict=False):
                self._upload(address, batch)
                self._memory.synchronize(self._stream)  # the pinned buffer serves the next batch
                self._launcher.prepare(address, batch.shape)

    def launch(self, index: int) -> None:
        with self._memory.active():
            self._launcher.enqueue(self._addresses[index], self._shapes[index])

    def synchronize(self) -> None:
        with self._memory.active():
            self._memory.synchronize(self._stream)

    def gpu_seconds(self, index: int) -> float:
        with self._memory.active():
            start, end = self._events
            self._memory.record(start, self._stream)
            self._launcher.enqueue(self._addresses[index], self._shapes[index])
            self._memory.record(end, self._stream)
            return self._memory.elapsed_s(start, end)

    def layer_times(self, images: HostArray, calls: int) -> tuple[LayerTime, ...]:
        images = self._check.input(images)
        with self._memory.active():
            self._upload(self._input, images)
            self._memory.synchronize(self._stream)
            run = partial(self._launcher.profile, self._input, images.shape, calls)
            return engine_layer_times(self._module, self._engine, run, calls)

    def __del__(self) -> None:
        with suppress(Exception):  # it was dropped and not closed; nobody can be told
            self.close()

    def close(self) -> None:
        """Save the runtime cache; release contexts, memory and engine. May be called twice."""
        self._closing.close()

    def _load(self, product: Product) -> list[str]:
        trt, notes = product.module, []
        plan = self._check.path.read_bytes()
        self._held.callback(self._drop)
        with logger_of(product).collect() as messages:
            self._runtime = create(product, "Runtime")
            if "version" in self._check.info.compatibility:
                # Such an engine brings its runtime along, as code. An engine is a program anyway:
                # load none from a source that is not trusted.
                self._runtime.engine_host_code_allowed = True
            notes += self._check.validity(trt, self._runtime, plan)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                reason = f"refused: {messages.first_error()}"
                raise self._check.mismatch(reason, "an engine that loads")
        self._check.bindings(trt, self._engine)
        notes.append(self._check.layers(trt, self._engine))
        return notes + self._settings.configure(self._engine)

    def _allocate(self) -> None:
        """The stream, the memory for the largest input, and what runs the engine on them."""
        memory, held, manifest = self._memory, self._held, self.manifest
        self._stream = memory.create_stream()
        held.callback(memory.destroy_stream, self._stream)
        self._events = memory.create_event(), memory.create_event()
        for event in self._events:
            held.callback(memory.destroy_event, event)
        largest = self._check.largest_shape
        self._image = self._pinned(largest, manifest.input.dtype)
        shape = manifest.output_shape(largest)
        self._found = {one.name: self._pinned(shape, one.dtype) for one in manifest.outputs}
        held.callback(self._free_addresses)  # behind graphs and contexts, which hold them
        self._input = self._device(self._image.nbytes)
        self._outputs = {name: self._device(array.nbytes) for name, array in self._found.items()}
        self._launcher = EngineLauncher(
            self._engine, self._settings, manifest, memory, self._stream, self._outputs
        )
        held.callback(self._launcher.close)
        self._launcher.prepare(self._input, self._check.best_shape)

    def _pinned(self, shape: tuple[int, ...], dtype: str) -> HostArray:
        array = self._memory.pinned(shape, dtype)
        self._held.callback(self._memory.free_pinned, array)
        return array

    def _device(self, nbytes: int) -> int:
        address = self._memory.allocate(nbytes)
        self._allocated.append(address)
        return address

    def _free_addresses(self) -> None:
        while self._allocated:
            self._memory.free(self._allocated.pop())

    def _upload(self, address: int, images: HostArray) -> None:
        image = _view(self._image, images.shape)
        image[...] = images
        self._memory.copy_to_device(address, image, self._stream)

    def _quiesce(self) -> None:
        """Wait: a context must not go while it runs, and a failed run must not keep the memory."""
        with suppress(BackendUnavailable):
            self._memory.synchronize(self._stream)

    def _release(self) -> None:
        with self._memory.active():
            self._held.close()

    def _drop(self) -> None:
        self._settings.close()
        self._engine = self._runtime = None


def _view(buffer: HostArray, shape: tuple[int, ...]) -> HostArray:
    view: HostArray = buffer.reshape(-1)[: math.prod(shape)].reshape(shape)
    return view
