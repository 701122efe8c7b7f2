"""A name for the pixels of an image, by which two splits are searched for the same picture."""

from __future__ import annotations

import hashlib

import numpy as np

from dabnet.data.dataset import Uint8Array


def image_sha256(image: Uint8Array) -> str:
    """Return the SHA-256 of an image's decoded pixels as 64 hex digits.

    Of the pixels at their native size, before any resize: so the hash does not depend on the file's
    name, format or compression, nor on the size at which an artifact was calibrated.

    Args:
        image: uint8, (H, W, 3), RGB, 0…255; hashed are ``"HxW\\n"`` and the pixels, row by row.

    Raises:
        ValueError: the array is of another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    height, width, _ = image.shape
    # The header fixes the size: equal bytes in another shape are another picture.
    digest = hashlib.sha256(f"{height}x{width}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
