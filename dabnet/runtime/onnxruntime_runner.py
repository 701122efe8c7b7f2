"""ONNX Runtime as a backend. Needs numpy and onnxruntime, not torch."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dabnet.errors import ArtifactError, BackendUnavailable, MissingPackage
from dabnet.files import existing_file
from dabnet.runtime.manifest import ONNX_KEY, Manifest
from dabnet.runtime.runner import RunnerInfo, Uint8Array, check_images

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeRunner:
    """Runs an ONNX artifact on one execution provider.

    Args:
        path: the ONNX file.
        device: ``cpu`` or ``cuda``. Where CUDA is asked for and cannot be used, the runner
            raises ``BackendUnavailable``: onnxruntime by itself would fall back to the CPU.
        threads: CPU threads inside an operator; None leaves onnxruntime's choice.
    """

    def __init__(self, path: str | Path, device: str = "cpu", threads: int | None = None) -> None:
        ort = _import()
        path = existing_file(path, "an ONNX file")
        provider = PROVIDERS[device]
        if provider not in ort.get_available_providers():
            raise BackendUnavailable(
                f"onnxruntime {ort.__version__} is built without {provider}",
                fix="install onnxruntime-gpu: pip install -c constraints/gpu.txt '.[gpu]'",
            )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if device == "cuda" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA libraries of PyTorch's wheels
        try:
            # TF32 is this provider's default: FP32 must mean FP32.
            placed = (provider, {"use_tf32": "0"} if device == "cuda" else {})
            self._session = ort.InferenceSession(str(path), options, providers=[placed])
        except Exception as error:  # onnxruntime raises classes of its own for each status
            raise ArtifactError(
                f"onnxruntime cannot load {str(path)!r} ({_first_line(error)})",
                "an ONNX file written by dabnet-export",
            ) from error
        if provider not in self._session.get_providers():
            raise BackendUnavailable(
                f"onnxruntime could not start {provider} and would have run on the CPU",
                fix="check the NVIDIA driver and the CUDA libraries that onnxruntime-gpu asks for",
            )
        self.manifest = _manifest(self._session, path)
        self._ort, self._device = ort, device
        self._bindings: list[Any] = []
        self._staged: list[Any] = []
        name = f"cpu ({threads or 'default'} threads, {platform.machine()})"
        shape = self.manifest.input.shape
        self._info = RunnerInfo(
            backend="onnxruntime",
            version=ort.__version__,
            device=name if device == "cpu" else _cuda_name(),
            precision=self.manifest.precision,
            shape=(shape[0], shape[1], shape[2], shape[3]),
            notes=(provider,),
        )

    @property
    def info(self) -> RunnerInfo:
        return self._info

    def infer(self, images: Uint8Array) -> Uint8Array:
        images = check_images(images, self._info.shape)
        (masks,) = self._session.run(None, {self.manifest.input.name: images})
        return np.asarray(masks, np.uint8)

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        self._bindings, self._staged = [], []
        for images in batches:
            # A copy: on the CPU an OrtValue is only a view of the array, which is the caller's.
            images = check_images(images, self._info.shape).copy()
            binding = self._session.io_binding()
            value = self._ort.OrtValue.ortvalue_from_numpy(images, self._device, 0)
            binding.bind_ortvalue_input(self.manifest.input.name, value)
            binding.bind_output(self.manifest.output.name, self._device, 0)
            self._bindings.append(binding)
            self._staged.append(value)  # not every release of onnxruntime keeps it alive

    def launch(self, index: int) -> None:
        self._session.run_with_iobinding(self._bindings[index])

    def synchronize(self) -> None:
        for binding in self._bindings:
            binding.synchronize_outputs()

    def close(self) -> None:
        self._bindings, self._staged = [], []
        del self._session


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "cpu") from error
    return onnxruntime


def _manifest(session: Any, path: Path) -> Manifest:
    text = session.get_modelmeta().custom_metadata_map.get(ONNX_KEY)
    if text is None:
        raise ArtifactError(
            f"{str(path)!r} carries no manifest",
            "an ONNX file written by dabnet-export",
            "export it with: dabnet-export onnx CHECKPOINT",
        )
    manifest = Manifest.from_json(text, str(path))
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if (len(inputs), len(outputs)) != (1, 1):
        raise ArtifactError(
            f"{str(path)!r} has {len(inputs)} inputs and {len(outputs)} outputs",
            "1 input and 1 output",
            "export it again",
        )
    for declared, real in ((manifest.input, inputs[0]), (manifest.output, outputs[0])):
        wanted = (declared.name, f"tensor({declared.dtype})")
        if (*wanted, list(declared.shape)) != (real.name, real.type, list(real.shape)):
            raise ArtifactError(
                f"{str(path)!r} has the tensor {real.name} {real.type} {real.shape}",
                f"{' '.join(wanted)} {list(declared.shape)}, as its manifest says",
                "the file was changed after its export; export it again",
            )
    return manifest


def _cuda_name() -> str:
    from dabnet.runtime.device_memory import open_device_memory

    memory = open_device_memory()
    try:
        return memory.name
    finally:
        memory.close()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
