"""The manifest: what an artifact is, carried inside the ONNX file or beside the engine.

In an ONNX file it is one JSON text under the key ``dabnet_manifest`` of ``metadata_props``; beside
``model.engine`` it is ``model.engine.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dabnet import __version__
from dabnet.errors import ArtifactError
from dabnet.preprocessing import Preprocessing
from dabnet.records import Codec
from dabnet.runtime.plan import Plan

Colour = tuple[int, int, int]
Shape = tuple[int, ...]
Profile = tuple[Shape, Shape, Shape] | tuple[()]

ONNX_KEY = "dabnet_manifest"
FORMAT = 3

DYNAMIC = -1  # a side that each call chooses, as TensorRT writes it

_GIVEN = (("uint8", 4), ("float32", 4))  # dtype and number of sides of the inputs that are served
_RESULTS = (("uint8", 3), ("int32", 3), ("int64", 3), ("float32", 4))


class NoManifest(ArtifactError):
    """An ONNX file or an engine of another tool: nothing says what its classes are."""


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
    """Where the INT8 ranges came from: always a training split, never the one that is scored."""

    # How ranges were chosen (``calibration.ranges``), ``trained`` for those of quantisation-aware
    # training, ``tensorrt-…`` for a calibrator of TensorRT.
    method: str
    dataset: str  # it and the split are ``unknown`` for a cache without its origin
    split: str
    images: int  # how many were seen
    image_sha256: tuple[str, ...] = ()  # ``dabnet.data.image_files`` of each
    placement: str = ""  # what is int8 (``calibration.placements``); "" where TensorRT chose
    float_layers: tuple[str, ...] = ()  # convolutions left in float to keep accuracy


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far an artifact's masks equal PyTorch FP32's on the same images."""

    images: str  # where they came from, and how many, in words
    mean: float  # share of equal pixels over all images, 0…1
    worst: float  # the share on the worst image, 0…1
    # On the labels of the same images, 0…1, at the size of the artifact; None where they have none
    # of these classes.
    checkpoint_miou: float | None = None
    artifact_miou: float | None = None


