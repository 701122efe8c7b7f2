"""One scene: what stands where in the street, drawn far to near."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np

from dabnet.data.dataset import Uint8Array
from dabnet.data.toy_street.buildings import (
    BOARDS,
    FENCE_COLOURS,
    GUARD_RAIL,
    PICKETS,
    RAILING,
    draw_building,
    draw_clutter,
    draw_fence,
    draw_lamp,
    draw_sign,
    draw_tree,
)
from dabnet.data.toy_street.canvas import Camera, Canvas, Light, Rng, pick
from dabnet.data.toy_street.ground import KERB_HEIGHT, Street, draw_ground, draw_sky
from dabnet.data.toy_street.traffic import draw_bicyclist, draw_bonnet, draw_car, draw_pedestrian

# What is to be drawn: the depth that orders it and how to draw it.
Things = list[tuple[float, Callable[[], None]]]


def draw_scene(key: tuple[int, ...], size: tuple[int, int]) -> tuple[Uint8Array, Uint8Array]:
    """Draw the scene that the whole numbers ``key`` name, at (height, width).

    Returns:
        image uint8 (H, W, 3), RGB, 0…255, and label uint8 (H, W), class index or 11 (ignore).
    """
    height, width = size
    # Two streams: what the scene is must not depend on how many pixels of noise it needs.
    rng, pixel_rng = np.random.default_rng([*key, 0]), np.random.default_rng([*key, 1])
    canvas = Canvas(Camera.sample(rng), Light.sample(rng), height, width)
    street = Street.sample(rng)
    draw_sky(canvas, rng)
    draw_ground(canvas, street, rng)
    things: Things = []
    for side in (-1, 1):
        _place_lots(things, canvas, street, side, rng)
        _place_on_pavement(things, canvas, street, side, rng)
    _place_traffic(things, canvas, street, rng)
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()
    if rng.uniform() < 0.2:
        draw_bonnet(canvas, rng)
    coarse = rng.uniform(-1.0, 1.0, (9, 10)).astype(np.float32)
    middle = rng.uniform(-1.0, 1.0, (90, 120)).astype(np.float32)
    return canvas.develop(pixel_rng, (coarse, middle))


def _place_lots(things: Things, canvas: Canvas, street: Street, side: int, rng: Rng) -> None:
    """Line one side with buildings at the front, buildings behind a fence, and greens."""
    front, z = street.front(side), rng.uniform(1.6, 7.0)
    built, storeys = rng.uniform(0.2, 0.8), rng.uniform(1.4, 4.4)
    while z < street.end:
        stop = z + rng.uniform(7.0, 20.0)
        height = 3.0 * max(1.0, storeys * rng.uniform(0.6, 1.5)) + rng.uniform(0.2, 1.2)
        setback = 0.0 if rng.uniform() < built else rng.uniform(3.0, 9.0)
        green = setback > 0.0 and rng.uniform() < 0.5
        if not green:
            x = front + side * setback
            draw = partial(draw_building, canvas, rng, side, x, z, stop, height)
            things.append((stop, draw))
        if setback:
            kind = (BOARDS, PICKETS, RAILING)[int(rng.integers(3))]
            _place_fence(things, canvas, rng, kind, front, z, stop)
            for _ in range(int(rng.integers(3, 7)) if green else int(rng.integers(0, 4))):
                tall = rng.uniform() < 0.65
                at = (front + side * rng.uniform(1.0, 9.0), 0.0, max(4.0, rng.uniform(z, stop)))
                size = rng.uniform(4.0, 10.0) if tall else rng.uniform(1.0, 2.4)
                things.append((at[2], partial(draw_tree, canvas, rng, at, size, tall)))
        z = stop + (rng.uniform(0.5, 4.0) if rng.uniform() < 0.3 else 0.0)


def _place_fence(
    things: Things, canvas: Canvas, rng: Rng, kind: int, x: float, z0: float, z1: float
) -> None:
    """Put a fence along the street, from z0 to z1."""
    colour = pick(rng, FENCE_COLOURS)
    height = 0.85 if kind == GUARD_RAIL else rng.uniform(0.9, 1.9)
    # Panels, since what stands before and behind a long fence must be painted in between.
    step = 1.8 if z0 < 26.0 else 3.6
    edges = np.linspace(z0, z1, max(2, int((z1 - z0) / step))).tolist()
    for a, b in pairwise(edges):
        start, stop = (x, KERB_HEIGHT, a), (x, KERB_HEIGHT, b)
        args = (canvas, kind, colour, start, stop, height)
        things.append((b, partial(draw_fence, *args)))


def _place_on_pavement(things: Things, canvas: Canvas, street: Street, side: int, rng: Rng) -> None:
    """Put lamps, trees, signs, people, clutter and sometimes a guard rail on one pavement."""
    kerb, front = street.kerb(side), street.front(side)
    curbside = kerb + 0.45 * side

    def spot(near: float, far: float) -> tuple[float, float, float]:
        x = kerb + (front - kerb) * rng.uniform(0.12, 0.88)
        # The square makes near places more frequent than far ones.
        return (x, KERB_HEIGHT, near + (far - near) * rng.uniform() ** 2)

    step, trees = rng.uniform(12.0, 26.0), rng.uniform() < 0.45
    for z in np.arange(rng.uniform(5.0, 12.0), 75.0, step).tolist():
        at = (curbside, KERB_HEIGHT, z)
        things.append((z, partial(draw_lamp, canvas, rng, side, at)))
        if trees:
            at = (curbside + 0.2 * side, KERB_HEIGHT, z + step * 0.45)
            size = rng.uniform(4.0, 7.5)
            things.append((at[2], partial(draw_tree, canvas, rng, at, size)))
    for _ in range(int(rng.integers(1, 5))):
        at = (curbside, KERB_HEIGHT, rng.uniform(5.0, 24.0))
        things.append((at[2], partial(draw_sign, canvas, rng, at)))
    for _ in range(int(rng.integers(1, 6))):
        at = spot(5.5, 36.0)
        things.append((at[2], partial(draw_pedestrian, canvas, rng, at)))
    for _ in range(int(rng.integers(0, 4))):
        at = spot(4.5, 26.0)
        things.append((at[2], partial(draw_clutter, canvas, rng, at)))
    if rng.uniform() < 0.25:
        z = rng.uniform(3.0, 14.0)
        x, stop = kerb + 0.25 * side, z + rng.uniform(5.0, 16.0)
        _place_fence(things, canvas, rng, GUARD_RAIL, x, z, stop)


def _place_traffic(things: Things, canvas: Canvas, street: Street, rng: Rng) -> None:
    """Put parked and moving cars, bicyclists and people who cross on the road."""
    taken: list[tuple[float, float]] = []

    def free(x: float, z: float, gap: float) -> bool:
        if any(abs(x - a) < 2.0 and abs(z - b) < gap for a, b in taken):
            return False
        taken.append((x, z))
        return True

    def car(x: float, z: float, yaw: float, ahead: bool) -> None:
        if free(x, z, 5.4):
            args = (canvas, rng, (x, 0.0, z), yaw, ahead)
            things.append((z, partial(draw_car, *args)))

    for side in (-1, 1):
        if rng.uniform() < 0.6:
            x, density = street.kerb(side) - 1.15 * side, rng.uniform(0.3, 0.95)
            for z in np.arange(rng.uniform(7.0, 14.0), 60.0, rng.uniform(5.5, 7.5)).tolist():
                if rng.uniform() < density:
                    car(x, z, rng.uniform(-0.05, 0.05), side > 0 or rng.uniform() < 0.3)
    for _ in range(int(rng.integers(1, 5))):
        x = rng.uniform(street.left + 1.4, street.right - 1.4)
        z, turned = 8.0 + 45.0 * rng.uniform() ** 1.5, rng.uniform() < 0.12
        yaw = rng.uniform(1.2, 1.9) if turned else rng.uniform(-0.06, 0.06)
        car(x, z, yaw, x > (street.left + street.right) / 2)
    for _ in range(int(rng.integers(0, 5))):
        x = rng.uniform(street.left + 0.5, street.right - 0.5)
        z = 5.5 + 16.0 * rng.uniform() ** 1.5
        across = rng.uniform() < 0.4
        if free(x, z, 3.6):
            args = (canvas, rng, (x, 0.0, z), across)
            things.append((z, partial(draw_bicyclist, *args)))
    if rng.uniform() < 0.35:
        z = rng.uniform(8.0, 22.0)
        for _ in range(int(rng.integers(1, 4))):
            x = rng.uniform(street.left, street.right)
            if free(x, z, 3.6):
                at = (x, 0.0, z + rng.uniform(-0.8, 0.8))
                things.append((z, partial(draw_pedestrian, canvas, rng, at)))
