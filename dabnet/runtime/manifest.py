"""The manifest: what an artifact is, carried inside the ONNX file or beside the engine.

In an ONNX file it is one JSON text under the key ``dabnet_manifest`` of ``metadata_props``; beside
``model.engine`` it is ``model.engine.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dabnet import __version__
from dabnet.errors import ArtifactError
from dabnet.preprocessing import Preprocessing
from dabnet.records import Codec

Colour = tuple[int, int, int]
Shape = tuple[int, ...]
Profile = tuple[Shape, Shape, Shape] | tuple[()]

ONNX_KEY = "dabnet_manifest"
FORMAT = 3

DYNAMIC = -1  # a side that each call chooses, as TensorRT writes it


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, numpy dtype name and shape of a graph's input or output; sides may be ``DYNAMIC``."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def sides(self) -> tuple[int, int, int]:
        """(N, H, W) of an input: uint8 is (N, H, W, 3), float is (N, 3, H, W)."""
        batch, *sides = self.shape
        height, width = sides[:2] if self.dtype == "uint8" else sides[1:]
        return batch, height, width


@dataclass(frozen=True, slots=True)
class CalibrationInfo:
    """Where the INT8 ranges came from: always a training split, never the one that is scored.

    Attributes:
        method: how ranges were chosen (``calibration.ranges``), ``trained`` for those of
            quantisation-aware training, ``tensorrt-…`` for a calibrator of TensorRT.
        dataset, split: which images were seen; ``unknown`` for a cache without its origin.
        images: how many.
        image_sha256: ``dabnet.data.image_files`` of each.
        placement: what is rounded to int8 (``calibration.placements``); "" where TensorRT chose.
        float_layers: convolutions that were left in float to keep accuracy.
    """

    method: str
    dataset: str
    split: str
    images: int
    image_sha256: tuple[str, ...] = ()
    placement: str = ""
    float_layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far an artifact's masks equal PyTorch FP32's on the same images.

    Attributes:
        images: where the images came from, and how many, in words.
        mean: share of equal pixels over all images, 0…1.
        worst: the share on the worst image, 0…1.
    """

    images: str
    mean: float
    worst: float


@dataclass(frozen=True, slots=True)
class PassInfo:
    """One graph pass that was applied to an ONNX file.

    Attributes:
        name: of its module in ``export.passes``.
        changed: how many places it changed.
        note: what else the reader must know, such as its stated error; "" for an exact pass.
    """

    name: str
    changed: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What built an engine and where it may run.

    Attributes:
        product: ``tensorrt`` or ``tensorrt_rtx``.
        version: its version, such as ``10.16.1.11``.
        target: ``sm86`` and the like for an ahead-of-time build, ``this-gpu`` otherwise.
        gpu, compute_capability, driver: of the card that built it; empty for ahead-of-time.
        layers_by_type: engine layers by the type they compute in, read back from the built engine.
        profile: smallest, best and largest input shape of an engine with dynamic sides; else ().
        compatibility: where else than on its own GPU model and version the engine may run:
            ``hardware`` (Ampere and later GPUs), ``same-compute-capability``, ``version`` (later
            versions).
    """

    product: str
    version: str
    target: str
    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""
    layers_by_type: dict[str, int] = field(default_factory=dict)
    profile: Profile = ()
    compatibility: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a runtime, a person or a later build must know about an artifact.

    Attributes (those whose name does not say it):
        example: (batch, height, width) it was exported and checked at; a call chooses others
            where the input is ``DYNAMIC``.
        stride: height and width of a ``DYNAMIC`` input are multiples of it.
        logits: name of the graph's tensor of logits before the upsample, float (N, K, H/8, W/8).
        optimized_for: the target whose graph passes were applied (``export.passes.targets``).
    """

    model: str
    dataset: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore: int
    preprocessing: Preprocessing
    input: TensorInfo
    output: TensorInfo
    precision: str
    example: tuple[int, int, int]
    checkpoint_sha256: str
    stride: int = 8
    logits: str = ""
    optimized_for: str = "portable"
    passes: tuple[PassInfo, ...] = ()
    opset: int = 0
    channel_order: str = "RGB"
    onnx_sha256: str = ""
    calibration: CalibrationInfo | None = None
    agreement: Agreement | None = None
    engine: EngineInfo | None = None
    tool_version: str = __version__
    libraries: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, of the example where each call chooses."""
        return self.example[1], self.example[2]

    @property
    def is_dynamic(self) -> bool:
        """Whether a call chooses the batch or the size."""
        return DYNAMIC in self.input.shape

    def to_json(self) -> str:
        """Return the manifest as JSON."""
        return MANIFEST.dump(self)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Read what ``to_json`` wrote, or raise ArtifactError, in which ``source`` is the file."""
        return MANIFEST.parse(text, source)


MANIFEST = Codec(
    Manifest,
    "manifest",
    "dabnet-export",
    "export the artifact again with this version of dabnet-export",
    version=("format", FORMAT),
    error=ArtifactError,
    one_line_each=("passes", "palette"),
)


def carried_manifest(properties: Mapping[str, str], source: str) -> Manifest:
    """Return the manifest among an ONNX file's ``metadata_props``, or raise ArtifactError."""
    if ONNX_KEY not in properties:
        raise ArtifactError(
            f"{source} carries no manifest",
            "an ONNX file written by dabnet-export",
            "export the checkpoint with: dabnet-export onnx CHECKPOINT",
        )
    return Manifest.from_json(properties[ONNX_KEY], source)


def engine_manifest_path(engine: Path) -> Path:
    """``model.engine`` → ``model.engine.json``."""
    return engine.with_name(engine.name + ".json")


def read_engine_manifest(engine: Path) -> tuple[Manifest, EngineInfo]:
    """Return the manifest beside an engine and its part on the build, or raise ArtifactError."""
    path = engine_manifest_path(engine)
    fix = f"build it again with: dabnet-export trt MODEL.onnx --output {engine}"
    if not path.is_file():
        raise ArtifactError(f"no manifest at {str(path)!r}", "the one written at the build", fix)
    manifest = MANIFEST.read(path)
    if manifest.engine is None:
        raise ArtifactError(f"{str(path)!r} describes no engine", "that of an engine", fix)
    return manifest, manifest.engine


def require_tensors(
    manifest: Manifest,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    source: str,
    fix: str = "the file was changed after its export; export it again",
) -> None:
    """Raise ArtifactError unless what was loaded has the tensors that its manifest declares."""
    found, declared = (*inputs, *outputs), (manifest.input, manifest.output)
    if found != declared or len(inputs) != 1:
        raise ArtifactError(
            f"{source} has the tensors {_listed(found)}",
            f"{_listed(declared)}, as its manifest says",
            fix,
        )


def _listed(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in tensors)
