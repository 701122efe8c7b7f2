"""Colours (red, green, blue; 0…255): mixing, varying, and the palettes that things share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Rng = np.random.Generator
Colour = tuple[float, float, float]


def from_hex(text: str) -> tuple[Colour, ...]:
    """Return the colours written as words of six hex digits."""
    return tuple((float(b[0]), float(b[1]), float(b[2])) for b in map(bytes.fromhex, text.split()))


WALLS = from_hex("8e5442 784838 a88868 c4b8a0 ded8cc 868482 686a70 b07858 5e5246 bac4cc")
PAINTS = from_hex("cecece a8aaae 707276 2a2a2e 1e2234 96221e 2c4888 3a543e a09278 c4a83c 565454")
METALS = from_hex("707274 3e4042 969898 36483c 624e3c")


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """Return ``a`` moved towards ``b`` by ``amount`` (0…1)."""
    keep = 1.0 - amount
    return (
        a[0] * keep + b[0] * amount,
        a[1] * keep + b[1] * amount,
        a[2] * keep + b[2] * amount,
    )


def scaled(colour: Colour, factor: float) -> Colour:
    """Return ``colour`` made brighter or darker."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def varied(rng: Rng, colour: Colour, amount: float = 14.0) -> Colour:
    """Return a colour near ``colour``: a common shift of brightness and a smaller one of hue."""
    common, r, g, b = (rng.random(4) - 0.5).tolist()
    return (
        max(4.0, colour[0] + amount * (2.0 * common + r)),
        max(4.0, colour[1] + amount * (2.0 * common + g)),
        max(4.0, colour[2] + amount * (2.0 * common + b)),
    )


def pick(rng: Rng, colours: Sequence[Colour], amount: float = 14.0) -> Colour:
    """Return a variation of one of ``colours``."""
    return varied(rng, colours[int(rng.integers(len(colours)))], amount)
