"""What artifact is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from dabnet.errors import InputError
from dabnet.models import check_size

PRECISIONS = ("fp32", "int8")
MASK_DTYPES = ("uint8", "int32")

# A float export differs from PyTorch by rounding at class borders alone; INT8 by its ranges too.
MINIMUM_AGREEMENT = {"fp32": 0.999, "int8": 0.95}


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """An ONNX artifact to make.

    Attributes:
        size: (height, width) of the images in pixels, multiples of 8.
        precision: one of ``PRECISIONS``.
        batch: images a call.
        mask_dtype: ``uint8``, or ``int32`` for TensorRT 8.6, which cannot emit uint8.
        calibration_images: how many images of the training split give the INT8 ranges.
        calibration_method: how a range is chosen from a histogram (``calibration.ranges``).
        check_images: how many images the agreement with PyTorch is taken over.
        minimum_agreement: least mean share of equal pixels, 0…1; None takes the precision's.
    """

    size: tuple[int, int]
    precision: str = "fp32"
    batch: int = 1
    mask_dtype: str = "uint8"
    calibration_images: int = 48
    calibration_method: str = "mse"
    check_images: int = 8
    minimum_agreement: float | None = None

    def __post_init__(self) -> None:
        check_size(*self.size)
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r}", "one of " + ", ".join(PRECISIONS))
        if self.mask_dtype not in MASK_DTYPES:
            raise InputError(f"mask type {self.mask_dtype!r}", "one of " + ", ".join(MASK_DTYPES))
        for name in ("batch", "calibration_images", "check_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')} {getattr(self, name)}", "at least 1")

    @property
    def required_agreement(self) -> float:
        """Least mean share of equal pixels with which the artifact is written."""
        if self.minimum_agreement is not None:
            return self.minimum_agreement
        return MINIMUM_AGREEMENT[self.precision]
