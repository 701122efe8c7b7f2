"""The request for an ONNX artifact: which graph, which precision, how it is checked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from dabnet.console import MOST_IMAGES
from dabnet.errors import InputError
from dabnet.head import HEADS, LOGITS, MASK, MASK_AND_CONFIDENCE
from dabnet.precision import EXPORTED, FP16, FP32, INT8, PRECISIONS
from dabnet.runtime.manifest import CONFIDENCE, DYNAMIC, TensorInfo

T = TypeVar("T")

MOST_BATCH = 4096

GRAPH, QUANTISED = "Graph", "INT8"
"""Headings of options in ``--help``."""

DENSE_ONLY = "dense-only"
"""The usual placement of INT8 on TensorRT (``calibration.placements``)."""

TENSORRT_TARGETS = ("tensorrt", "tensorrt-rtx")
"""Targets whose float tensors may be FP16, and whose passes come behind Q/DQ."""


@dataclass(frozen=True, slots=True)
class Option:
    """A field of a request that is an option of the command line too."""

    help: str = ""  # one sentence; "" shows none
    under: str = ""  # heading in ``--help``; "" is that of the options of most calls
    shown: str = ""  # default in words, where it depends on others
    name: str = ""  # such as ``--batch``; "" is made from the name of the field
    choices: tuple[str, ...] = ()  # () takes any value of its type
    least: float | None = None  # limits of a number, both included
    most: float | None = None

    def check(self, value: Any) -> None:
        """Raise ``InputError`` unless ``value`` is one of the choices, or within the limits."""
        if value is None:
            return
        if self.choices and value not in self.choices:
            raise InputError(f"{self.name} {value!r}", "one of " + ", ".join(self.choices))
        if self.least is not None and not value >= self.least:
            raise InputError(f"{self.name} {value}", f"at least {self.least:g}")
        if self.most is not None and not value <= self.most:
            raise InputError(f"{self.name} {value}", f"at most {self.most:.9g}")


def option(default: T, help: str = "", **more: Any) -> T:
    """Declare a field of a dataclass; ``more`` are attributes of ``Option``."""
    declared: T = field(default=default, metadata={"option": Option(help, **more)})
    return declared


def options_of(request: Any) -> dict[str, tuple[Option, Any]]:
    """Field → option and default, for a dataclass or an instance of it."""
    found = {}
    for item in fields(request):
        if asked := item.metadata.get("option"):
            name = asked.name or f"--{item.name.replace('_', '-')}"
            found[item.name] = (replace(asked, name=name), item.default)
    return found


_INT8_ONLY = (
    *("placement", "rest", "float_layers", "fit_weights", "max_drop", "max_disagreement"),
    *("calibration_file", "calibration_method"),
)


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """An ONNX artifact to make: each field is an option of ``dabnet-export onnx``.

    Attributes (those whose help does not say it):
        size: (height, width) in pixels, multiples of the network's stride.
        batch, size: of the check and of the calibration, if a call chooses its own.
        calibration_images: also read for the activations that keep a node of FP16 in FP32.
        calibration_method: how a range is chosen from a histogram (``calibration.ranges``).
        placement: by the names of ``calibration.placements``; layers by its ``layer_name``.
        max_drop, max_disagreement: see ``export.int8.budget.Budget``.
        check_images: how many images the agreement with PyTorch is taken over.
        minimum_agreement: of the mean over these images; None takes the precision's.

    Raises:
        InputError: a value is unknown, or two of them exclude each other.
    """

    size: tuple[int, int] = option((512, 1024), "Of the images; a multiple of 8.")
    precision: str = option(FP32, choices=EXPORTED)
    optimize_for: str = option(
        "portable",
        "Runtime",
        choices=("portable", "ort-cpu", "ort-cuda", "openvino-half", *TENSORRT_TARGETS),
    )
    mask_dtype: str = option(
        "uint8", "int32 for TensorRT 8.6.", choices=("uint8", "int32"), under=GRAPH
    )
    batch: int = option(1, "Images per call.", least=1, most=MOST_BATCH, under=GRAPH)
    dynamic_batch: bool = option(False, "Each call chooses its number of images.", under=GRAPH)
    dynamic_size: bool = option(False, "Each call chooses its size.", under=GRAPH)
    without_passes: tuple[str, ...] = option(
        (), "Leave out a graph pass; repeatable.", name="--without-pass", under=GRAPH
    )
    input: str = option(
        "uint8", "uint8 NHWC, or preprocessed float NCHW.", choices=("uint8", "float"), under=GRAPH
    )
    head: str = option(MASK, "What the file gives.", choices=HEADS, under=GRAPH)
    minimum_agreement: float | None = option(
        None,
        "Minimum share of pixels as in PyTorch.",
        least=0,
        most=1,
        name="--min-agreement",
        shown="fp32 0.9999, fp16 0.999, int8 0.95",
        under=GRAPH,
    )
    check_images: int = 8
    placement: str | None = option(
        None,
        "What INT8 rounds",
        choices=("conv-inputs", DENSE_ONLY, "tensorrt", "all"),
        shown="by --optimize-for",
        under=QUANTISED,
    )
    rest: str | None = option(
        None,
        "Type of all else.",
        choices=(FP32, FP16),
        shown="by --optimize-for",
        under=QUANTISED,
    )
    float_layers: tuple[str, ...] = option(
        (), "Convolution to keep in float; repeatable.", name="--float-layer", under=QUANTISED
    )
    fit_weights: bool = option(False, "Fit weights to the FP32 outputs.", under=QUANTISED)
    max_drop: float | None = option(
        None,
        "Maximum mIoU points that INT8 may lose.",
        least=0,
        most=100,
        under=QUANTISED,
    )
    max_disagreement: float | None = option(
        None,
        "Maximum percent of pixels that it may change.",
        least=0,
        most=100,
        under=QUANTISED,
    )
    budget_images: int = option(
        32,
        "Training images to measure a budget on.",
        least=1,
        most=MOST_IMAGES,
        under=QUANTISED,
    )
    card: str = option(
        "rtx-3090",
        "GPU whose time is modelled",
        choices=("gtx-1080-ti", "rtx-3090", "rtx-4090", "h200"),
        under=QUANTISED,
    )
    calibration_file: Path | None = option(  # noqa: RUF009 (a declaration)
        None, "Of dabnet-export calibration.", name="--calibration", under=QUANTISED
    )
    calibration_images: int = option(
        48, "Training images for the ranges.", least=1, most=MOST_IMAGES, under=QUANTISED
    )
    calibration_method: str | None = option(
        None,
        "mse, entropy, minmax, percentile or percentile:P.",
        shown="mse, or the ranges of --qat",
        under=QUANTISED,
    )

    def __post_init__(self) -> None:
        changed = []
        for name, (asked, default) in options_of(self).items():
            asked.check(getattr(self, name))
            if name in _INT8_ONLY and getattr(self, name) != default:
                changed.append(asked.name)
        if changed and self.precision != INT8:
            given = f"{', '.join(changed)} with --precision {self.precision}"
            raise InputError(given, "--precision int8")
        # What only some exports need is imported for them alone.
        if self.without_passes:
            from export.passes.targets import check_passes

            check_passes(self.without_passes)
        if self.calibration_method is not None:
            from calibration.ranges import check_method

            check_method(self.calibration_method)
        self._refuse_what_excludes_itself()

    def _refuse_what_excludes_itself(self) -> None:
        for name in () if self.has_budget else ("budget_images", "card"):
            asked, default = options_of(self)[name]
            if getattr(self, name) != default:
                given = f"{asked.name} without an accuracy budget"
                raise InputError(given, "--max-drop or --max-disagreement", "leave it out")
        if self.has_budget and self.head == LOGITS:
            raise InputError(f"an accuracy budget with --head {self.head}", "--head mask")
        if self.precision == INT8 and self.input == "float":
            raise InputError("int8 with float input", "uint8 input, which calibrates it")
        if self.rest == FP16 and self.mask_dtype == "int32":
            raise InputError(
                "--rest fp16 with an int32 mask",
                "TensorRT 10 or later, which takes opset 19 and a uint8 mask",
                "for TensorRT 8.6: --rest fp32",
            )
        if FP16 in (self.precision, self.int8_rest) and self.optimize_for == "ort-cpu":
            given = "fp16 optimised for ort-cpu, which computes in FP32 all the same"
            fix = "choose another --precision, or --optimize-for ort-cuda"
            raise InputError(given, "fp32 or int8 on a CPU", fix)

    @property
    def files_read(self) -> tuple[Path, ...]:
        """Files beside the checkpoint, which the output may not replace."""
        return (self.calibration_file,) if self.calibration_file else ()

    @property
    def int8_placement(self) -> str:
        """The placement that was asked for, or the one for the target.

        On GPUs ``dense-only`` moves least and agrees best (docs/int8.md).
        """
        usual = DENSE_ONLY if self.optimize_for in TENSORRT_TARGETS else "conv-inputs"
        return self.placement or usual

    @property
    def int8_rest(self) -> str:
        """Type of the tensors that an INT8 artifact does not round; ``fp32`` for any other."""
        takes_half = self.optimize_for in TENSORRT_TARGETS and self.mask_dtype == "uint8"
        usual = FP16 if self.precision == INT8 and takes_half else FP32
        return self.rest or usual

    @property
    def has_budget(self) -> bool:
        """Whether INT8 is to keep to an accuracy budget."""
        return self.max_drop is not None or self.max_disagreement is not None

    @property
    def required_agreement(self) -> float:
        """Minimum mean share of equal pixels with which the artifact is written."""
        if self.minimum_agreement is not None:
            return self.minimum_agreement
        return PRECISIONS[self.precision].minimum_agreement or 0.0

    @property
    def input_tensor(self) -> TensorInfo:
        n, h, w = self._sides
        if self.input == "uint8":
            return TensorInfo("image", "uint8", (n, h, w, 3))
        return TensorInfo("image", "float32", (n, 3, h, w))

    def output_tensor(self, classes: int) -> TensorInfo:
        n, h, w = self._sides
        if self.head == LOGITS:
            return TensorInfo("logits", "float32", (n, classes, h, w))
        return TensorInfo("mask", self.mask_dtype, (n, h, w))

    @property
    def confidence_tensor(self) -> TensorInfo | None:
        """The second output; None of another head than ``mask+confidence``."""
        given = self.head == MASK_AND_CONFIDENCE
        return TensorInfo(CONFIDENCE, self.mask_dtype, self._sides) if given else None

    @property
    def _sides(self) -> tuple[int, int, int]:
        batch = DYNAMIC if self.dynamic_batch else self.batch
        height, width = (DYNAMIC, DYNAMIC) if self.dynamic_size else self.size
        return batch, height, width
