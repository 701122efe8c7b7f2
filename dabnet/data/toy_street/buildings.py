"""Buildings: houses and blocks with windows, doors, shops and roofs.

What lines the street: trees, fences, lamps, signs and clutter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dabnet.data.toy_street.canvas import (
    BUILDING,
    CIRCLE,
    DIAMOND,
    FENCE,
    IGNORE,
    LEFT,
    METALS,
    NEAR,
    PAINTS,
    POLE,
    RIGHT,
    SIGN,
    SQUARE,
    TREE,
    TRIANGLE,
    WALLS,
    Canvas,
    Colour,
    Floats,
    Rng,
    Shape,
    Vector,
    disc,
    figure,
    from_hex,
    frustum,
    mix,
    panels,
    pick,
    placed,
    rectangle,
    scaled,
    solid,
    varied,
)
from dabnet.data.toy_street.ground import KERB_HEIGHT

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


# Kinds of fence; the railing stands on a low wall.
BOARDS, PICKETS, RAILING, GUARD_RAIL = range(4)
FENCE_COLOURS = from_hex("50463c 3c4640 787468 c8c4bc 8c6e50 5a5a5e 96866e")
_LEAVES = from_hex("425c2c 546c34 344a2a 68703a 846032 584e3c")
_SIGNAL_LAMPS = from_hex("c8321e d2a028 32be6e")
# A sign's rim and its plate, pairwise.
_SIGN_RIMS = from_hex("be281e 285096 be281e 28643c 969696 e6e4de")
_SIGN_PLATES = from_hex("e6e4de 285096 be281e 28643c 828282 d2aa32")


def draw_tree(canvas: Canvas, rng: Rng, at: Vector, height: float, trunk: bool = True) -> None:
    """Paint a tree, or a bush without trunk; half of them have a fringe of ignored twigs."""
    leaf = pick(rng, _LEAVES, 18.0)
    x, y, z = at
    radius = height * rng.uniform(0.24, 0.36) if trunk else height * 0.6
    low = height * rng.uniform(0.28, 0.42) if trunk else 0.0
    n = 26 if z < 18.0 else 15 if z < 40.0 else 7
    conifer = trunk and rng.uniform() < 0.2
    canvas.shadow(disc(x - canvas.light.sun[0] * 2.0, z, radius, radius), 0.7)
    if trunk:
        w = height * rng.uniform(0.012, 0.03)
        bark = varied(rng, (84, 70, 58), 16.0)
        shape = np.array([(-w, 0.0), (w, 0.0), (w * 0.6, height * 0.7), (-w * 0.6, height * 0.7)])
        figure(canvas, TREE, [(bark, shape)], at)
    t = rng.uniform(0.0, 1.0, n)
    spread = (1.0 - t) * 0.8 if conifer else 0.9 * np.sqrt(np.maximum(0.0, 1.0 - (2 * t - 1) ** 2))
    dx = rng.uniform(-1.0, 1.0, n) * spread * radius
    dy = low + t * (height - low)
    size = radius * rng.uniform(0.22, 0.5, n) * (0.6 if conifer else 1.0)
    wobble = rng.uniform(0.7, 1.2, (n, 12, 1))
    blobs = CIRCLE[None] * size[:, None, None] * wobble + np.stack([dx, dy], -1)[:, None]
    blobs[..., 1] = np.maximum(blobs[..., 1], 0.0)
    points = np.stack([x + blobs[..., 0], y + blobs[..., 1], np.full(blobs.shape[:2], z)], -1)
    if trunk and rng.uniform() < 0.5 and z < 35.0:
        fringe = canvas.material(IGNORE, scaled(leaf, 0.8), z, 0.7, 0.12, 0.2)
        centre = points.mean(axis=1, keepdims=True)
        canvas.paint([fringe] * n, centre + (points - centre) * 1.12)
    tones = [
        canvas.material(TREE, leaf, z, canvas.light.facing((0, 0, -1)) * f, 0.12, 0.2)
        for f in (0.6, 0.85, 1.05, 1.3)
    ]
    sunny = 2.0 * t + dx / radius * canvas.light.sun[0] + rng.uniform(-0.4, 0.4, n)
    order = np.argsort(sunny, kind="stable")
    level = np.clip(((sunny + 0.6) * 1.4).astype(int), 0, 3)
    canvas.paint([tones[i] for i in level[order].tolist()], points[order])


def draw_fence(
    canvas: Canvas, kind: int, colour: Colour, start: Vector, stop: Vector, height: float
) -> None:
    """Paint one panel of a fence of one of the four kinds."""
    (x0, y, z0), (x1, _, z1) = start, stop
    face = np.array([(x0, y, z0), (x1, y, z1), (x1, y + height, z1), (x0, y + height, z0)])
    bright = canvas.light.facing((-1.0 if x0 > 0 else 1.0, 0.0, 0.0))
    near = canvas.material(FENCE, colour, z0, bright)
    dark = canvas.material(FENCE, scaled(colour, 0.72), z0, bright)
    # Rows of s0, s1, t0, t1, dark. Beyond some depth gaps are finer than any pixel: there a
    # fence is a closed surface.
    if kind == BOARDS or z0 > 26.0:
        rows = [(0.0, 1.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.08, 1.0)]
        rows += [(i / 8, i / 8 + 0.02, 0.0, 1.0, 1.0) for i in range(8) if z0 < 26.0]
    elif kind == GUARD_RAIL:
        rows = [(s, s + 0.05, 0.0, 1.0, 1.0) for s in (0.0, 0.5)]
        rows += [(0.0, 1.0, 0.45, 1.0, 0.0), (0.0, 1.0, 0.66, 0.72, 1.0)]
    else:
        base, wide = (0.4, 0.04) if kind == RAILING else (0.0, 0.085)
        rows = [(i / 8, i / 8 + wide, base, 1.0, 0.0) for i in range(8)]
        rows += [(0.0, 1.0, base, base + 0.12, 1.0), (0.0, 1.0, 0.85, 0.92, 1.0)]
        if base:
            rows.append((0.0, 1.0, 0.0, base, 1.0))
    s0, s1, t0, t1, is_dark = np.array(rows).T
    canvas.paint([dark if d else near for d in is_dark], panels(face, s0, s1, t0, t1))


def draw_lamp(canvas: Canvas, rng: Rng, side: int, at: Vector) -> None:
    """Paint a street lamp or a plain post (class pole)."""
    colour, h, w = pick(rng, METALS), rng.uniform(4.5, 8.5), rng.uniform(0.05, 0.1)
    shapes: list[Shape] = [(colour, np.array([(-w, 0), (w, 0), (w * 0.6, h), (-w * 0.6, h)]))]
    if rng.uniform() < 0.75:
        reach = -side * rng.uniform(0.8, 1.8)
        arm = np.array([(0, h - 0.1), (reach, h + 0.25), (reach, h + 0.37), (0, h + 0.05)])
        x = np.array([(reach, h + 0.2), (reach * 1.4, h + 0.25), (reach * 1.4, h + 0.4)])
        shapes += [(colour, arm), (scaled(colour, 1.3), x)]
    shapes.append((scaled(colour, 0.8), rectangle(-w * 1.6, w * 1.6, 0.0, 0.9)))
    figure(canvas, POLE, shapes, at)


def draw_sign(canvas: Canvas, rng: Rng, at: Vector) -> None:
    """Paint a traffic sign, a direction board or traffic lights on its pole."""
    kind, top, w = int(rng.integers(8)), rng.uniform(2.3, 3.2), rng.uniform(0.035, 0.06)
    metal = pick(rng, METALS)
    figure(canvas, POLE, [(metal, rectangle(-w, w, 0.0, top))], at)
    if kind >= 6:
        shapes: list[Shape] = [((34.0, 36.0, 36.0), SQUARE * (0.24, 0.58))]
        lit = int(rng.integers(3))
        for i, lamp in enumerate(_SIGNAL_LAMPS):
            glow = lamp if i == lit else scaled(lamp, 0.3)
            shapes.append((glow, CIRCLE * 0.15 + (0.0, 0.37 - 0.37 * i)))
    else:
        style = int(rng.integers(len(_SIGN_RIMS)))
        rim, plate = _SIGN_RIMS[style], _SIGN_PLATES[style]
        if kind == 5:
            outline = SQUARE * (rng.uniform(1.5, 2.6), 1.0)
        else:
            outline = (CIRCLE, CIRCLE, TRIANGLE, SQUARE * (0.8, 1.0), DIAMOND)[kind]
        size = rng.uniform(0.34, 0.5)
        mark = rectangle(-0.5, 0.5, -0.15, 0.2) * (outline[:, 0].max(), 1.0) * size
        ink = (232.0, 232.0, 228.0) if plate[0] < 160.0 else (20.0, 20.0, 24.0)
        shapes = [(rim, outline * size), (plate, outline * size * 0.78), (ink, mark)]
    figure(canvas, SIGN, shapes, (at[0], at[1] + top, at[2]), yaw=rng.uniform(-0.4, 0.4))


def draw_clutter(canvas: Canvas, rng: Rng, at: Vector) -> None:
    """Paint what CamVid leaves unlabelled: bins, boxes, skips, low walls."""
    w, h, depth = rng.uniform(0.25, 0.8), rng.uniform(0.5, 1.3), rng.uniform(0.25, 0.7)
    yaw, taper = rng.uniform(-0.4, 0.4), rng.uniform(0.75, 1.15)
    box = frustum((-w, w, -depth, depth, 0.0), (-w * taper, w * taper, -depth, depth, h))
    box = placed(box, at, yaw)
    colour = pick(rng, (PAINTS, METALS, WALLS)[int(rng.integers(3))])
    seen = solid(canvas, IGNORE, colour, box, yaw)
    stripe = canvas.material(IGNORE, scaled(colour, 0.6), at[2])
    for i in seen[:2]:
        canvas.paint([stripe], panels(box[i], 0.0, 1.0, 0.75, 0.85))
