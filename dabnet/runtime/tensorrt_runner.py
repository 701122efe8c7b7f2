"""An engine on TensorRT or TensorRT-RTX: uint8 image in, class mask out, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dabnet.errors import ArtifactError, BackendUnavailable, InputError
from dabnet.files import existing_file
from dabnet.runtime.device_memory import DeviceMemory, HostArray, open_device_memory
from dabnet.runtime.engine_layers import describe, layers_of_engine, precision_fault
from dabnet.runtime.manifest import EngineInfo, Manifest, TensorInfo, engine_manifest_path
from dabnet.runtime.runner import RunnerInfo, Uint8Array, check_images
from dabnet.runtime.tensorrt_product import TENSORRT, Product, create, find_product, logger_of


class TensorRTRunner:
    """A Runner (``dabnet.runtime.runner``) of one engine on the first GPU.

    Host memory is pinned; there is one stream and one execution context. Not safe for use from
    several threads at a time.

    Args:
        engine_path: written by dabnet-export, with its manifest beside it.
        memory: the GPU, which ``close`` gives back; None opens the first one.

    Raises:
        InputError: there is no such file.
        ArtifactError: the engine or its manifest does not fit TensorRT or the GPU of this machine;
            the message gives the command that rebuilds it.
        BackendUnavailable: TensorRT, the driver or the GPU is missing.
    """

    def __init__(self, engine_path: Path, memory: DeviceMemory | None = None) -> None:
        self._path = existing_file(engine_path, "an engine written by dabnet-export")
        self._manifest, self._engine_info = read_engine_manifest(self._path)
        _check_tensors(self._manifest, self._path)
        product = find_product(self._engine_info.product)
        self._check_version(product)
        self._memory = memory or open_device_memory()
        self._buffers = _Buffers(self._memory)
        self._staged: list[int] = []
        self._stream = 0
        self._context: Any = None
        self._engine: Any = None
        self._runtime: Any = None
        try:
            self._check_card()
            self._load(product)
            self._stream = self._buffers.stream()
            self._image = self._buffers.pinned(self._manifest.input)
            self._mask = self._buffers.pinned(self._manifest.output)
            self._input = self._buffers.device(self._image.nbytes)
            self._output = self._buffers.device(self._mask.nbytes)
            self._set_address(self._manifest.output.name, self._output)
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> RunnerInfo:
        """What runs; the precision was read back from the engine, at the build or at the load."""
        return self._info

    def infer(self, images: Uint8Array) -> Uint8Array:
        """Host → host. ``images``: uint8, (N, H, W, 3), RGB; returns a new uint8 (N, H, W)."""
        self._image[...] = check_images(images, self._info.shape)
        self._memory.copy_to_device(self._input, self._image, self._stream)
        self._enqueue(self._input)
        self._memory.copy_to_host(self._mask, self._output, self._stream)
        self._memory.synchronize(self._stream)
        return self._mask.astype(np.uint8)  # a copy: the pinned buffer is written by the next call

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        """Copy ``batches`` to the GPU, in place of those that were staged before."""
        if not batches:
            raise InputError("no images to stage", "at least one batch")
        checked = [check_images(batch, self._info.shape) for batch in batches]
        self.synchronize()
        while len(self._staged) < len(checked):
            self._staged.append(self._buffers.device(self._image.nbytes))
        for address, batch in zip(self._staged, checked, strict=False):
            self._image[...] = batch
            self._memory.copy_to_device(address, self._image, self._stream)
            self._memory.synchronize(self._stream)  # the pinned buffer serves the next batch

    def launch(self, index: int) -> None:
        """Start a run on the staged batch ``index``; its mask stays on the GPU."""
        self._enqueue(self._staged[index])

    def synchronize(self) -> None:
        """Block until every launched run has finished."""
        self._memory.synchronize(self._stream)

    def close(self) -> None:
        """Release the engine, then its memory. May be called twice."""
        if self._stream:
            with suppress(BackendUnavailable):  # a run that failed must not keep the memory
                self.synchronize()  # a context must not go while it runs
            self._stream = 0
        self._context = self._engine = self._runtime = None
        self._buffers.close()

    def _check_version(self, product: Product) -> None:
        """An engine runs only on the very version that built it, on both products.

        Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/ and
        https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/, both on the
        page engine-compatibility.html.
        """
        if product.version != self._engine_info.version:
            raise self._mismatch(
                f"built by {product.name} {self._engine_info.version}",
                f"{product.version}, which is installed",
            )

    def _check_card(self) -> None:
        """An engine built on a GPU runs on its compute capability; others are asked of RTX."""
        here = "{}.{}".format(*self._memory.compute_capability)
        built = self._engine_info.compute_capability
        if built and built != here:
            raise self._mismatch(
                f"built for compute capability {built} ({self._engine_info.gpu})",
                f"{here} ({self._memory.name})",
            )

    def _load(self, product: Product) -> None:
        trt = product.module
        notes = []
        plan = self._path.read_bytes()
        with logger_of(product).collect() as messages:
            self._runtime = create(product, "Runtime")
            if hasattr(self._runtime, "get_engine_validity"):
                notes += self._check_validity(trt, plan)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise self._mismatch(f"refused: {messages.first_error()}", "an engine that loads")
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise BackendUnavailable(
                    f"{product.name} gave no execution context ({messages.first_error()})",
                    fix="free memory on the GPU",
                )
        self._check_bindings(trt)
        layers = layers_of_engine(trt, self._engine) or self._engine_info.layers_by_type
        if fault := precision_fault(self._manifest.precision, layers):
            raise self._mismatch(f"not {self._manifest.precision}: {fault}", "what it says it is")
        notes.append(describe(layers))
        n, height, width, channels = self._manifest.input.shape
        self._info = RunnerInfo(
            backend="tensorrt",
            version=product.version if product.name == TENSORRT else f"RTX {product.version}",
            device=self._memory.name,
            precision=self._manifest.precision,
            shape=(n, height, width, channels),
            notes=tuple(notes),
        )

    def _check_validity(self, trt: Any, plan: bytes) -> list[str]:
        """Source: ``Runtime.get_engine_validity`` → (EngineValidity, bits of the diagnostics)."""
        validity, bits = self._runtime.get_engine_validity(plan)
        kinds = trt.EngineInvalidityDiagnostics
        names = [name for name in dir(kinds) if name.isupper()]
        reasons = [name for name in names if int(bits) & int(getattr(kinds, name))]
        text = ", ".join(reasons) or "no reason given"
        if validity == trt.EngineValidity.INVALID:
            raise self._mismatch(f"invalid on this machine: {text}", "one that fits this GPU")
        if validity == trt.EngineValidity.SUBOPTIMAL:
            return [f"suboptimal on this GPU: {text}"]
        return []

    def _check_bindings(self, trt: Any) -> None:
        """The engine's own tensors must be the manifest's: names, shapes, types, directions."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        found = {
            (name, str(self._engine.get_tensor_dtype(name).name).lower(), self._shape(name))
            for name in names
        }
        declared = (self._manifest.input, self._manifest.output)
        wanted = {(tensor.name, tensor.dtype, tensor.shape) for tensor in declared}
        inputs = {n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        if found != wanted or inputs != {self._manifest.input.name}:
            raise self._mismatch(f"of tensors {sorted(found)}", f"{sorted(wanted)}")

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in self._engine.get_tensor_shape(name))

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise BackendUnavailable(f"TensorRT refused the address of {name!r}")

    def _enqueue(self, address: int) -> None:
        self._set_address(self._manifest.input.name, address)
        if not self._context.execute_async_v3(self._stream):
            raise BackendUnavailable(f"TensorRT could not start {str(self._path)!r}")

    def _mismatch(self, given: str, expected: str) -> ArtifactError:
        return ArtifactError(
            f"{str(self._path)!r} is {given}",
            expected,
            f"rebuild it with: {rebuild_command(self._path, self._engine_info)}",
        )


