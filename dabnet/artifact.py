"""Artifacts: what a file is, what it says of itself, and what runs it.

An application needs three lines, numpy, and onnxruntime or TensorRT::

    from dabnet.artifact import open_artifact
    runner = open_artifact("model.onnx")  # or model.engine
    masks = runner.infer(images)  # uint8 (N, H, W, 3) RGB → uint8 (N, H, W)

One of the head ``mask+confidence`` also gives 255 times the probability of each pixel's class::

    masks, confidences = runner.infer_with_confidence(images)  # both uint8 (N, H, W)

An ONNX file of another tool, or an engine that ``trtexec`` built, is described first::

    runner = open_artifact("net.onnx", description=describe(dataset="cityscapes"))
    masks = predict(runner, images)  # also if it takes floats and gives logits
    masks, confidences = predict_with_confidence(runner, images)  # from logits, too
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from dabnet.device import Device
from dabnet.errors import ArtifactError, BackendUnavailable, InputError, MissingPackage
from dabnet.file_kind import CHECKPOINT, ENGINE, ONNX, UNKNOWN, kind_of, refuse_other
from dabnet.given import Given
from dabnet.head import LOGITS, MASK, confidence_of
from dabnet.preprocessing import Triple
from dabnet.runtime import manifest as manifests
from dabnet.runtime.description import (
    CLASSES,
    TRUST,
    Description,
    lowest_precision,
    undescribed,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from dabnet.runtime.cuda import HostArray
    from dabnet.runtime.ort.runner import OnnxRuntimeRunner
    from dabnet.runtime.runner import Prediction
    from dabnet.runtime.torch_runner import TorchRunner
    from dabnet.runtime.trt.runner import TensorRTRunner

__all__ = [
    "CHECKPOINT",
    "DEFAULT_SIZE",
    "ENGINE",
    "ONNX",
    "Artifact",
    "Description",
    "as_input",
    "describe",
    "mask_of",
    "open_artifact",
    "open_checkpoint",
    "predict",
    "predict_with_confidence",
]

DEFAULT_SIZE = (512, 1024)  # (height, width) for a checkpoint, which takes any


class RunOptions(TypedDict, total=False):
    """How an artifact is run: see ``OnnxRuntimeRunner`` and ``TensorRTRunner``."""

    threads: int | None
    cuda_graph: bool
    allow_cpu_nodes: bool
    exact_qdq: bool
    runtime_cache: str | Path | None


_OPTIONS = {
    ONNX: ("threads", "cuda_graph", "allow_cpu_nodes", "exact_qdq"),
    ENGINE: ("cuda_graph", "runtime_cache"),
}


def open_artifact(
    path: str | Path,
    device: str | None = None,
    *,
    description: Description | None = None,
    trust: bool = False,
    **options: Unpack[RunOptions],
) -> OnnxRuntimeRunner | TensorRTRunner:
    """Load an artifact: ``.onnx`` on onnxruntime, an engine with its manifest on TensorRT.

    ``device`` is ``cpu``, ``cuda`` or ``cuda:N``; None is ``cpu`` for ONNX and ``cuda`` for an
    engine. ``description`` (``describe``) speaks for a file that carries no manifest, or that was
    changed since. An engine is a program: ``trust`` loads one also where no manifest beside it has
    its hash.

    Raises:
        InputError: there is no such file, it is of another kind, or an option does not fit it.
        ArtifactError: it is damaged or was changed, or does not fit this machine or its
            description.
        BackendUnavailable: the backend cannot run here.
    """
    return Artifact.open(path, description, device, trust).runner(**options)


def describe(
    *,
    dataset: str | None = None,
    classes: str | Path | None = None,
    size: tuple[int, int] | None = None,
    mean: Triple | None = None,
    scale: Triple | None = None,
) -> Description:
    """Describe a file that carries no manifest.

    Args:
        dataset: a registered data set, for its classes and their colours, and for the preprocessing
            of the checkpoints that were published for it.
        classes: a file of other classes (``dabnet.data.labels.read_labels``).
        size: (height, width) in pixels of the example, if each call chooses its own.
        mean: RGB, 0…255: with ``scale`` (by default 1) the preprocessing of float images,
            ``(image - mean) * scale``.

    Raises:
        InputError: the data set is unknown, the file cannot be read, or two of them exclude each
            other.
    """
    from dabnet.data.labels import NO_LABELS
    from dabnet.models import NETWORKS

    given = Given(dataset, classes=Path(classes) if classes else None, mean=mean, scale=scale)
    labels = given.labels() or NO_LABELS
    # Of a file that names no network: DABNet's, which every other network's would contradict.
    published = NETWORKS["dabnet"].published.get(given.labels_from)
    return Description(
        labels.classes,
        labels.palette,
        size,
        given.preprocessing() or published,
        dataset=given.labels_from or UNKNOWN,
        ignore=labels.ignore,
        takes_floats=bool(mean),
    )


def as_input(manifest: manifests.Manifest, images: HostArray) -> HostArray:
    """Images uint8 (N, H, W, 3), RGB, as an artifact takes them.

    That is themselves, or preprocessed float32 (N, 3, H, W).
    """
    import numpy as np

    if manifest.input.dtype == "uint8":
        return images
    preprocessing = manifest.preprocessing
    mean, scale = np.array([preprocessing.mean_rgb, preprocessing.scale], np.float32)
    return np.ascontiguousarray(((images - mean) * scale).transpose(0, 3, 1, 2))


def predict(runner: OnnxRuntimeRunner | TensorRTRunner, images: HostArray) -> HostArray:
    """Run images uint8 (N, H, W, 3), RGB → masks uint8 (N, H, W), whatever its tensors are.

    Raises:
        ArtifactError: a pixel is of a class that the artifact does not name.
    """
    manifest = runner.manifest
    found = runner.infer(as_input(manifest, images))
    return mask_of(found, len(manifest.classes), "the artifact")


def predict_with_confidence(
    runner: OnnxRuntimeRunner | TensorRTRunner, images: HostArray
) -> Prediction:
    """Run images uint8 (N, H, W, 3), RGB → masks and confidences uint8 (N, H, W).

    Of an artifact that gives logits both are computed from these, in numpy.

    Raises:
        InputError: the artifact gives masks alone.
        ArtifactError: a pixel is of a class that the artifact does not name.
    """
    from dabnet.runtime.runner import Prediction

    manifest, given = runner.manifest, as_input(runner.manifest, images)
    if manifest.head == LOGITS:
        found = runner.infer(given)
        confidence = confidence_of(found)
    else:
        found, confidence = runner.infer_with_confidence(given)
    return Prediction(mask_of(found, len(manifest.classes), "the artifact"), confidence)


def mask_of(found: HostArray, classes: int, source: str) -> HostArray:
    """A result, masks (N, H, W) or logits (N, K, H, W), as masks uint8 (N, H, W).

    Raises:
        ArtifactError: a pixel is of none of ``classes``; ``source`` names the file in it.
    """
    import numpy as np

    mask = found.argmax(axis=1) if found.ndim == 4 else found
    for predicted in (int(mask.min(initial=0)), int(mask.max(initial=0))):
        if not 0 <= predicted < classes:
            known = f"0 to {classes - 1}, the classes that it names"
            raise ArtifactError(f"{source} predicts class {predicted}", known, "export it again")
    return mask.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Artifact:
    """A file; ``kind`` is known by its suffix, its first bytes, or the manifest beside it.

    ``description`` speaks for a file that carries no manifest. ``device`` is where it runs, and
    where such an engine is looked at. ``trust`` loads an engine also without a manifest that has
    its hash.
    """

    path: Path
    kind: str
    description: Description | None = None
    device: str | None = None
    trust: bool = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        description: Description | None = None,
        device: str | None = None,
        trust: bool = False,
    ) -> Artifact:
        """Tell what ``path`` is; InputError if it is a file of another kind, empty or missing."""
        path = Path(path)
        expected = "a checkpoint, an ONNX file or an engine"
        refuse_other(path, CHECKPOINT, ONNX, ENGINE, expected=expected)
        kind = kind_of(path)
        return cls(path, CHECKPOINT if kind == UNKNOWN else kind, description, device, trust)

    @cached_property
    def manifest(self) -> manifests.Manifest | None:
        """Of an ONNX file or an engine, None of a checkpoint.

        Raises:
            ArtifactError: the one that it carries is damaged, or it carries none and the
                description does not fit. NoManifest asks for what the description lacks, and
                ChangedSince for a description of a graph that was changed.
            BackendUnavailable: an engine that carries none cannot be loaded here.
        """
        if self.kind == CHECKPOINT:
            return None
        return self._engine_manifest() if self.kind == ENGINE else self._onnx_manifest()

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read of it: the file, and the manifest beside an engine."""
        beside = manifests.engine_manifest_path(self.path)
        return (self.path, *([beside] if self.kind == ENGINE and beside.exists() else ()))

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of its example, in pixels; None of a checkpoint, which takes any."""
        return self.manifest.size if self.manifest else None

    def runner(self, **options: Unpack[RunOptions]) -> OnnxRuntimeRunner | TensorRTRunner:
        """Load it, as ``open_artifact`` does; PyTorch runs a checkpoint by ``open_checkpoint``."""
        name = repr(str(self.path))
        if self.kind == CHECKPOINT:
            given = f"{name} is neither an ONNX file nor an engine with its manifest"
            fix = f"export a checkpoint with: dabnet-export onnx {self.path}"
            raise InputError(given, "an artifact written by dabnet-export", fix)
        asked: dict[str, Any] = {option: value for option, value in options.items() if value}
        if foreign := [option for option in asked if option not in _OPTIONS[self.kind]]:
            raise InputError(f"{foreign[0]} for {name}", ", ".join(_OPTIONS[self.kind]))
        if self.description is not None:
            asked["manifest"] = self.manifest
        try:
            if self.kind == ONNX:
                from dabnet.runtime.ort.runner import OnnxRuntimeRunner

                return OnnxRuntimeRunner(self.path, self.device or "cpu", **asked)
            from dabnet.runtime.trt.runner import TensorRTRunner

            return TensorRTRunner(self.path, self.device or "cuda", trust=self.trust, **asked)
        except manifests.NoManifest:
            with suppress(MissingPackage):
                self.manifest  # noqa: B018 (asks for what must be said of this file)
            raise

    def _engine_manifest(self) -> manifests.Manifest:
        if manifests.engine_manifest_path(self.path).is_file():
            return manifests.read_engine_manifest(self.path, self.trust)[0]
        beside = str(manifests.engine_manifest_path(self.path))
        if self.description is None:
            raise undescribed(f"no manifest at {beside!r}", [CLASSES, TRUST])
        manifests.refuse_untrusted(self.path, self.trust)
        from dabnet.runtime.trt.foreign import described_engine

        return described_engine(self.path, self.description, self.device or "cuda")

    def _onnx_manifest(self) -> manifests.Manifest:
        from dabnet.runtime.onnx_check import check_onnx_file

        file = check_onnx_file(self.path)
        try:
            return file.manifest()
        except manifests.NoManifest as missing:
            try:
                return self._described_onnx()
            except manifests.NoManifest as asking:
                changed = isinstance(missing, manifests.ChangedSince)
                raise (missing if changed else asking) from None

    def _described_onnx(self) -> manifests.Manifest:
        try:
            import onnx
            import onnx_ir as ir
        except ImportError as error:
            fix = "install it with: pip install onnx onnx-ir"
            raise MissingPackage(error.name or "onnx", fix=fix) from error
        from dabnet.graph.facts import inferred, layers_of

        source = repr(str(self.path))
        try:
            model = inferred(ir.from_proto(onnx.load(self.path, load_external_data=False)))
        except Exception as error:  # of either library, which raise many kinds
            given = f"{source} cannot be read as ONNX"
            raise ArtifactError(given, "a file written by dabnet-export") from error
        return (self.description or Description()).manifest(
            source,
            [_tensor(value) for value in model.graph.inputs if not value.is_initializer()],
            [_tensor(value) for value in model.graph.outputs],
            lowest_precision(layer.precision for layer in layers_of(model.graph).values()),
            opset=model.opset_imports.get("", 0),
        )


def _tensor(value: Any) -> manifests.TensorInfo:
    """``onnx_ir.Value`` → the tensor; sides that are not a number are open."""
    sides = (side if isinstance(side, int) else manifests.DYNAMIC for side in value.shape or ())
    dtype = value.dtype.numpy().name if value.dtype else UNKNOWN
    return manifests.TensorInfo(str(value.name), dtype, tuple(sides))


def open_checkpoint(
    checkpoint: Path,
    given: Given | None,
    shape: tuple[int, int, int, int],
    device: str = "cpu",
    threads: int | None = None,
    mode: str = "eager",
    head: str = MASK,
) -> TorchRunner:
    """Load a checkpoint for PyTorch, as ``TorchRunner`` explains; DabnetError if that fails.

    ``given`` is what the checkpoint of another trainer does not say; ``head`` is ``mask`` or
    ``mask+confidence``.
    """
    import torch

    from dabnet.checkpoint import load_checkpoint
    from dabnet.models.image_to_mask import ImageToMask
    from dabnet.runtime.torch_runner import TorchRunner

    if Device.parse(device).is_gpu and not torch.cuda.is_available():
        raise BackendUnavailable("PyTorch sees no NVIDIA GPU", fix="check nvidia-smi")
    loaded = load_checkpoint(checkpoint, given)
    module = ImageToMask(loaded.network(), loaded.preprocessing, head=head)
    return TorchRunner(module, shape, torch.device(device), threads, mode)
