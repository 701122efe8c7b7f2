"""Buildings: houses and blocks with windows, doors, shops and roofs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dabnet.data.toy_street.canvas import BUILDING, Canvas, Floats
from dabnet.data.toy_street.colours import (
    PAINTS,
    WALLS,
    Colour,
    Rng,
    from_hex,
    mix,
    pick,
    scaled,
    varied,
)
from dabnet.data.toy_street.ground import KERB_HEIGHT
from dabnet.data.toy_street.shapes import LEFT, NEAR, RIGHT, frustum, panels, solid

_ROOFS = from_hex("703e32 4e4c50 605044 3c3e42")


@dataclass(frozen=True, slots=True)
class _Facade:
    """The windows of one building: share of a bay that is glass; shop: a glazed ground floor."""

    glass: Colour
    trim: Colour
    share: float
    shop: bool


def draw_building(
    canvas: Canvas, rng: Rng, side: int, front: float, z0: float, z1: float, height: float
) -> None:
    """Paint a house or block whose front faces the street, with windows, door and roof."""
    depth = rng.uniform(7.0, 12.0)
    back = front + side * depth
    x0, x1 = min(front, back), max(front, back)
    wall = pick(rng, WALLS, 22.0)
    light = canvas.light
    if light.sun[0] * side > 0.05 and light.diffuse > 0.2:
        dx = max(-9.0, min(9.0, -light.sun[0] / light.sun[1] * height))
        dz = max(-9.0, min(9.0, -light.sun[2] / light.sun[1] * height))
        low, far = (front, KERB_HEIGHT, z0), (front, KERB_HEIGHT, z1)
        moved = [(front + dx, 0.0, max(1.3, z + dz)) for z in (z1, z0)]
        canvas.shadow([low, far, *moved], 0.62)
    faces = frustum((x0, x1, z0, z1, 0.0), (x0, x1, z0, z1, height))
    seen = solid(canvas, BUILDING, wall, faces)
    if height < 11.0 and rng.uniform() < 0.7:
        _draw_roof(canvas, pick(rng, _ROOFS), wall, (x0, x1, z0, z1), side, height, rng)
    glass = pick(rng, ((48, 54, 62), (90, 100, 112), (70, 62, 54)), 12.0)
    facade = _Facade(
        glass=mix(glass, light.haze, 0.15),
        trim=varied(rng, mix(wall, (220, 216, 208), rng.uniform(0.0, 0.7)), 10.0),
        share=rng.uniform(0.4, 0.66),
        shop=rng.uniform() < 0.35,
    )
    for i in seen:
        if i in (NEAR, RIGHT, LEFT):
            length = depth if i == NEAR else z1 - z0
            _draw_windows(canvas, rng, facade, faces[i], (length, height), z0)


def _draw_roof(
    canvas: Canvas,
    colour: Colour,
    wall: Colour,
    base: tuple[float, float, float, float],
    side: int,
    height: float,
    rng: Rng,
) -> None:
    x0, x1, z0, z1 = base
    ridge, middle = height + rng.uniform(1.5, 3.6), (x0 + x1) / 2.0
    eave = x0 if side > 0 else x1
    slope = [(eave, height, z0), (eave, height, z1), (middle, ridge, z1), (middle, ridge, z0)]
    a, b, c = canvas.camera.project(slope[:3]).tolist()
    turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    # From close by one looks at the slope from below: the wall hides it.
    if turn * side > 0.0:
        lit = canvas.light.facing((-0.5 * side, 0.8, 0.0))
        canvas.paint([canvas.material(BUILDING, colour, z0, lit, blotch=0.1)], [slope])
    gable = [(x0, height, z0), (x1, height, z0), (middle, ridge, z0)]
    canvas.paint([canvas.material(BUILDING, wall, z0)], [gable])


def _draw_windows(
    canvas: Canvas,
    rng: Rng,
    facade: _Facade,
    face: Floats,
    size: tuple[float, float],
    depth: float,
) -> None:
    """Paint windows into a face of (length, height); far floors become bands, alike from there."""
    (length, height), glass = size, facade.glass
    floors = max(1, min(7, int(height / 3.0)))
    columns = max(1, min(9, int(length / 2.6)))
    tones = [
        canvas.material(BUILDING, c, depth, 0.85)
        for c in (glass, scaled(glass, 1.5), scaled(glass, 0.7), mix(glass, (200, 190, 150), 0.5))
    ]
    frame = canvas.material(BUILDING, facade.trim, depth)
    floor = np.arange(floors) / floors
    if depth > 38.0:
        canvas.paint(
            [tones[0]] * floors,
            panels(face, 0.04, 0.96, floor + 0.3 / floors, floor + 0.75 / floors),
        )
        return
    column, row = (a.ravel() for a in np.meshgrid(np.arange(columns) / columns, floor))
    keep = row > (0.0 if facade.shop else -1.0)
    column, row = column[keep], row[keep]
    s0, s1 = (
        column + (0.5 - facade.share / 2) / columns,
        column + (0.5 + facade.share / 2) / columns,
    )
    t0, t1 = row + 0.28 / floors, row + 0.80 / floors
    if depth < 20.0:
        wide = 0.05 / columns
        canvas.paint([frame] * len(s0), panels(face, s0 - wide, s1 + wide, t0 - 0.02 / floors, t1))
    chosen = [tones[i] for i in rng.integers(0, 4, len(s0)).tolist()]
    canvas.paint(chosen, panels(face, s0, s1, t0, t1))
    if facade.shop:
        sign = canvas.material(BUILDING, pick(rng, PAINTS, 30.0), depth)
        band = panels(
            face,
            (0.02, 0.02, 0.52),
            (0.98, 0.48, 0.98),
            (0.78 / floors, 0.08 / floors, 0.08 / floors),
            (0.98 / floors, 0.74 / floors, 0.74 / floors),
        )
        canvas.paint([sign, tones[2], tones[0]], band)
    else:
        door = canvas.material(BUILDING, pick(rng, PAINTS, 20.0), depth)
        at = (int(rng.integers(columns)) + 0.3) / columns
        canvas.paint([door], panels(face, at, at + 0.4 / columns, 0.0, 0.72 / floors))
