"""Traffic: cars, pedestrians, bicyclists, and the bonnet of the camera's own car."""

from __future__ import annotations

import numpy as np

from dabnet.data.toy_street.canvas import (
    BICYCLIST,
    CAR,
    CIRCLE,
    IGNORE,
    LEFT,
    NEAR,
    PAINTS,
    PEDESTRIAN,
    RIGHT,
    RING,
    TOP,
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
    panels,
    pick,
    placed,
    rectangle,
    scaled,
    solid,
    varied,
)

_CLOTHES = from_hex("24262e 3c3e46 787674 2c3c6c 962e2c c4beb4 66543c 465c46 c8963c 7c466e")
_SKINS = from_hex("cea084 a8785c 6e4c3a e2b89e")
_GLASS: Colour = (52.0, 60.0, 70.0)
_BLACK: Colour = (26.0, 26.0, 28.0)


def draw_car(canvas: Canvas, rng: Rng, at: Vector, yaw: float, ahead: bool) -> None:
    """Paint a hatchback, saloon, estate, off-roader or van; ``ahead``: its tail is near."""
    w = rng.uniform(0.84, 0.94)
    # Half the length, the height of bonnet and roof, the lengths of boot and bonnet.
    half, deck, roof, boot, bonnet = (
        (1.95, 0.92, 1.45, 0.05, 1.0),
        (2.25, 0.92, 1.42, 0.75, 1.15),
        (2.3, 0.92, 1.48, 0.02, 1.1),
        (2.2, 1.05, 1.75, 0.05, 1.0),
        (2.5, 1.15, 2.1, 0.0, 0.5),
    )[int(rng.integers(5))]
    near, far = (boot, bonnet) if ahead else (bonnet, boot)
    paint = pick(rng, PAINTS)
    z0, z1 = -half, half
    foot = placed(np.array([(-w, 0, z0), (w, 0, z0), (w, 0, z1), (-w, 0, z1)]) * 1.08, at, yaw)
    canvas.shadow(foot - np.array([0.5 * canvas.light.sun[0], 0.0, 0.0]), 0.45)
    body = frustum((-w, w, z0, z1, 0.26), (-w * 0.97, w * 0.97, z0 + 0.06, z1 - 0.06, deck))
    low = (-w * 0.95, w * 0.95, z0 + near + 0.06, z1 - far - 0.06, deck)
    lean = 0.55 if roof < 1.6 else 0.3
    tail = 0.3 if boot < 0.5 else lean
    near_lean, far_lean = (tail, lean) if ahead else (lean, tail)
    cabin = frustum(low, (-w * 0.78, w * 0.78, low[2] + near_lean, low[3] - far_lean, roof))
    body, cabin = placed(body, at, yaw), placed(cabin, at, yaw)
    tyre = canvas.material(CAR, _BLACK, at[2])
    hub = canvas.material(CAR, (128.0, 128.0, 130.0), at[2])
    ends = [rectangle(-w, -w + 0.22, 0.0, 0.4), rectangle(w - 0.22, w, 0.0, 0.4)]
    flat = [np.insert(e, 2, z0 + 0.1, axis=1) for e in ends]
    canvas.paint([tyre, tyre], placed(np.array(flat), at, yaw))
    seen = solid(canvas, CAR, paint, body, yaw)
    wheels = [
        np.stack([np.full(12, x), 0.32 + radius * CIRCLE[:, 1], z + radius * CIRCLE[:, 0]], axis=-1)
        for face, x in ((RIGHT, w + 0.01), (LEFT, -(w + 0.01)))
        if face in seen
        for z in (z0 + 0.8, z1 - 0.85)
        for radius in (0.32, 0.17)
    ]
    if wheels:
        canvas.paint([tyre, hub] * (len(wheels) // 2), placed(np.array(wheels), at, yaw))
    glass = canvas.material(CAR, varied(rng, _GLASS, 16.0), at[2], 0.9)
    for i in solid(canvas, CAR, paint, cabin, yaw):
        if i != TOP:
            s0, s1 = ((0.05, 0.53), (0.47, 0.95)) if i in (RIGHT, LEFT) else ((0.07,), (0.93,))
            canvas.paint([glass] * len(s0), panels(cabin[i], s0, s1, 0.12, 0.88))
    if NEAR in seen:
        _draw_car_end(canvas, body[NEAR], paint, at[2], ahead)


def _draw_car_end(canvas: Canvas, face: Floats, paint: Colour, depth: float, tail: bool) -> None:
    """Paint lights, bumper and number plate, and a radiator grille if this is not the tail."""
    lights = (176.0, 30.0, 28.0) if tail else (236.0, 236.0, 220.0)
    parts = [(lights, 0.03, 0.2, 0.55, 0.8), (lights, 0.8, 0.97, 0.55, 0.8)]
    parts += [
        (scaled(paint, 0.55), 0.0, 1.0, 0.0, 0.22),
        ((210.0, 206.0, 180.0), 0.38, 0.62, 0.28, 0.42),
    ]
    if not tail:
        parts.append((_BLACK, 0.25, 0.75, 0.5, 0.72))
    numbers = [canvas.material(CAR, colour, depth) for colour, *_ in parts]
    s0, s1, t0, t1 = np.array([span for _, *span in parts]).T
    canvas.paint(numbers, panels(face, s0, s1, t0, t1))


def _person(rng: Rng, stride: float, lean: float = 0.0) -> list[Shape]:
    """Return a person one unit high who stands at 0; ``stride`` spreads the legs."""
    coat, trousers, skin = pick(rng, _CLOTHES), pick(rng, _CLOTHES), pick(rng, _SKINS)
    hair, wide = pick(rng, ((40, 32, 28), (110, 84, 54), (150, 146, 140))), rng.uniform(0.1, 0.14)
    hem = rng.uniform(0.36, 0.5)
    shapes: list[Shape] = [
        (scaled(trousers, f), np.array([(0, 0.5), (x - 0.04, 0), (x + 0.06, 0), (0.1 * d, 0.52)]))
        for x, f, d in ((-stride, 0.8, 1.0), (stride, 1.0, -1.0))
    ]
    sleeve = scaled(coat, 0.8)
    arm = np.array([(wide, 0.8), (wide + 0.05 + stride, 0.45), (wide + stride, 0.43), (0, 0.7)])
    torso = np.array([(-wide, hem), (wide, hem), (wide + lean, 0.82), (-wide + lean, 0.82)])
    shapes += [
        (sleeve, arm * (-1.0, 1.0)),
        (sleeve, arm),
        (coat, torso),
        (hair, CIRCLE * (0.066, 0.075) + (lean * 1.3, 0.925)),
        (skin, CIRCLE * (0.052, 0.06) + (lean * 1.3 + 0.01, 0.905)),
    ]
    return shapes


def draw_pedestrian(canvas: Canvas, rng: Rng, at: Vector) -> None:
    """Paint an adult or a child, some with a bag."""
    height = rng.uniform(1.55, 1.9) if rng.uniform() < 0.85 else rng.uniform(1.0, 1.4)
    shapes = _person(rng, rng.uniform(0.0, 0.13))
    if rng.uniform() < 0.4:
        shapes.append((pick(rng, _CLOTHES), rectangle(0.1, 0.22, 0.28, 0.46)))
    canvas.shadow(disc(at[0], at[2], 0.45, 0.3), 0.6)
    figure(canvas, PEDESTRIAN, shapes, at, height)


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
    figure(canvas, BICYCLIST, shapes, at)


def draw_bonnet(canvas: Canvas, rng: Rng) -> None:
    """Paint the bonnet of the car that carries the camera (ignored)."""
    colour, top, reach = pick(rng, PAINTS), rng.uniform(0.9, 0.97), rng.uniform(0.6, 0.9)
    for i, y in enumerate(np.linspace(top, 1.0, 5).tolist()):
        arc = [(u * reach, y + (1.0 - top) * u * u) for u in np.linspace(-1.3, 1.3, 15).tolist()]
        shape = [*arc, (1.5, 1.1), (-1.5, 1.1)]
        canvas.paint_flat([canvas.material(IGNORE, scaled(colour, 1.0 - 0.1 * i), 0.0)], [shape])
