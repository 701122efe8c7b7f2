"""The manifest: what an artifact is, carried inside the ONNX file or beside the engine.

In an ONNX file it is one JSON text under the key ``dabnet_manifest`` of ``metadata_props``; beside
``model.engine`` it is ``model.engine.json``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen

from dabnet import __version__
from dabnet.errors import ArtifactError, printable
from dabnet.files import existing_file, sha256_of_file
from dabnet.head import LOGITS, MASK, MASK_AND_CONFIDENCE, TOLERANCE
from dabnet.precision import PRECISIONS
from dabnet.preprocessing import Preprocessing
from dabnet.records import Byte, Codec, Count, Name, Share, Side, Text
from dabnet.runtime.plan import Plan

Colour = tuple[Byte, Byte, Byte]
Shape = Annotated[tuple[Annotated[int, Ge(-1), Le(2**31)], ...], MaxLen(8)]
Profile = tuple[Shape, Shape, Shape] | tuple[()]

ONNX_KEY = "dabnet_manifest"
FORMAT = 4

DYNAMIC = -1  # a side that each call chooses, as TensorRT writes it
UNKNOWN = "unknown"  # the precision of a graph that does not tell, and the data set of a file

MOST_CLASSES = 255  # 255 stands for no class in a mask of uint8
LARGEST_FACTOR = 1e6
"""Of a mean or a scale, which are near 100 and 1."""
MOST_PIXELS = 2**29
"""Of the example: batch x height x width."""

_GIVEN = (("uint8", 4), ("float32", 4))  # dtype and number of sides of the inputs that are served
_RESULTS = (("uint8", 3), ("int32", 3), ("int64", 3), ("float32", 4))
_CONFIDENCES = (("uint8", 3), ("int32", 3))

CONFIDENCE = "confidence"
"""Name of the second output of the head ``mask+confidence``."""


class NoManifest(ArtifactError):
    """An ONNX file or an engine of another tool: nothing says what its classes are."""


class ChangedSince(NoManifest):
    """An ONNX file whose graph another tool changed: what its manifest says of it is not known.

    Attributes:
        manifest: of the graph as it was exported.
    """

    def __init__(self, source: str, manifest: Manifest) -> None:
        super().__init__(
            f"{source} was changed after its export: its graph is not that of its manifest",
            "the file as dabnet-export wrote it",
            "export it again, or describe what it is now with --dataset or --classes",
        )
        self.manifest = manifest


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, numpy dtype name and shape of a graph's input or output; sides may be ``DYNAMIC``."""

    name: Name
    dtype: Name
    shape: Shape

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
    method: Name
    dataset: Name  # it and the split are ``unknown`` for a cache without its origin
    split: Name
    images: Count  # how many were seen
    image_sha256: tuple[Name, ...] = ()  # ``dabnet.data.image_files`` of each
    placement: Name = ""  # what is int8 (``calibration.placements``); "" where TensorRT chose
    float_layers: tuple[Name, ...] = ()  # convolutions left in float to keep accuracy