class _Buffers:
    """The stream and the memory of one runner, released together and once."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._release: list[Callable[[], None]] = [memory.close]

    def stream(self) -> int:
        stream = self._memory.create_stream()
        self._release.append(lambda: self._memory.destroy_stream(stream))
        return stream

    def device(self, nbytes: int) -> int:
        address = self._memory.allocate(nbytes)
        self._release.append(lambda: self._memory.free(address))
        return address

    def pinned(self, tensor: TensorInfo) -> HostArray:
        array = self._memory.pinned(tensor.shape, tensor.dtype)
        self._release.append(lambda: self._memory.free_pinned(array))
        return array

    def close(self) -> None:
        while self._release:
            self._release.pop()()


def read_engine_manifest(engine_path: Path) -> tuple[Manifest, EngineInfo]:
    """Return the manifest beside an engine, and what it says about the build."""
    path = engine_manifest_path(engine_path)
    fix = f"build it again with: dabnet-export trt MODEL.onnx --output {engine_path}"
    if not path.is_file():
        raise ArtifactError(f"no manifest at {str(path)!r}", "the one written at the build", fix)
    # Bytes that are no UTF-8 are left for the JSON reader, which names the file.
    manifest = Manifest.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if manifest.engine is None:
        raise ArtifactError(f"{str(path)!r} describes no engine", "that of an engine", fix)
    return manifest, manifest.engine


def rebuild_command(engine_path: Path, engine: EngineInfo) -> str:
    """The command that builds an engine like this one for the machine that it is typed on."""
    command = f"dabnet-export trt MODEL.onnx --output {engine_path}"
    product = engine.product.replace("_", "-")  # as the command spells it
    return command if product == TENSORRT else f"{command} --product {product}"


def _check_tensors(manifest: Manifest, path: Path) -> None:
    if manifest.input.dtype != "uint8" or manifest.output.dtype not in ("uint8", "int32"):
        raise ArtifactError(
            f"{str(path)!r} takes {manifest.input.dtype} and gives {manifest.output.dtype}",
            "uint8 images in and a uint8 or int32 mask out",
            "export the ONNX file with its default input and output, and build it again",
        )
