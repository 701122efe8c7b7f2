"""Geometry of what stands in the street. Lengths are metres.

Solids are frusta with outward faces; flat things (people, signs, lamps) are figures in a plane
that faces the camera, or nearly so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from dabnet.data.toy_street.canvas import Canvas, Floats, Vector
from dabnet.data.toy_street.colours import Colour

# The faces of a frustum, in order.
NEAR, RIGHT, FAR, LEFT, TOP = range(5)

_ANGLES = [2.0 * math.pi * i / 12 for i in range(12)]
CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in _ANGLES])
SQUARE = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
TRIANGLE = np.array([(-1.0, -0.8), (1.0, -0.8), (0.0, 1.0)])
DIAMOND = np.array([(0.0, -1.1), (1.1, 0.0), (0.0, 1.1), (-1.1, 0.0)])
RING = np.concatenate([CIRCLE, CIRCLE[:1], CIRCLE[:1] * 0.84, CIRCLE[::-1] * 0.84])

Shape = tuple[Colour, Floats]


def rectangle(x0: float, x1: float, y0: float, y1: float) -> Floats:
    """Return the corners (4, 2) of a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def figure(
    canvas: Canvas,
    label: int,
    shapes: Iterable[Shape],
    at: Vector,
    scale: float = 1.0,
    yaw: float = 0.0,
) -> None:
    """Paint plane shapes (colour, points (n, 2)) that stand at ``at``, turned by ``yaw``."""
    across = scale * np.array([math.cos(yaw), 0.0, math.sin(yaw)])
    frame = np.array([across, (0.0, scale, 0.0)])
    shapes = list(shapes)
    points = np.concatenate([points for _, points in shapes])
    projected = canvas.camera.project(points @ frame + at)
    first = 0
    for colour, points in shapes:
        corners = projected[first : first + len(points)]
        canvas.paint_flat([canvas.material(label, colour, at[2])], corners[None])
        first += len(points)


def frustum(
    low: tuple[float, float, float, float, float], high: tuple[float, float, float, float, float]
) -> Floats:
    """Return the five faces (5, 4, 3), ``NEAR`` to ``TOP``, between two (x0, x1, z0, z1, y).

    Corners run bottom left, bottom right, top right, top left as seen from outside.
    """
    x0, x1, z0, z1, y = low
    a, b, c, d = (x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)
    x0, x1, z0, z1, y = high
    e, f, g, h = (x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)
    return np.array(
        [(a, b, f, e), (b, c, g, f), (c, d, h, g), (d, a, e, h), (e, f, g, h)], dtype=np.float64
    )


def placed(local: Floats, at: Vector, yaw: float) -> Floats:
    """Turn points (…, 3) by ``yaw`` about the upright axis and move them to ``at``."""
    c, s = math.cos(yaw), math.sin(yaw)
    x, y, z = local[..., 0], local[..., 1], local[..., 2]
    return np.stack([at[0] + c * x - s * z, at[1] + y, at[2] + s * x + c * z], axis=-1)


def solid(canvas: Canvas, label: int, colour: Colour, faces: Floats, yaw: float = 0.0) -> list[int]:
    """Paint the visible ones of a frustum's five faces and return which they are."""
    p = canvas.camera.project(faces)
    d, e = p[:, 2] - p[:, 0], p[:, 3] - p[:, 1]
    seen: list[int] = np.flatnonzero(d[:, 0] * e[:, 1] - d[:, 1] * e[:, 0] < 0.0).tolist()
    c, s = math.cos(yaw), math.sin(yaw)
    normals: tuple[Vector, ...] = ((s, 0, -c), (c, 0, s), (-s, 0, c), (-c, 0, -s), (0, 1, 0))
    depth = float(faces[0, :, 2].mean())
    bright = [canvas.light.facing(normals[i]) for i in seen]
    canvas.paint_flat([canvas.material(label, colour, depth, b) for b in bright], p[seen])
    return seen


def panels(face: Floats, s0: ArrayLike, s1: ArrayLike, t0: ArrayLike, t1: ArrayLike) -> Floats:
    """Return rectangles (n, 4, 3) in a face; s runs 0…1 from left to right, t from below."""
    spans = np.empty((np.broadcast(s0, s1, t0, t1).size, 4, 2, 1))
    spans[:, 0, 0, 0] = spans[:, 3, 0, 0] = s0
    spans[:, 1, 0, 0] = spans[:, 2, 0, 0] = s1
    spans[:, 0, 1, 0] = spans[:, 1, 1, 0] = t0
    spans[:, 2, 1, 0] = spans[:, 3, 1, 0] = t1
    s, t = spans[:, :, 0], spans[:, :, 1]
    below: Floats = face[0] + s * (face[1] - face[0])
    above: Floats = face[3] + s * (face[2] - face[3])
    return below + t * (above - below)


def disc(x: float, z: float, rx: float, rz: float) -> Floats:
    """Return an ellipse (12, 3) that lies on the road, for shadows."""
    c = CIRCLE
    return np.stack([x + rx * c[:, 0], np.zeros(12), np.maximum(z + rz * c[:, 1], 1.3)], axis=-1)
