"""What artifact is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from calibration.placements import check_placement
from calibration.ranges import check_method
from dabnet.errors import InputError
from dabnet.models import check_size
from dabnet.runtime.manifest import DYNAMIC, TensorInfo
from export.passes.targets import TARGETS, check_passes

PRECISIONS = ("fp32", "fp16", "int8")
MASK_DTYPES = ("uint8", "int32")
INPUTS = ("uint8", "float")
HEADS = ("mask", "logits")

# A float export differs from PyTorch by rounding at class borders alone; INT8 by its ranges too.
MINIMUM_AGREEMENT = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.95}


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """An ONNX artifact to make.

    Attributes:
        size: (height, width) of the images in pixels, multiples of 8.
        precision: one of ``PRECISIONS``.
        batch: images a call.
        dynamic_batch, dynamic_size: each call chooses; ``batch`` and ``size`` are then those of
            the check, and of the calibration.
        optimize_for: whose graph passes to apply, one of ``export.passes.targets.TARGETS``.
        without_passes: passes of that target to leave out.
        input: ``uint8`` images (N, H, W, 3), or preprocessed ``float`` (N, 3, H, W).
        head: ``mask`` (N, H, W), or ``logits`` (N, K, H, W).
        mask_dtype: ``uint8``, or ``int32`` for TensorRT 8.6, which cannot emit uint8.
        calibration_images: how many images of the training split give the INT8 ranges, and the
            largest activations that keep a node of an FP16 artifact in FP32.
        calibration_method: how a range is chosen from a histogram (``calibration.ranges``); None
            takes the ranges of quantisation-aware training where there are such, and else mse.
        calibration_file: statistics to take instead of calibrating; None calibrates.
        placement: what INT8 rounds (``calibration.placements``).
        float_layers: convolutions that INT8 leaves in float, by ``placements.layer_name``.
        rest: type of what INT8 does not round, ``fp32`` or ``fp16``.
        equalize: bring the channels of each tensor to one range first (``calibration.equalize``).
        fit_weights: fit int8 weights and biases to the FP32 outputs (``calibration.fit_weights``).
        max_drop, max_disagreement: accuracy budget of INT8 (``export.int8.budget.Budget``): convolutions
            go to float until it holds; None and None leave all of the placement in INT8.
        budget_images: held-out training images to measure it on.
        card: GPU whose time the search models (``export.int8.cost.CARDS``).
        check_images: how many images the agreement with PyTorch is taken over.
        minimum_agreement: least mean share of equal pixels, 0…1; None takes the precision's.
    """

    size: tuple[int, int]
    precision: str = "fp32"
    batch: int = 1
    dynamic_batch: bool = False
    dynamic_size: bool = False
    optimize_for: str = "portable"
    without_passes: tuple[str, ...] = ()
    input: str = "uint8"
    head: str = "mask"
    mask_dtype: str = "uint8"
    calibration_images: int = 48
    calibration_method: str | None = None
    calibration_file: Path | None = None
    placement: str = "conv-inputs"
    float_layers: tuple[str, ...] = ()
    rest: str = "fp32"
    equalize: bool = False
    fit_weights: bool = False
    max_drop: float | None = None
    max_disagreement: float | None = None
    budget_images: int = 32
    card: str = "rtx-3090"
    check_images: int = 8
    minimum_agreement: float | None = None

    def __post_init__(self) -> None:
        check_size(*self.size)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("mask type", self.mask_dtype, MASK_DTYPES)
        _check_choice("target to optimise for", self.optimize_for, TARGETS)
        _check_choice("input", self.input, INPUTS)
        _check_choice("head", self.head, HEADS)
        check_passes(self.without_passes)
        check_placement(self.placement)
        if self.calibration_method is not None:
            check_method(self.calibration_method)
        _check_choice("type of the rest", self.rest, ("fp32", "fp16"))
        self._check_rest()
        if (self.equalize or self.fit_weights) and self.precision != "int8":
            raise InputError(
                f"--equalize or --fit-weights with --precision {self.precision}",
                "--precision int8",
                "leave them out",
            )
        if self.has_budget and (self.precision, self.head) != ("int8", "mask"):
            raise InputError(
                f"an accuracy budget for {self.precision} {self.head}",
                "--precision int8 with --head mask",
                "leave --max-drop and --max-disagreement out",
            )
        for name in ("batch", "calibration_images", "check_images", "budget_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')} {getattr(self, name)}", "at least 1")
        if "fp16" in (self.precision, self.rest) and self.optimize_for == "ort-cpu":
            raise InputError(
                "fp16 optimised for ort-cpu, which computes in FP32 all the same",
                "fp32 or int8 on a CPU",
                "choose another --precision, or --optimize-for ort-cuda",
            )
        if self.precision == "int8" and self.input == "float":
            raise InputError(
                "int8 with float input", "uint8 input, which calibrates it", "leave --input out"
            )

    def _check_rest(self) -> None:
        if self.rest == "fp16" and self.precision != "int8":
            raise InputError(
                f"--rest fp16 with --precision {self.precision}",
                "--precision int8, whose other tensors it is about",
                "for FP16 throughout: --precision fp16",
            )
        if self.rest == "fp16" and self.mask_dtype == "int32":
            raise InputError(
                "--rest fp16 with an int32 mask",
                "TensorRT 10 or later, which takes opset 19 and a uint8 mask",
                "for TensorRT 8.6: --rest fp32",
            )

    @property
    def has_budget(self) -> bool:
        """Whether INT8 is to keep to an accuracy budget."""
        return self.max_drop is not None or self.max_disagreement is not None

    @property
    def required_agreement(self) -> float:
        """Least mean share of equal pixels with which the artifact is written."""
        if self.minimum_agreement is not None:
            return self.minimum_agreement
        return MINIMUM_AGREEMENT[self.precision]

    @property
    def input_tensor(self) -> TensorInfo:
        """The graph's input."""
        n, h, w = self._sides
        if self.input == "uint8":
            return TensorInfo("image", "uint8", (n, h, w, 3))
        return TensorInfo("image", "float32", (n, 3, h, w))

    def output_tensor(self, classes: int) -> TensorInfo:
        """The graph's output."""
        n, h, w = self._sides
        if self.head == "mask":
            return TensorInfo("mask", self.mask_dtype, (n, h, w))
        return TensorInfo("logits", "float32", (n, classes, h, w))

    @property
    def _sides(self) -> tuple[int, int, int]:
        batch = DYNAMIC if self.dynamic_batch else self.batch
        height, width = (DYNAMIC, DYNAMIC) if self.dynamic_size else self.size
        return batch, height, width


def _check_choice(what: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise InputError(f"{what} {given!r}", "one of " + ", ".join(choices))