@dataclass(frozen=True, slots=True)
class PassInfo:
    """One graph pass that was applied to an ONNX file."""

    name: str  # of its function in ``export.passes``
    changed: int  # how many places
    note: str = ""  # what else the reader must know, such as its error; "" for an exact pass


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What built an engine and where it may run."""

    product: str  # ``tensorrt`` or ``tensorrt_rtx``
    version: str  # such as ``10.16.1.11``
    target: str  # ``sm86`` and the like for an ahead-of-time build, ``this-gpu`` otherwise
    gpu: str = ""  # the card that built it, like the next two; empty for ahead-of-time
    compute_capability: str = ""
    driver: str = ""
    # By the type they compute in, read back from the built engine.
    layers_by_type: dict[str, int] = field(default_factory=dict)
    # Convolutions of the ONNX graph by the precision in which they were to compute.
    asked: dict[str, int] = field(default_factory=dict)
    # Of one call, as TensorRT listed it when it was built: what all kernels read and write, and the
    # kernels themselves. 0 and () of an older build; sizes that a call chooses are not counted.
    activation_bytes: int = 0
    constant_bytes: int = 0
    plan: Plan = ()
    profile: Profile = ()  # smallest, best, largest input shape of an engine with dynamic sides
    # Where else than on its own GPU model and version it may run: ``hardware`` (Ampere and later
    # GPUs), ``same-compute-capability``, ``version`` (later versions).
    compatibility: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a runtime, a person or a later build must know about an artifact."""

    model: str
    dataset: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore: int
    preprocessing: Preprocessing
    input: TensorInfo
    output: TensorInfo
    precision: str
    example: tuple[int, int, int]  # (batch, height, width) it was exported and checked at
    checkpoint_sha256: str  # "" if it was described by its user (``dabnet.runtime.description``)
    stride: int = 8  # of the network: height and width of a ``DYNAMIC`` input are multiples of it
    logits: str = ""  # name of the tensor of logits before the upsample, float (N, K, H/8, W/8)
    optimized_for: str = "portable"  # whose graph passes were applied (``export.passes.targets``)
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
    def is_described(self) -> bool:
        """Whether a user said what it is: no checkpoint is known, and nothing was compared."""
        return not self.checkpoint_sha256

    @property
    def is_dynamic(self) -> bool:
        """Whether a call chooses the batch or the size."""
        return DYNAMIC in self.input.shape

    @property
    def example_shape(self) -> Shape:
        """Shape of an input: the declared one, with the example's sides where a call chooses."""
        batch, *size = self.example
        example = (batch, *size, 3) if self.input.dtype == "uint8" else (batch, 3, *size)
        sides = zip(self.input.shape, example, strict=True)
        return tuple(free if side == DYNAMIC else side for side, free in sides)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the mask (N, H, W) or the logits (N, K, H, W) of an input of this shape."""
        batch, *size = replace(self.input, shape=input_shape).sides
        return (batch, *self.output.shape[1:-2], *size)

    @property
    def result_dtype(self) -> str:
        """The numpy type of results: uint8 for masks, whichever integers the graph gives."""
        return self.output.dtype if self.output.dtype.startswith("float") else "uint8"

    def served_shape(self, source: str) -> tuple[int, int, int, int]:
        """Return the declared input's shape; ArtifactError if no runner serves the tensors."""
        refuse_unserved(source, [self.input], [self.output], "export the artifact again")
        batch, second, third, fourth = self.input.shape
        return batch, second, third, fourth

    def require_tensors(
        self,
        inputs: Iterable[TensorInfo],
        outputs: Iterable[TensorInfo],
        source: str,
        fix: str = "the file was changed after its export; export it again",
    ) -> Manifest:
        """Return the manifest if it declares the tensors that were loaded; else ArtifactError.

        Other tools leave the sides of an output open: one that is described may have any there.
        """
        found, declared = ((*inputs,), (*outputs,)), ((self.input,), (self.output,))
        if self.is_described and len(found[1]) == 1:
            (output,) = found[1]
            found = (found[0], (filled(output, self.output.shape),))
        if found != declared:
            expected = f"{_listed(*declared)}, as its manifest says"
            raise ArtifactError(f"{source} has the tensors {_listed(*found)}", expected, fix)
        return self

    def to_json(self) -> str:
        return MANIFEST.dump(self)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Read what ``to_json`` wrote; ArtifactError names the file as ``source``."""
        return MANIFEST.parse(text, source)


MANIFEST = Codec(
    Manifest,
    "manifest",
    "dabnet-export",
    "export the artifact again with this version of dabnet-export",
    version=("format", FORMAT),
    error=ArtifactError,
    one_line_each=("passes", "palette", "plan"),
)


def carried_manifest(properties: Mapping[str, str], source: str) -> Manifest:
    """Return the manifest among an ONNX file's ``metadata_props``, or raise ArtifactError."""
    if ONNX_KEY not in properties:
        raise NoManifest(
            f"{source} carries no manifest",
            "an ONNX file written by dabnet-export",
            "export the checkpoint with: dabnet-export onnx CHECKPOINT",
        )
    return Manifest.from_json(properties[ONNX_KEY], source)


def engine_manifest_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def read_engine_manifest(engine: Path) -> tuple[Manifest, EngineInfo]:
    """Return the manifest beside an engine and its part on the build, or raise ArtifactError."""
    path = engine_manifest_path(engine)
    fix = f"build it again with: dabnet-export trt MODEL.onnx --output {engine}"
    if not path.is_file():
        raise NoManifest(f"no manifest at {str(path)!r}", "the one written at the build", fix)
    manifest = MANIFEST.read(path)
    if manifest.engine is None:
        raise ArtifactError(f"{str(path)!r} describes no engine", "that of an engine", fix)
    return manifest, manifest.engine


def refuse_unserved(
    source: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], fix: str = ""
) -> None:
    """Raise ArtifactError unless a runner serves these tensors: one image in, one mask out."""
    given, results = ([(t.dtype, len(t.shape)) for t in side] for side in (inputs, outputs))
    if len(given) != 1 or given[0] not in _GIVEN or len(results) != 1 or results[0] not in _RESULTS:
        raise ArtifactError(
            f"{source} has the tensors {_listed(inputs, outputs)}",
            "one uint8 (N, H, W, 3) or float32 (N, 3, H, W) in; one uint8, int32 or int64 mask "
            "(N, H, W) or float32 logits (N, K, H, W) out",
            fix,
        )


def filled(tensor: TensorInfo, sides: Shape) -> TensorInfo:
    """The tensor with ``sides`` in place of those that are open; itself if their number differs."""
    if len(sides) != len(tensor.shape):
        return tensor
    pairs = zip(tensor.shape, sides, strict=True)
    return replace(tensor, shape=tuple(side if own == DYNAMIC else own for own, side in pairs))


def _listed(inputs: Iterable[TensorInfo], outputs: Iterable[TensorInfo]) -> str:
    return ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in (*inputs, *outputs))