@dataclass(frozen=True, slots=True)
class ConfidenceDifference:
    """How far the confidences of two artifacts differ on the same images, over all pixels.

    Differences are absolute, in 1/255 (``dabnet.head.confidence_of``).
    """

    largest: Byte
    percentile_999: Byte  # 99.9 % of the pixels differ by this at most
    within_2: Share  # of pixels that differ by 2 at most

    @classmethod
    def of(cls, pixels: Sequence[int]) -> ConfidenceDifference:
        """Sum up the number of pixels of each difference, from 0 on; there is at least one."""
        up_to, total = list(accumulate(pixels)), sum(pixels)
        largest = next(value for value, count in enumerate(up_to) if count == total)
        most = next(value for value, count in enumerate(up_to) if 1000 * count >= 999 * total)
        return cls(largest, most, up_to[min(TOLERANCE, len(up_to) - 1)] / total)

    def __str__(self) -> str:
        return (
            f"differs by up to {self.largest} of 255, on 99.9 % of pixels by up to"
            f" {self.percentile_999}; by up to {TOLERANCE} on {100 * self.within_2:.3f} %"
        )


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far an artifact's masks equal PyTorch FP32's on the same images."""

    images: Name  # where they came from, and how many, in words
    mean: Share  # of equal pixels over all images
    worst: Share  # on the worst image
    # On the labels of the same images, 0…1, at the size of the artifact; None where they have none
    # of these classes.
    checkpoint_miou: Share | None = None
    artifact_miou: Share | None = None
    confidence: ConfidenceDifference | None = None  # None of an artifact that gives none


@dataclass(frozen=True, slots=True)
class PassInfo:
    """One graph pass that was applied to an ONNX file."""

    name: Name  # of its function in ``export.passes``
    changed: Count  # how many places
    note: Text = ""  # what else the reader must know, such as its error; "" for an exact pass


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What built an engine and where it may run."""

    product: Name  # ``tensorrt`` or ``tensorrt_rtx``
    version: Name  # such as ``10.16.1.11``
    target: Name  # ``sm86`` and the like for an ahead-of-time build, ``this-gpu`` otherwise
    gpu: Name = ""  # the card that built it, like the next two; empty for ahead-of-time
    compute_capability: Name = ""
    driver: Name = ""
    # By the type they compute in, read back from the built engine.
    layers_by_type: dict[Name, Count] = field(default_factory=dict)
    # Convolutions of the ONNX graph by the precision in which they were to compute.
    asked: dict[Name, Count] = field(default_factory=dict)
    # Of one call, as TensorRT listed it when it was built: what all kernels read and write, and the
    # kernels themselves. 0 and () of an older build; sizes that a call chooses are not counted.
    activation_bytes: Count = 0
    constant_bytes: Count = 0
    plan: Plan = ()
    profile: Profile = ()  # smallest, best, largest input shape of an engine with dynamic sides
    # Where else than on its own GPU model and version it may run: ``hardware`` (Ampere and later
    # GPUs), ``same-compute-capability``, ``version`` (later versions).
    compatibility: tuple[Name, ...] = ()
    sha256: Name = ""  # of the engine file; "" before it is written


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a runtime, a person or a later build must know about an artifact."""

    model: Name
    dataset: Name
    classes: Annotated[tuple[Name, ...], MaxLen(MOST_CLASSES)]
    palette: tuple[Colour, ...]
    ignore: Byte
    preprocessing: Preprocessing
    input: TensorInfo
    output: TensorInfo  # the mask or the logits
    precision: Name
    # (batch, height, width) it was exported and checked at
    example: tuple[Side, Side, Side]
    checkpoint_sha256: Name  # "" if it was described by its user (``dabnet.runtime.description``)
    trained_on: tuple[Name, ...] = ()  # each "DATASET SPLIT" (``dabnet.checkpoint.Checkpoint``)
    confidence: TensorInfo | None = None  # second output of the head ``mask+confidence``
    # Of the network: height and width of a ``DYNAMIC`` input are multiples of it.
    stride: Annotated[int, Ge(1), Le(1024)] = 8
    logits: Name = ""  # name of the tensor of logits before the upsample, float (N, K, H/8, W/8)
    optimized_for: Name = "portable"  # whose graph passes were applied (``export.passes.targets``)
    passes: tuple[PassInfo, ...] = ()
    opset: Annotated[int, Ge(0), Le(1000)] = 0
    channel_order: Literal["RGB"] = "RGB"
    # Of the graph (``dabnet.runtime.onnx_check``); "" of a file that carries no manifest.
    graph_sha256: Name = ""
    onnx_sha256: Name = ""  # of the ONNX file that an engine was built from
    calibration: CalibrationInfo | None = None
    agreement: Agreement | None = None
    engine: EngineInfo | None = None
    tool_version: Name = __version__
    libraries: dict[Name, Name] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, of the example where each call chooses."""
        return self.example[1], self.example[2]

    @property
    def head(self) -> str:
        """What it gives for each pixel: one of ``dabnet.head.HEADS``."""
        if len(self.output.shape) == 4:
            return LOGITS
        return MASK if self.confidence is None else MASK_AND_CONFIDENCE

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The mask or the logits, then the confidence if it gives one."""
        return (self.output,) if self.confidence is None else (self.output, self.confidence)

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
        """Shape of the mask (N, H, W) or the logits (N, K, H, W) of an input of this shape.

        That of the confidence is the mask's.
        """
        batch, *size = replace(self.input, shape=input_shape).sides
        return (batch, *self.output.shape[1:-2], *size)

    @property
    def result_dtype(self) -> str:
        """The numpy type of results: uint8 for integers, whichever the graph gives."""
        return self.output.dtype if self.output.dtype.startswith("float") else "uint8"

    def served_shape(self, source: str) -> tuple[int, int, int, int]:
        """Return the declared input's shape; ArtifactError if no runner serves the tensors."""
        refuse_unserved(source, [self.input], self.outputs, "export the artifact again")
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

        Outputs may come in any order. Other tools leave the sides of an output open: one that is
        described may have any there.
        """
        results = tuple(sorted(outputs, key=lambda tensor: tensor.name == CONFIDENCE))
        found, declared = ((*inputs,), results), ((self.input,), self.outputs)
        if self.is_described:
            found = (found[0], tuple(filled(output, self.output.shape) for output in results))
        if found != declared:
            expected = f"{_listed(*declared)}, as its manifest says"
            raise ArtifactError(f"{source} has the tensors {_listed(*found)}", expected, fix)
        return self

    def to_json(self) -> str:
        return MANIFEST.dump(self)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Read what ``to_json`` wrote; ArtifactError names the file as ``source``.

        Each part must fit the others: a colour per class, the example the input, and so on.
        """
        return _sound(MANIFEST.parse(text, source), source)

    def faults(self) -> Iterator[str]:
        """What no limit of a single value tells."""
        names, colours = len(self.classes), len(self.palette)
        if not names or len(set(self.classes)) < names:
            yield "classes: expected names, each once"
        for name in self.classes:
            if printable(name) != " ".join(name.split()) or not name:
                yield f"classes: expected names without control characters, got {name!a}"
        if colours != names:
            yield f"palette: expected {names} colours, one per class, got {colours}"
        factors = self.preprocessing.mean_rgb, self.preprocessing.scale
        if any(not abs(value) <= LARGEST_FACTOR for values in factors for value in values):
            yield f"preprocessing: expected numbers up to {LARGEST_FACTOR:g}"
        if 0 in self.preprocessing.scale:
            yield "preprocessing.scale: expected no 0"
        if self.precision not in (*PRECISIONS, UNKNOWN):
            yield f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}"
        hashes = {"checkpoint_sha256": self.checkpoint_sha256, "graph_sha256": self.graph_sha256}
        hashes |= {"onnx_sha256": self.onnx_sha256}
        hashes |= {"engine.sha256": self.engine.sha256} if self.engine else {}
        for key, value in hashes.items():
            if value and not re.fullmatch("[0-9a-f]{64}", value):
                yield f"{key}: expected 64 hexadecimal digits, got {value[:70]!r}"
        yield from self._faults_of_shapes()

    def _faults_of_shapes(self) -> Iterator[str]:
        try:
            refuse_unserved("it", [self.input], self.outputs)
        except ArtifactError as error:
            yield str(error)
            return
        if math.prod(self.example) > MOST_PIXELS:
            yield f"example: expected up to {MOST_PIXELS} pixels, got {list(self.example)}"
        sides = zip(self.input.sides, self.example, strict=True)
        if any(own not in (DYNAMIC, side) for own, side in sides) or 0 in self.input.shape:
            yield f"example: expected the sides of the input {list(self.input.shape)}"
        channels = self.input.shape[3 if self.input.dtype == "uint8" else 1]
        if channels != 3:
            yield f"input.shape: expected three channels, got {list(self.input.shape)}"
        if self.output.shape != self.output_shape(self.input.shape):
            yield f"output.shape: expected the sides of the input, got {list(self.output.shape)}"
        if self.confidence and self.confidence.shape != self.output.shape:
            given = list(self.confidence.shape)
            yield f"confidence.shape: expected the sides of the mask, got {given}"
        if len(self.output.shape) == 4 and self.output.shape[1] != len(self.classes):
            yield f"output.shape: expected {len(self.classes)} classes, got {self.output.shape[1]}"
        profile = self.engine.profile if self.engine else ()
        if self.engine and bool(profile) != self.is_dynamic:
            yield "engine.profile: expected shapes for the sides that a call chooses, and no others"
        for shape in profile:
            if len(shape) != 4 or not all(
                side >= 1 and own in (DYNAMIC, side)
                for own, side in zip(self.input.shape, shape, strict=True)
            ):
                yield f"engine.profile: expected shapes of the input, got {list(shape)}"
                return
        ordered = zip(*profile, strict=True)
        if not all(least <= best <= most for least, best, most in ordered):
            yield "engine.profile: expected the smallest, the best and the largest shape"


