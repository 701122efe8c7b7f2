"""What a user says of a file that carries no manifest, and the manifest that follows.

An ONNX file of another tool, or an engine that ``trtexec`` built, names no classes. Names, types
and shapes of its tensors are read from the file itself; the rest is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dabnet.errors import ArtifactError
from dabnet.precision import BF16, FP16, FP32, INT8
from dabnet.preprocessing import Preprocessing
from dabnet.runtime.manifest import (
    CONFIDENCE,
    DYNAMIC,
    UNKNOWN,
    Colour,
    Manifest,
    NoManifest,
    TensorInfo,
    filled,
    refuse_unserved,
)

MODEL = "unknown (described by its user)"

WRITTEN_BY = "a file written by dabnet-export, which carries one"
CLASSES, SIZE, MEAN, TRUST = "--dataset or --classes", "--size", "--mean", "--trust"
"""Options that describe a file, as an error asks for them."""


@dataclass(frozen=True, slots=True)
class Description:
    """What the user gives.

    Attributes:
        classes: in the order of their indices.
        palette: one RGB colour per class.
        size: (height, width) in pixels of the example, if each call chooses its own.
        preprocessing: of an input of floats. A graph that takes uint8 does its own.
        dataset: whose classes they are.
        ignore: label value of pixels that do not count in a score.
        takes_floats: whether ``--mean`` says so.
    """

    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    size: tuple[int, int] | None = None
    preprocessing: Preprocessing | None = None
    dataset: str = UNKNOWN
    ignore: int = 255
    takes_floats: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> Description:
        """What a manifest says of a file whose graph was changed since: all but its claims."""
        return cls(
            manifest.classes,
            manifest.palette,
            manifest.size if DYNAMIC in manifest.input.sides[1:] else None,
            manifest.preprocessing,
            manifest.dataset,
            manifest.ignore,
        )

    def manifest(
        self,
        source: str,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        precision: str,
        **facts: Any,
    ) -> Manifest:
        """The manifest of a file with these tensors; ``facts`` are further fields of it.

        Raises:
            NoManifest: something is missing; the error names the options that give it.
            ArtifactError: no runner serves such tensors, or the description does not fit them.
        """
        outputs = sorted(outputs, key=lambda tensor: tensor.name == CONFIDENCE)
        refuse_unserved(source, inputs, outputs)
        (image,), (result, *beside) = inputs, outputs
        is_float = image.dtype == "float32"
        if image.shape[1 if is_float else 3] != 3:
            axes = "(N, 3, H, W)" if is_float else "(N, H, W, 3)"
            given = f"{source} takes {image.dtype} images of the shape {list(image.shape)}"
            raise ArtifactError(given, f"{axes}, three channels of RGB")
        batch, *size = image.sides
        missing = [
            *([] if self.classes else [CLASSES]),
            *([SIZE] if DYNAMIC in size and not self.size else []),
            *([MEAN] if is_float and not self.preprocessing else []),
        ]
        if missing:
            raise undescribed(f"{source} carries no manifest", missing)
        if self.takes_floats and not is_float:
            given = f"--mean for {source}, which takes uint8 images"
            fix = "leave --mean and --scale out: the graph has its own"
            raise ArtifactError(given, "an input of floats", fix)
        free = self.size or size
        example = tuple(
            own if own != DYNAMIC else side for own, side in zip(size, free, strict=True)
        )
        if self.size and example != self.size:
            given = f"--size {_text(self.size)} for {source}"
            raise ArtifactError(given, f"{_text(example)}, the size of its images")
        is_mask = len(result.shape) == 3
        sides = (batch, *size) if is_mask else (batch, len(self.classes), *size)
        if any(filled(output, sides).shape != sides for output in outputs):
            what = "a mask" if is_mask else f"logits of {len(self.classes)} classes"
            shapes = " and ".join(f"{o.name} of the shape {list(o.shape)}" for o in outputs)
            given = f"{source} gives {shapes}"
            raise ArtifactError(given, f"{what} of the image's size: {list(sides)}")
        return Manifest(
            model=MODEL,
            dataset=self.dataset,
            classes=self.classes,
            palette=self.palette,
            ignore=self.ignore,
            preprocessing=self.preprocessing if is_float and self.preprocessing else NO_MEAN,
            input=image,
            output=TensorInfo(result.name, result.dtype, sides),
            confidence=TensorInfo(CONFIDENCE, beside[0].dtype, sides) if beside else None,
            precision=precision,
            example=(max(1, batch), example[0], example[1]),
            checkpoint_sha256="",
            stride=1,
            **facts,
        )


NO_MEAN = Preprocessing((0.0, 0.0, 0.0))
"""Of a file that takes uint8: what is done to the images is inside the graph."""


def lowest_precision(names: Iterable[str]) -> str:
    """What a file with layers of these precisions is called: ``int8`` before ``fp16``, …"""
    found = set(names)
    return next((name for name in (INT8, FP16, BF16, FP32) if name in found), UNKNOWN)


def undescribed(given: str, missing: Sequence[str]) -> NoManifest:
    """The error for a file that carries no manifest, which asks for options."""
    return NoManifest(given, WRITTEN_BY, f"or describe it with {', and '.join(missing)}")


def _text(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
