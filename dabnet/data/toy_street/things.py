"""Things in the street: buildings, trees, fences, lamps, signs, clutter, and the traffic."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dabnet.data.toy_street.canvas import (
    BICYCLIST,
    BUILDING,
    CAR,
    CIRCLE,
    DIAMOND,
    FENCE,
    IGNORE,
    KERB_HEIGHT,
    LEFT,
    METALS,
    NEAR,
    PAINTS,
    PEDESTRIAN,
    POLE,
    RIGHT,
    RING,
    SIGN,
    SQUARE,
    TOP,
    TREE,
    TRIANGLE,
    WALLS,
    Canvas,
    Colour,
    Floats,
    Part,
    Rng,
    Shape,
    Vector,
    disc,
    from_hex,
    frustum,
    mix,
    panels,
    pick,
    placed,
    rectangle,
    scaled,
    varied,
)

_ROOFS = from_hex("703e32 4e4c50 605044 3c3e42")
_LEAVES = from_hex("425c2c 546c34 344a2a 68703a 846032 584e3c")
_SIGNAL_LAMPS = from_hex("c8321e d2a028 32be6e")
# A sign's rim and its plate, pairwise.
_SIGN_RIMS = from_hex("be281e 285096 be281e 28643c 969696 e6e4de")
_SIGN_PLATES = from_hex("e6e4de 285096 be281e 28643c 828282 d2aa32")
_CLOTHES = from_hex("24262e 3c3e46 787674 2c3c6c 962e2c c4beb4 66543c 465c46 c8963c 7c466e")
_SKINS = from_hex("cea084 a8785c 6e4c3a e2b89e")
_HAIR = ((40, 32, 28), (110, 84, 54), (150, 146, 140))
_CAR_GLASS = (52.0, 60.0, 70.0)
_BLACK = (26.0, 26.0, 28.0)

# Kinds of fence; the railing stands on a low wall.
BOARDS, PICKETS, RAILING, GUARD_RAIL = range(4)
FENCE_COLOURS = from_hex("50463c 3c4640 787468 c8c4bc 8c6e50 5a5a5e 96866e")

# Half the length, the height of bonnet and roof, the lengths of boot and bonnet.
_CARS = (
    (1.95, 0.92, 1.45, 0.05, 1.0),  # hatchback
    (2.25, 0.92, 1.42, 0.75, 1.15),  # saloon
    (2.3, 0.92, 1.48, 0.02, 1.1),  # estate
    (2.2, 1.05, 1.75, 0.05, 1.0),  # off-roader
    (2.5, 1.15, 2.1, 0.0, 0.5),  # van
)


def _upright(w: float, top: float, height: float) -> Floats:
    """A post of half width ``w`` at its foot and ``top`` at its head."""
    return np.array([(-w, 0.0), (w, 0.0), (top, height), (-top, height)])


class _Facade(NamedTuple):
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
    x0, x1 = sorted((front, front + side * depth))
    wall = pick(rng, WALLS, 22.0)
    light = canvas.light
    if light.sun[0] * side > 0.05 and light.diffuse > 0.2:
        dx, dz = (max(-9.0, min(9.0, -light.sun[i] / light.sun[1] * height)) for i in (0, 2))
        low, far = (front, KERB_HEIGHT, z0), (front, KERB_HEIGHT, z1)
        moved = [(front + dx, 0.0, max(1.3, z + dz)) for z in (z1, z0)]
        canvas.shadow([low, far, *moved], 0.62)
    faces = frustum((x0, x1, z0, z1, 0.0), (x0, x1, z0, z1, height))
    seen = canvas.solid(BUILDING, wall, faces)
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
    colours = (glass, scaled(glass, 1.5), scaled(glass, 0.7), mix(glass, (200, 190, 150), 0.5))
    tones = [canvas.material(BUILDING, colour, depth, 0.85) for colour in colours]

    floor = np.arange(floors) / floors
    if depth > 38.0:
        bands = panels(face, 0.04, 0.96, floor + 0.3 / floors, floor + 0.75 / floors)
        canvas.paint([tones[0]] * floors, bands)
        return
    column, row = (a.ravel() for a in np.meshgrid(np.arange(columns) / columns, floor))
    keep = row > (0.0 if facade.shop else -1.0)
    column, row = column[keep], row[keep]
    s0, s1 = (column + (0.5 + half * facade.share / 2) / columns for half in (-1, 1))
    t0, t1 = row + 0.28 / floors, row + 0.80 / floors
    if depth < 20.0:
        wide, frame = 0.05 / columns, canvas.material(BUILDING, facade.trim, depth)
        canvas.paint([frame] * len(s0), panels(face, s0 - wide, s1 + wide, t0 - 0.02 / floors, t1))
    chosen = [tones[i] for i in rng.integers(0, 4, len(s0)).tolist()]
    canvas.paint(chosen, panels(face, s0, s1, t0, t1))
    if facade.shop:
        sign = (pick(rng, PAINTS, 30.0), 0.02, 0.98, 0.78 / floors, 0.98 / floors)
        canvas.decorate(BUILDING, face, depth, [sign])
        spans = ((colours[2], 0.02, 0.48), (colours[0], 0.52, 0.98))
        panes = [(c, s0, s1, 0.08 / floors, 0.74 / floors) for c, s0, s1 in spans]
        canvas.decorate(BUILDING, face, depth, panes, 0.85)
    else:
        door = pick(rng, PAINTS, 20.0)
        at = (int(rng.integers(columns)) + 0.3) / columns
        part = (door, at, at + 0.4 / columns, 0.0, 0.72 / floors)
        canvas.decorate(BUILDING, face, depth, [part])


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
        canvas.figure(TREE, [(bark, _upright(w, w * 0.6, height * 0.7))], at)
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
    bright = canvas.light.facing((0, 0, -1))
    tones = [canvas.material(TREE, leaf, z, bright * f, 0.12, 0.2) for f in (0.6, 0.85, 1.05, 1.3)]
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
    dark = scaled(colour, 0.72)
    # Beyond some depth gaps are finer than any pixel: there a fence is a closed surface.
    parts: list[Part]
    if kind == BOARDS or z0 > 26.0:
        parts = [(colour, 0.0, 1.0, 0.0, 1.0), (dark, 0.0, 1.0, 0.0, 0.08)]
        parts += [(dark, i / 8, i / 8 + 0.02, 0.0, 1.0) for i in range(8) if z0 < 26.0]
    elif kind == GUARD_RAIL:
        parts = [(dark, s, s + 0.05, 0.0, 1.0) for s in (0.0, 0.5)]
        parts += [(colour, 0.0, 1.0, 0.45, 1.0), (dark, 0.0, 1.0, 0.66, 0.72)]
    else:
        base, wide = (0.4, 0.04) if kind == RAILING else (0.0, 0.085)
        parts = [(colour, i / 8, i / 8 + wide, base, 1.0) for i in range(8)]
        parts += [(dark, 0.0, 1.0, base, base + 0.12), (dark, 0.0, 1.0, 0.85, 0.92)]
        parts += [(dark, 0.0, 1.0, 0.0, base)] if base else []
    bright = canvas.light.facing((-1.0 if x0 > 0 else 1.0, 0.0, 0.0))
    canvas.decorate(FENCE, face, z0, parts, bright)


def draw_lamp(canvas: Canvas, rng: Rng, side: int, at: Vector) -> None:
    """Paint a street lamp or a plain post (class pole)."""
    colour, h, w = pick(rng, METALS), rng.uniform(4.5, 8.5), rng.uniform(0.05, 0.1)
    shapes: list[Shape] = [(colour, _upright(w, w * 0.6, h))]
    if rng.uniform() < 0.75:
        reach = -side * rng.uniform(0.8, 1.8)
        arm = np.array([(0, h - 0.1), (reach, h + 0.25), (reach, h + 0.37), (0, h + 0.05)])
        head = np.array([(reach, h + 0.2), (reach * 1.4, h + 0.25), (reach * 1.4, h + 0.4)])
        shapes += [(colour, arm), (scaled(colour, 1.3), head)]
    shapes.append((scaled(colour, 0.8), rectangle(-w * 1.6, w * 1.6, 0.0, 0.9)))
    canvas.figure(POLE, shapes, at)


def draw_sign(canvas: Canvas, rng: Rng, at: Vector) -> None:
    """Paint a traffic sign, a direction board or traffic lights on its pole."""
    kind, top, w = int(rng.integers(8)), rng.uniform(2.3, 3.2), rng.uniform(0.035, 0.06)
    metal = pick(rng, METALS)
    canvas.figure(POLE, [(metal, rectangle(-w, w, 0.0, top))], at)
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
    canvas.figure(SIGN, shapes, (at[0], at[1] + top, at[2]), yaw=rng.uniform(-0.4, 0.4))


def draw_clutter(canvas: Canvas, rng: Rng, at: Vector) -> None:
    """Paint what CamVid leaves unlabelled: bins, boxes, skips, low walls."""
    w, h, depth = rng.uniform(0.25, 0.8), rng.uniform(0.5, 1.3), rng.uniform(0.25, 0.7)
    yaw, taper = rng.uniform(-0.4, 0.4), rng.uniform(0.75, 1.15)
    box = frustum((-w, w, -depth, depth, 0.0), (-w * taper, w * taper, -depth, depth, h))
    box = placed(box, at, yaw)
    colour = pick(rng, (PAINTS, METALS, WALLS)[int(rng.integers(3))])
    stripe = (scaled(colour, 0.6), 0.0, 1.0, 0.75, 0.85)
    for i in canvas.solid(IGNORE, colour, box, yaw)[:2]:
        canvas.decorate(IGNORE, box[i], at[2], [stripe])


def draw_car(canvas: Canvas, rng: Rng, at: Vector, yaw: float, ahead: bool) -> None:
    """Paint one of ``_CARS``; ``ahead``: its tail is near."""
    w = rng.uniform(0.84, 0.94)
    half, deck, roof, boot, bonnet = _CARS[int(rng.integers(5))]
    paint = pick(rng, PAINTS)
    z0, z1 = -half, half
    foot = placed(np.array([(-w, 0, z0), (w, 0, z0), (w, 0, z1), (-w, 0, z1)]) * 1.08, at, yaw)
    canvas.shadow(foot - np.array([0.5 * canvas.light.sun[0], 0.0, 0.0]), 0.45)
    body = frustum((-w, w, z0, z1, 0.26), (-w * 0.97, w * 0.97, z0 + 0.06, z1 - 0.06, deck))
    lean = 0.55 if roof < 1.6 else 0.3
    # Of each end: how far the cabin stands back, and how far its window leans.
    ends = [(boot, 0.3 if boot < 0.5 else lean), (bonnet, lean)]
    (near, near_lean), (far, far_lean) = ends if ahead else ends[::-1]
    low = (-w * 0.95, w * 0.95, z0 + near + 0.06, z1 - far - 0.06, deck)
    cabin = frustum(low, (-w * 0.78, w * 0.78, low[2] + near_lean, low[3] - far_lean, roof))
    body, cabin = placed(body, at, yaw), placed(cabin, at, yaw)
    tyre = canvas.material(CAR, _BLACK, at[2])
    hub = canvas.material(CAR, (128.0, 128.0, 130.0), at[2])
    behind = [rectangle(-w, -w + 0.22, 0.0, 0.4), rectangle(w - 0.22, w, 0.0, 0.4)]
    canvas.paint([tyre] * 2, placed(np.insert(behind, 2, z0 + 0.1, axis=2), at, yaw))
    seen = canvas.solid(CAR, paint, body, yaw)
    wheels = [
        np.stack([np.full(12, x), 0.32 + radius * CIRCLE[:, 1], z + radius * CIRCLE[:, 0]], axis=-1)
        for face, x in ((RIGHT, w + 0.01), (LEFT, -(w + 0.01)))
        if face in seen
        for z in (z0 + 0.8, z1 - 0.85)
        for radius in (0.32, 0.17)
    ]
    if wheels:
        canvas.paint([tyre, hub] * (len(wheels) // 2), placed(np.array(wheels), at, yaw))
    glass = varied(rng, _CAR_GLASS, 16.0)
    for i in canvas.solid(CAR, paint, cabin, yaw):
        if i != TOP:
            spans = ((0.05, 0.47), (0.53, 0.95)) if i in (RIGHT, LEFT) else ((0.07, 0.93),)
            panes = [(glass, *span, 0.12, 0.88) for span in spans]
            canvas.decorate(CAR, cabin[i], at[2], panes, 0.9)
    if NEAR in seen:
        # Lights, bumper and number plate, and in front a radiator grille.
        lights = (176.0, 30.0, 28.0) if ahead else (236.0, 236.0, 220.0)
        parts = [
            (lights, 0.03, 0.2, 0.55, 0.8),
            (lights, 0.8, 0.97, 0.55, 0.8),
            (scaled(paint, 0.55), 0.0, 1.0, 0.0, 0.22),
            ((210.0, 206.0, 180.0), 0.38, 0.62, 0.28, 0.42),
            (_BLACK, 0.25, 0.75, 0.5, 0.72),
        ]
        canvas.decorate(CAR, body[NEAR], at[2], parts[:4] if ahead else parts)


def _person(rng: Rng, stride: float, lean: float = 0.0) -> list[Shape]:
    """Return a person one unit high who stands at 0; ``stride`` spreads the legs."""
    coat, trousers, skin = pick(rng, _CLOTHES), pick(rng, _CLOTHES), pick(rng, _SKINS)
    hair, wide = pick(rng, _HAIR), rng.uniform(0.1, 0.14)
    hem = rng.uniform(0.36, 0.5)
    sleeve = scaled(coat, 0.8)
    arm = np.array([(wide, 0.8), (wide + 0.05 + stride, 0.45), (wide + stride, 0.43), (0, 0.7)])
    torso = np.array([(-wide, hem), (wide, hem), (wide + lean, 0.82), (-wide + lean, 0.82)])
    return [
        *(
            (scaled(trousers, f), np.array([(0, 0.5), (x - 0.04, 0), (x + 0.06, 0), (d, 0.52)]))
            for x, f, d in ((-stride, 0.8, 0.1), (stride, 1.0, -0.1))
        ),
        (sleeve, arm * (-1.0, 1.0)),
        (sleeve, arm),
        (coat, torso),
        (hair, CIRCLE * (0.066, 0.075) + (lean * 1.3, 0.925)),
        (skin, CIRCLE * (0.052, 0.06) + (lean * 1.3 + 0.01, 0.905)),
    ]


def draw_pedestrian(canvas: Canvas, rng: Rng, at: Vector) -> None:
    """Paint an adult or a child, some with a bag."""
    height = rng.uniform(1.55, 1.9) if rng.uniform() < 0.85 else rng.uniform(1.0, 1.4)
    shapes = _person(rng, rng.uniform(0.0, 0.13))
    if rng.uniform() < 0.4:
        shapes.append((pick(rng, _CLOTHES), rectangle(0.1, 0.22, 0.28, 0.46)))
    canvas.shadow(disc(at[0], at[2], 0.45, 0.3), 0.6)
    canvas.figure(PEDESTRIAN, shapes, at, height)


def draw_bicyclist(canvas: Canvas, rng: Rng, at: Vector, across: bool) -> None:
    """Paint a rider on a bicycle, seen from the side (``across``) or from behind."""
    frame, tyre = pick(rng, PAINTS), (32.0, 32.0, 34.0)
    person = [(c, p * 1.55 + (0.0, 0.35)) for c, p in _person(rng, 0.06, 0.16 if across else 0.0)]
    canvas.shadow(disc(at[0], at[2], 0.9 if across else 0.4, 0.4), 0.6)
    if across:
        flip = -1.0 if rng.uniform() < 0.5 else 1.0
        tube = np.array([(-0.52, 0.34), (-0.15, 0.85), (0.4, 0.85), (0.52, 0.34), (0.44, 0.34)])
        inner = np.array([(0.33, 0.77), (-0.1, 0.77), (0.0, 0.36)])
        bar = np.array([(0.36, 0.8), (0.3, 1.1), (0.5, 1.06), (0.44, 0.8)])
        wheels: list[Shape] = [(tyre, RING * 0.34 + (x, 0.34)) for x in (-0.52, 0.52)]
        shapes = [*wheels, *person, (frame, np.concatenate([tube, inner])), (tyre, bar)]
        shapes = [(c, p * (flip, 1.0)) for c, p in shapes]
    else:
        wheel, bar = rectangle(-0.045, 0.045, 0.0, 0.68), rectangle(-0.3, 0.3, 0.98, 1.04)
        shapes = [(tyre, wheel), (frame, bar), *person, (frame, rectangle(-0.07, 0.07, 0.62, 0.9))]
    canvas.figure(BICYCLIST, shapes, at)


def draw_bonnet(canvas: Canvas, rng: Rng) -> None:
    """Paint the bonnet of the car that carries the camera (ignored)."""
    colour, top, reach = pick(rng, PAINTS), rng.uniform(0.9, 0.97), rng.uniform(0.6, 0.9)
    for i, y in enumerate(np.linspace(top, 1.0, 5).tolist()):
        arc = [(u * reach, y + (1.0 - top) * u * u) for u in np.linspace(-1.3, 1.3, 15).tolist()]
        shape = [*arc, (1.5, 1.1), (-1.5, 1.1)]
        canvas.paint_flat([canvas.material(IGNORE, scaled(colour, 1.0 - 0.1 * i), 0.0)], [shape])