MANIFEST = Codec(
    Manifest,
    "manifest",
    "dabnet-export",
    "export the artifact again with this version of dabnet-export",
    version=("format", FORMAT),
    error=ArtifactError,
    one_line_each=("passes", "palette", "plan"),
)


def _sound(manifest: Manifest, source: str) -> Manifest:
    for fault in manifest.faults():
        MANIFEST.refuse(source, fault)
    return manifest


def carried_manifest(
    properties: Mapping[str, str], source: str, graph_sha256: str = ""
) -> Manifest:
    """Return the manifest among an ONNX file's ``metadata_props``.

    ``graph_sha256`` is the hash of the graph that stands there now; "" does not compare it.

    Raises:
        NoManifest: there is none. ``ChangedSince``: it is of another graph.
        ArtifactError: it is damaged.
    """
    if ONNX_KEY not in properties:
        raise NoManifest(
            f"{source} carries no manifest",
            "an ONNX file written by dabnet-export",
            "export the checkpoint with: dabnet-export onnx CHECKPOINT",
        )
    manifest = Manifest.from_json(properties[ONNX_KEY], source)
    if graph_sha256 and manifest.graph_sha256 != graph_sha256:
        raise ChangedSince(source, manifest)
    return manifest


def engine_manifest_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def read_engine_manifest(engine: Path, trust: bool = False) -> tuple[Manifest, EngineInfo]:
    """Return the manifest beside an engine and its part on the build.

    Args:
        engine: an engine is a program, so it must be the file that the manifest was written for.
        trust: whether it may be another one.

    Raises:
        NoManifest: there is none.
        ArtifactError: it is damaged, or the engine is another file.
    """
    path = engine_manifest_path(engine)
    fix = f"build it again with: dabnet-export trt MODEL.onnx --output {engine}"
    if not path.is_file():
        raise NoManifest(f"no manifest at {str(path)!r}", "the one written at the build", fix)
    manifest = _sound(MANIFEST.read(path), repr(str(path)))
    if manifest.engine is None:
        raise ArtifactError(f"{str(path)!r} describes no engine", "that of an engine", fix)
    engine = existing_file(engine, "an engine written by dabnet-export")
    if not trust and manifest.engine.sha256 != sha256_of_file(engine):
        raise ArtifactError(
            f"{str(engine)!r} is not the engine that {str(path)!r} was written for",
            "the file as dabnet-export wrote it, since an engine is a program",
            f"{fix}; or load it with --trust (trust=True) if you know who built it",
        )
    return manifest, manifest.engine


