"""BatchNormalization as a scale and a shift, computed in float64, for the passes that fold it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.passes.editing import array


@dataclass(frozen=True, slots=True)
class Affine:
    """``scale[c] * x + shift[c]``: float64, (C,) each."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


def affine_of(node: ir.Node) -> Affine | None:
    """What a BatchNormalization in evaluation mode computes; None where it is not constant.

    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    constants = [array(value) for value in node.inputs[1:5]]
    training = node.attributes.get("training_mode")
    if any(c is None for c in constants) or (training is not None and training.as_int()):
        return None
    gamma, beta, mean, variance = (np.asarray(c, np.float64) for c in constants)
    epsilon = node.attributes.get("epsilon")
    scale = gamma / np.sqrt(variance + (epsilon.as_float() if epsilon is not None else 1e-5))
    return Affine(scale, beta - mean * scale)
