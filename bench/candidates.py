"""What can be measured, and how each is opened: the only file here that knows backends by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from dabnet.checkpoint import Checkpoint
from dabnet.console import ProgressBar
from dabnet.errors import ArtifactError, BackendUnavailable, InputError
from dabnet.files import sha256_of_file
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.device_memory import gpu_unavailable_reason
from dabnet.runtime.manifest import CalibrationInfo, Manifest
from dabnet.runtime.onnxruntime_runner import OnnxRuntimeRunner
from dabnet.runtime.runner import Runner
from dabnet.runtime.tensorrt_product import find_product
from dabnet.runtime.tensorrt_runner import TensorRTRunner, read_engine_manifest
from dabnet.runtime.torch_runner import TorchRunner
from export.build_spec import BuildSpec
from export.engine import build_engine
from export.export_spec import ExportSpec
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx, manifest_of

REFERENCE = "pytorch-fp32"
CANDIDATES = (
    REFERENCE,
    "onnxruntime-fp32",
    "onnxruntime-fp16",
    "onnxruntime-int8",
    "tensorrt-fp32",
    "tensorrt-fp16",
    "tensorrt-int8",
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A candidate that runs here.

    Attributes:
        runner: is timed.
        artifact: the file that it runs.
        exact: the same file in exact Q/DQ arithmetic, where integer kernels take its place in
            ``runner``: accuracy is then that of the file, and not of this machine's kernels.
        calibration: where its INT8 ranges came from.
    """

    runner: Runner
    artifact: Path
    exact: Runner | None = None
    calibration: CalibrationInfo | None = None

    @property
    def scored(self) -> Runner:
        """Whose masks are the candidate's accuracy."""
        return self.exact or self.runner

    def close(self) -> None:
        """Release what is loaded."""
        for runner in filter(None, (self.runner, self.exact)):
            runner.close()


@dataclass(frozen=True, slots=True)
class Workshop:
    """Opens candidates, exporting what is missing into a cache folder.

    Attributes:
        checkpoint_path, checkpoint: the network that is measured.
        spec: size, batch and calibration of every export; its precision is replaced.
        data_dir: folder of the data set.
        cache: folder of the exported artifacts.
        device: of PyTorch and ONNX Runtime.
        threads: CPU threads of both, so that neither has more than the other.
        progress: shows a bar for each export.
    """

    checkpoint_path: Path
    checkpoint: Checkpoint
    spec: ExportSpec
    data_dir: Path | None
    cache: Path
    device: torch.device
    threads: int
    progress: ProgressBar

    def open(self, name: str) -> Opened:
        """Load a candidate, after its export where the cache does not hold it.

        Raises:
            BackendUnavailable: it cannot run here; the message is the row's reason.
            DabnetError: its export failed.
        """
        backend, precision = name.split("-")
        if backend == "pytorch":
            module = ImageToMask(self.checkpoint.network(), self.checkpoint.preprocessing)
            shape = (self.spec.batch, *self.spec.size, 3)
            runner = TorchRunner(module, shape, self.device, self.threads)
            return Opened(runner, self.checkpoint_path)
        if backend == "onnxruntime":
            if precision == "fp16" and self.device.type == "cpu":
                raise BackendUnavailable("onnxruntime's CPU provider computes FP16 graphs in FP32")
            path = self._onnx(precision, f"ort-{self.device.type}")
            return opened_onnx(path, self.device.type, self.threads)
        if reason := gpu_unavailable_reason():
            raise BackendUnavailable(reason)
        path = self._engine(precision)
        engine = TensorRTRunner(path)
        return Opened(engine, path, calibration=engine.manifest.calibration)

    def _onnx(self, precision: str, target: str, mask_dtype: str = "uint8") -> Path:
        spec = dataclasses.replace(
            self.spec, precision=precision, optimize_for=target, mask_dtype=mask_dtype
        )
        path = self.cache / f"{self._stem(spec)}.onnx"
        if not _usable(path):
            export_onnx(
                self.checkpoint_path,
                path,
                spec,
                dataset=self.checkpoint.dataset,
                data_dir=self.data_dir,
                progress=self.progress,
            )
        return path

    def _engine(self, precision: str) -> Path:
        product = find_product()
        mask_dtype = "int32" if product.is_generation_8 else "uint8"
        onnx_path = self._onnx(precision, "tensorrt", mask_dtype)
        path = onnx_path.with_suffix(f".{product.name}-{product.version}.engine")
        if not _matches(path, onnx_path):
            build_engine(onnx_path, path, BuildSpec(precision))
        return path

    def _stem(self, spec: ExportSpec) -> str:
        """A name that differs wherever the content of the artifact may differ."""
        checkpoint = sha256_of_file(self.checkpoint_path)
        asked = {
            "checkpoint": checkpoint,
            "dataset": self.checkpoint.dataset,
            "data_dir": str(self.data_dir.resolve()) if self.data_dir else "",
            "spec": dataclasses.asdict(spec),
            "tool": Manifest.__dataclass_fields__["tool_version"].default,
        }
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        height, width = spec.size
        return f"{self.checkpoint.model}-{height}x{width}-{spec.precision}-{key[:12]}"


def opened_onnx(path: Path, device: str, threads: int) -> Opened:
    """Load an ONNX artifact; where onnxruntime fuses its int8, a second time without that."""
    runner = OnnxRuntimeRunner(path, device, threads)
    exact = None
    if runner.fuses_int8:
        exact = OnnxRuntimeRunner(path, device, threads, exact_qdq=True)
    return Opened(runner, path, exact, runner.manifest.calibration)


def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``names`` in the order of ``CANDIDATES``; all of them where none is named."""
    for name in names:
        if name not in CANDIDATES:
            raise InputError(f"unknown backend {name!r}", "one of " + ", ".join(CANDIDATES))
    return tuple(name for name in CANDIDATES if name in names) if names else CANDIDATES


def _usable(path: Path) -> bool:
    """Whether the cache holds this artifact, whole; a damaged one is made anew."""
    if not path.exists():
        return False
    try:
        manifest_of(load_onnx(path), str(path))
    except (ArtifactError, InputError):
        return False
    return True


def _matches(engine: Path, onnx_path: Path) -> bool:
    """Whether the cached engine was built from this very ONNX file."""
    if not engine.exists():
        return False
    try:
        manifest, _ = read_engine_manifest(engine)
    except (ArtifactError, InputError):
        return False
    return manifest.onnx_sha256 == sha256_of_file(onnx_path)
