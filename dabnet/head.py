"""The heads of an artifact: what it gives for each pixel, and what its confidence is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MASK, LOGITS, MASK_AND_CONFIDENCE = "mask", "logits", "mask+confidence"
HEADS = (MASK, LOGITS, MASK_AND_CONFIDENCE)

LARGEST = 255
"""Confidence of a probability of 1."""
TOLERANCE = 2
"""Largest difference between the confidences of two artifacts that count as equal, of 255."""


def confidence_of(logits: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The confidence of a mask, uint8 (N, H, W), 0…255; the definition for every backend.

    It is ``round(255 · p)``, half to even, where p is the softmax probability of the class that the
    mask names, the largest logit of the pixel: ``p = 1 / Σ_k exp(l_k - max_k l_k)``. So p is at
    least 1 / K, and 255 means p ≥ 254.5 / 255 = 0.998. It is the network's own probability, which
    no data has calibrated.

    Args:
        logits: (N, K, H, W), at the size of the image: a network's coarse logits are enlarged
            first, as for the mask.
    """
    import numpy as np

    wide = logits.astype(np.float64)
    rest = np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1)
    found: NDArray[np.uint8] = np.rint(LARGEST / rest).astype(np.uint8)
    return found