def refuse_untrusted(engine: Path, trust: bool) -> None:
    """Raise ArtifactError for an engine that no manifest speaks for, unless it is trusted."""
    if not trust:
        raise ArtifactError(
            f"{str(engine)!r} has no manifest beside it, and an engine is a program",
            "an engine written by dabnet-export",
            "or load it with --trust (trust=True) if you know who built it",
        )


def refuse_unserved(
    source: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], fix: str = ""
) -> None:
    """Raise ArtifactError unless a runner serves these tensors: one image in, one mask out.

    Beside a mask there may be its confidence, behind it.
    """
    given, results = ([(t.dtype, len(t.shape)) for t in side] for side in (inputs, outputs))
    confidences = [tensor.name for tensor in outputs[1:]]
    if (
        len(given) != 1
        or given[0] not in _GIVEN
        or not results
        or results[0] not in _RESULTS
        or confidences not in ([], [CONFIDENCE])
        or (confidences and (results[0][1] != 3 or results[1] not in _CONFIDENCES))
    ):
        raise ArtifactError(
            f"{source} has the tensors {_listed(inputs, outputs)}",
            "one uint8 (N, H, W, 3) or float32 (N, 3, H, W) in; one uint8, int32 or int64 mask "
            "(N, H, W) or float32 logits (N, K, H, W) out, beside a mask perhaps its confidence",
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
