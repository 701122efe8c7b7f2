"""Sky, ground and the street's cross-section. Lengths are metres, y points up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dabnet.data.toy_street.canvas import (
    BUILDING,
    PAVEMENT,
    ROAD,
    TREE,
    Canvas,
    Colour,
    Floats,
    Rng,
    mix,
    pick,
    scaled,
    varied,
)

KERB_HEIGHT = 0.12

_PAVINGS: tuple[Colour, ...] = (
    (132.0, 130.0, 128.0),
    (112.0, 110.0, 110.0),
    (150.0, 140.0, 126.0),
    (128.0, 112.0, 102.0),
)
# Depths of the ground's cross-sections: dense near the camera, so that a bend looks round.
_DEPTHS = 1.3 * 1.2 ** np.arange(34)


@dataclass(frozen=True, slots=True)
class Street:
    """The street's cross-section and length, in metres; the camera stands at x = 0.

    Attributes:
        left, right: x of the kerbs.
        left_front, right_front: x of the building lines.
        end: z where the rows of buildings end.
    """

    left: float
    right: float
    left_front: float
    right_front: float
    end: float

    @classmethod
    def sample(cls, rng: Rng) -> Street:
        """Draw a street of two or three lanes with the camera in one of them."""
        half = rng.uniform(3.3, 5.6)
        centre = half * rng.uniform(-0.55, 0.55)
        return cls(
            left=centre - half,
            right=centre + half,
            left_front=centre - half - rng.uniform(1.6, 4.2),
            right_front=centre + half + rng.uniform(1.6, 4.2),
            end=rng.uniform(55.0, 120.0),
        )

    def kerb(self, side: int) -> float:
        """Return x of the kerb on the left (-1) or right (1)."""
        return self.left if side < 0 else self.right

    def front(self, side: int) -> float:
        """Return x of the building line on the left (-1) or right (1)."""
        return self.left_front if side < 0 else self.right_front


def draw_sky(canvas: Canvas, rng: Rng) -> None:
    """Paint the sky in bands and, at the horizon, a far row of roofs and tree tops."""
    light, horizon = canvas.light, canvas.camera.horizon
    v = np.linspace(0.0, horizon + 0.02, 41)
    bands = [
        canvas.sky_material(mix(light.zenith, light.haze, (i / 39) ** 1.5), light.clouds)
        for i in range(40)
    ]
    canvas.paint_flat(bands, _flat_rectangles(np.full(40, -4.0), np.full(40, 4.0), v[:-1], v[1:]))
    u = np.linspace(-1.4, 1.4, 57)
    top = horizon - rng.uniform(0.008, 0.05, 56) * rng.uniform(0.5, 1.6)
    row = []
    for is_tree in rng.uniform(size=56) < rng.uniform(0.1, 0.7):
        label, colour = (TREE, (70.0, 88.0, 60.0)) if is_tree else (BUILDING, (120.0, 110.0, 104.0))
        row.append(canvas.material(label, varied(rng, colour, 25.0), rng.uniform(90.0, 260.0)))
    canvas.paint_flat(row, _flat_rectangles(u[:-1], u[1:], top, np.full(56, horizon + 0.01)))


def _flat_rectangles(u0: Floats, u1: Floats, v0: Floats, v1: Floats) -> Floats:
    return np.stack([u0, v0, u1, v0, u1, v1, u0, v1], axis=-1).reshape(-1, 4, 2)


def _level_rectangles(
    x0: ArrayLike, x1: ArrayLike, y: float, z0: ArrayLike, z1: ArrayLike
) -> Floats:
    """Return level rectangles (n, 4, 3) at height ``y``."""
    a, b, c, d = np.broadcast_arrays(*(np.asarray(e, dtype=np.float64) for e in (x0, x1, z0, z1)))
    h = np.full_like(a, y)
    corners = np.stack([a, h, c, b, h, c, b, h, d, a, h, d], axis=-1)
    return corners.reshape(-1, 4, 3)


def draw_ground(canvas: Canvas, street: Street, rng: Rng) -> None:
    """Paint forecourts, pavements with kerbs and joints, and the road with its markings."""
    z0, z1 = _DEPTHS[:-1], _DEPTHS[1:]
    up = canvas.light.facing((0.0, 1.0, 0.0))

    def strips(label: int, colour: Colour, bright: float, grain: float, blotch: float) -> list[int]:
        return [canvas.material(label, colour, z, bright, grain, blotch, ground=True) for z in z0]

    road = varied(rng, scaled((94.0, 94.0, 97.0), rng.uniform(0.75, 1.25)), 8.0)
    paving = pick(rng, _PAVINGS, 16.0)
    forecourt = strips(PAVEMENT, pick(rng, _PAVINGS, 20.0), up * 0.92, 0.05, 0.12)
    flags = strips(PAVEMENT, paving, up, 0.04, 0.07)
    joints = strips(PAVEMENT, scaled(paving, 0.86), up, 0.04, 0.07)
    kerb_top = strips(
        PAVEMENT, scaled(mix(paving, (150.0, 150.0, 148.0), 0.5), 1.1), up, 0.03, 0.05
    )
    kerb_face = strips(PAVEMENT, scaled(paving, 0.6), up, 0.03, 0.05)
    asphalt = strips(ROAD, road, up, 0.06, 0.09)
    # So wide that a bend does not lead past its end before the horizon.
    canvas.paint(forecourt, _level_rectangles(-2000.0, 2000.0, KERB_HEIGHT, z0, z1))
    for side in (-1, 1):
        kerb, front = street.kerb(side), street.front(side)
        canvas.paint(flags, _level_rectangles(kerb, front, KERB_HEIGHT, z0, z1))
        z = np.arange(2.0, 20.0, 1.2)
        nearest = np.minimum(np.searchsorted(_DEPTHS, z) - 1, len(z0) - 1)
        canvas.paint(
            [joints[i] for i in nearest], _level_rectangles(kerb, front, KERB_HEIGHT, z, z + 0.035)
        )
        canvas.paint(kerb_top, _level_rectangles(kerb, kerb + 0.16 * side, KERB_HEIGHT, z0, z1))
    canvas.paint(asphalt, _level_rectangles(street.left, street.right, 0.0, z0, z1))
    # The faces of both kerbs are seen from the road; they end where its surface begins.
    for side in (-1, 1):
        face = _level_rectangles(street.kerb(side), street.kerb(side), 0.0, z0, z1)
        face[:, 1::2, 1] = 0.0
        face[:, (0, 3), 1] = KERB_HEIGHT
        canvas.paint(kerb_face, face)
    _draw_markings(canvas, street, rng, road, up)


def _draw_markings(canvas: Canvas, street: Street, rng: Rng, road: Colour, up: float) -> None:
    """Paint worn lines, patches, covers and sometimes a zebra crossing, all of class road."""

    def paint(colour: Colour, rectangles: Floats) -> None:
        depths = rectangles[:, 0, 2].tolist()
        canvas.paint(
            [canvas.material(ROAD, colour, z, up, 0.05, 0.08, ground=True) for z in depths],
            rectangles,
        )

    left, right, width = street.left, street.right, street.right - street.left
    for _ in range(int(rng.integers(1, 7))):
        x0, near, tone = rng.uniform(left, right), rng.uniform(3.0, 30.0), rng.uniform(0.72, 1.2)
        w, length = rng.uniform(0.4, 2.2), rng.uniform(0.5, 9.0)
        x1 = min(x0 + w, right)
        paint(scaled(road, tone), _level_rectangles(x0, x1, 0.0, near, near + length))
    paint_colour = mix(road, pick(rng, ((226.0, 226.0, 220.0), (222.0, 196.0, 96.0)), 6.0), 0.8)
    lanes = 2 if width < 9.0 else 3
    period, dash = rng.uniform(4.0, 9.0), rng.uniform(0.3, 0.6)
    z = np.arange(rng.uniform(1.4, 4.0), 90.0, period)
    for lane in range(1, lanes):
        if rng.uniform() < 0.85:
            x0 = left + width * lane / lanes
            paint(paint_colour, _level_rectangles(x0 - 0.07, x0 + 0.07, 0.0, z, z + period * dash))
    edge = pick(rng, ((214.0, 190.0, 80.0), (220.0, 220.0, 216.0)), 6.0)
    edge = mix(road, edge, rng.uniform(0.3, 0.9))
    for side in (-1, 1):
        if rng.uniform() < 0.5:
            x0 = street.kerb(side) - 0.35 * side
            paint(edge, _level_rectangles(x0 - 0.05, x0 + 0.05, 0.0, _DEPTHS[:-6], _DEPTHS[1:-5]))
    if rng.uniform() < 0.25:
        near = rng.uniform(7.0, 22.0)
        x = np.arange(left + 0.4, right - 0.5, 1.1)
        paint(paint_colour, _level_rectangles(x, x + 0.55, 0.0, near, near + 2.8))
