"""One scene: sky, ground and the things in the street, drawn far to near."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

import dabnet.data.toy_street.things as draw
from dabnet.data.dataset import Uint8Array
from dabnet.data.toy_street.canvas import (
    BUILDING,
    KERB_HEIGHT,
    PAVEMENT,
    ROAD,
    TREE,
    Camera,
    Canvas,
    Colour,
    Floats,
    Light,
    Rng,
    level,
    mix,
    pick,
    rectangles,
    scaled,
    varied,
)

_PAVINGS = ((132.0, 130.0, 128.0), (112.0, 110.0, 110.0), (150.0, 140.0, 126.0), (128, 112, 102))
# Depths of the ground's cross-sections: dense near the camera, so that a bend looks round.
_DEPTHS = 1.3 * 1.2 ** np.arange(34)


@dataclass(frozen=True, slots=True)
class Street:
    """The street's cross-section and length, in metres; the camera stands at x = 0.

    Attributes:
        kerbs, fronts: side, -1 (left) or 1 → x of its kerb, and of its building line.
        end: z where the rows of buildings end.
    """

    kerbs: dict[int, float]
    fronts: dict[int, float]
    end: float

    @classmethod
    def sample(cls, rng: Rng) -> Street:
        """Draw a street of two or three lanes with the camera in one of them."""
        half = rng.uniform(3.3, 5.6)
        centre = half * rng.uniform(-0.55, 0.55)
        kerbs = {-1: centre - half, 1: centre + half}
        fronts = {side: kerb + side * rng.uniform(1.6, 4.2) for side, kerb in kerbs.items()}
        return cls(kerbs, fronts, end=rng.uniform(55.0, 120.0))


def draw_scene(key: tuple[int, ...], size: tuple[int, int]) -> tuple[Uint8Array, Uint8Array]:
    """Draw the scene that the whole numbers ``key`` name, at (height, width).

    Returns:
        image uint8 (H, W, 3), RGB, 0…255, and label uint8 (H, W), class index or 11 (ignore).
    """
    return _drawn(key, size)


def draw_drive(
    key: tuple[int, ...], size: tuple[int, int], metres: float
) -> tuple[Uint8Array, Uint8Array]:
    """Draw a street as it is seen from ``metres`` further along it; nothing in it moves.

    Its things stand as in the scene of ``key``, but have other colours and shapes.
    """
    return _drawn(key, size, metres)


def _drawn(
    key: tuple[int, ...], size: tuple[int, int], metres: float | None = None
) -> tuple[Uint8Array, Uint8Array]:
    height, width = size
    # Two streams: what the scene is must not depend on how many pixels of noise it needs.
    rng, pixel_rng = np.random.default_rng([*key, 0]), np.random.default_rng([*key, 1])
    camera = replace(Camera.sample(rng), driven=metres or 0.0)
    canvas = Canvas(camera, Light.sample(rng), height, width)
    street = Street.sample(rng)
    _draw_sky(canvas, rng)
    _draw_ground(canvas, street, rng)
    things = _Things(canvas, street, rng)
    for side in (-1, 1):
        things.add_lots(side)
        things.add_on_pavement(side)
    things.add_traffic()
    if metres is None:
        things.draw()
    else:
        things.draw_driven(key)
    if rng.uniform() < 0.2:
        draw.draw_bonnet(canvas, rng)
    coarse = rng.uniform(-1.0, 1.0, (9, 10)).astype(np.float32)
    middle = rng.uniform(-1.0, 1.0, (90, 120)).astype(np.float32)
    return canvas.develop(pixel_rng, (coarse, middle))


def _draw_sky(canvas: Canvas, rng: Rng) -> None:
    """Paint the sky in bands and, at the horizon, a far row of roofs and tree tops."""
    light, horizon = canvas.light, canvas.camera.horizon
    v = np.linspace(0.0, horizon + 0.02, 41)
    bands = [
        canvas.sky_material(mix(light.zenith, light.haze, (i / 39) ** 1.5), light.clouds)
        for i in range(40)
    ]
    canvas.paint_flat(bands, rectangles(-4.0, 4.0, v[:-1], v[1:]))
    u = np.linspace(-1.4, 1.4, 57)
    top = horizon - rng.uniform(0.008, 0.05, 56) * rng.uniform(0.5, 1.6)
    row = []
    for is_tree in rng.uniform(size=56) < rng.uniform(0.1, 0.7):
        label, colour = (TREE, (70.0, 88.0, 60.0)) if is_tree else (BUILDING, (120.0, 110.0, 104.0))
        row.append(canvas.material(label, varied(rng, colour, 25.0), rng.uniform(90.0, 260.0)))
    canvas.paint_flat(row, rectangles(u[:-1], u[1:], top, horizon + 0.01))


def _draw_ground(canvas: Canvas, street: Street, rng: Rng) -> None:
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
    edge = scaled(mix(paving, (150.0, 150.0, 148.0), 0.5), 1.1)
    kerb_top = strips(PAVEMENT, edge, up, 0.03, 0.05)
    kerb_face = strips(PAVEMENT, scaled(paving, 0.6), up, 0.03, 0.05)
    # So wide that a bend does not lead past its end before the horizon.
    canvas.paint(forecourt, level(-2000.0, 2000.0, KERB_HEIGHT, z0, z1))
    z = np.arange(2.0, 20.0, 1.2)
    near_joints = [joints[min(i - 1, len(z0) - 1)] for i in np.searchsorted(_DEPTHS, z).tolist()]
    for side, kerb in street.kerbs.items():
        front = street.fronts[side]
        canvas.paint(flags, level(kerb, front, KERB_HEIGHT, z0, z1))
        canvas.paint(near_joints, level(kerb, front, KERB_HEIGHT, z, z + 0.035))
        canvas.paint(kerb_top, level(kerb, kerb + 0.16 * side, KERB_HEIGHT, z0, z1))
    left, right = street.kerbs.values()
    canvas.paint(strips(ROAD, road, up, 0.06, 0.09), level(left, right, 0.0, z0, z1))
    # The faces of both kerbs are seen from the road; they end where its surface begins.
    for kerb in street.kerbs.values():
        face = level(kerb, kerb, 0.0, z0, z1)
        face[:, (0, 3), 1] = KERB_HEIGHT
        canvas.paint(kerb_face, face)
    _draw_markings(canvas, street, rng, road, up)


def _draw_markings(canvas: Canvas, street: Street, rng: Rng, road: Colour, up: float) -> None:
    """Paint worn lines, patches, covers and sometimes a zebra crossing, all of class road."""

    def paint(colour: Colour, polygons: Floats) -> None:
        look = (up, 0.05, 0.08, True)
        depths = polygons[:, 0, 2].tolist()
        canvas.paint([canvas.material(ROAD, colour, z, *look) for z in depths], polygons)

    left, right = street.kerbs.values()
    width = right - left
    for _ in range(int(rng.integers(1, 7))):
        x0, near, tone = rng.uniform(left, right), rng.uniform(3.0, 30.0), rng.uniform(0.72, 1.2)
        w, length = rng.uniform(0.4, 2.2), rng.uniform(0.5, 9.0)
        paint(scaled(road, tone), level(x0, min(x0 + w, right), 0.0, near, near + length))
    line = mix(road, pick(rng, ((226.0, 226.0, 220.0), (222.0, 196.0, 96.0)), 6.0), 0.8)
    lanes = 2 if width < 9.0 else 3
    period, dash = rng.uniform(4.0, 9.0), rng.uniform(0.3, 0.6)
    z = np.arange(rng.uniform(1.4, 4.0), 90.0, period)
    for lane in range(1, lanes):
        if rng.uniform() < 0.85:
            x0 = left + width * lane / lanes
            paint(line, level(x0 - 0.07, x0 + 0.07, 0.0, z, z + period * dash))
    edge = pick(rng, ((214.0, 190.0, 80.0), (220.0, 220.0, 216.0)), 6.0)
    edge = mix(road, edge, rng.uniform(0.3, 0.9))
    for side, kerb in street.kerbs.items():
        if rng.uniform() < 0.5:
            x0 = kerb - 0.35 * side
            paint(edge, level(x0 - 0.05, x0 + 0.05, 0.0, _DEPTHS[:-6], _DEPTHS[1:-5]))
    if rng.uniform() < 0.25:
        near = rng.uniform(7.0, 22.0)
        x = np.arange(left + 0.4, right - 0.5, 1.1)
        paint(line, level(x, x + 0.55, 0.0, near, near + 2.8))


class _Things:
    """The things of a scene, each with its depth, by which they are drawn."""

    def __init__(self, canvas: Canvas, street: Street, rng: Rng) -> None:
        self.canvas, self.street, self.rng = canvas, street, rng
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.taken: list[tuple[float, float]] = []

    def draw(self) -> None:
        for _, paint in sorted(self.waiting, key=lambda thing: -thing[0]):
            paint()

    def draw_driven(self, key: tuple[int, ...]) -> None:
        """Draw what is not behind the camera yet, each thing from random numbers of its own.

        How many it takes depends on where it is seen from, and the next one must not change.
        """
        waiting = sorted(self.waiting, key=lambda thing: -thing[0])
        for number, (z, paint) in enumerate([*waiting, (np.inf, lambda: None)]):
            state = np.random.default_rng([*key, 2, number]).bit_generator.state
            self.rng.bit_generator.state = state
            if z > self.canvas.camera.driven + 1.0:
                paint()

    def _add(self, z: float, how: Callable[..., None], *args: object) -> None:
        self.waiting.append((z, partial(how, self.canvas, self.rng, *args)))

    def _times(self, low: int, high: int) -> range:
        return range(int(self.rng.integers(low, high)))

    def add_lots(self, side: int) -> None:
        """Line one side with buildings at the front, buildings behind a fence, and greens."""
        rng, front = self.rng, self.street.fronts[side]
        z = rng.uniform(1.6, 7.0)
        built, storeys = rng.uniform(0.2, 0.8), rng.uniform(1.4, 4.4)
        while z < self.street.end:
            stop = z + rng.uniform(7.0, 20.0)
            height = 3.0 * max(1.0, storeys * rng.uniform(0.6, 1.5)) + rng.uniform(0.2, 1.2)
            setback = 0.0 if rng.uniform() < built else rng.uniform(3.0, 9.0)
            green = setback > 0.0 and rng.uniform() < 0.5
            if not green:
                self._add(stop, draw.draw_building, side, front + side * setback, z, stop, height)
            if setback:
                kind = (draw.BOARDS, draw.PICKETS, draw.RAILING)[int(rng.integers(3))]
                self._add_fence(kind, front, z, stop)
                for _ in self._times(3, 7) if green else self._times(0, 4):
                    tall = rng.uniform() < 0.65
                    at = (front + side * rng.uniform(1.0, 9.0), 0.0, max(4.0, rng.uniform(z, stop)))
                    size = rng.uniform(4.0, 10.0) if tall else rng.uniform(1.0, 2.4)
                    self._add(at[2], draw.draw_tree, at, size, tall)
            z = stop + (rng.uniform(0.5, 4.0) if rng.uniform() < 0.3 else 0.0)

    def _add_fence(self, kind: int, x: float, z0: float, z1: float) -> None:
        """Put a fence along the street, from z0 to z1."""
        colour = pick(self.rng, draw.FENCE_COLOURS)
        height = 0.85 if kind == draw.GUARD_RAIL else self.rng.uniform(0.9, 1.9)
        # Panels, since what stands before and behind a long fence must be painted in between.
        step = 1.8 if z0 < 26.0 else 3.6
        edges = np.linspace(z0, z1, max(2, int((z1 - z0) / step))).tolist()
        for a, b in pairwise(edges):
            ends = (x, KERB_HEIGHT, a), (x, KERB_HEIGHT, b)
            paint = partial(draw.draw_fence, self.canvas, kind, colour, *ends, height)
            self.waiting.append((b, paint))

    def add_on_pavement(self, side: int) -> None:
        """Put lamps, trees, signs, people, clutter and sometimes a guard rail on one pavement."""
        rng, kerb, front = self.rng, self.street.kerbs[side], self.street.fronts[side]
        curbside = kerb + 0.45 * side

        def spot(near: float, far: float) -> tuple[float, float, float]:
            x = kerb + (front - kerb) * rng.uniform(0.12, 0.88)
            # The square makes near places more frequent than far ones.
            return (x, KERB_HEIGHT, near + (far - near) * rng.uniform() ** 2)

        step, trees = rng.uniform(12.0, 26.0), rng.uniform() < 0.45
        for z in np.arange(rng.uniform(5.0, 12.0), 75.0, step).tolist():
            self._add(z, draw.draw_lamp, side, (curbside, KERB_HEIGHT, z))
            if trees:
                at = (curbside + 0.2 * side, KERB_HEIGHT, z + step * 0.45)
                self._add(at[2], draw.draw_tree, at, rng.uniform(4.0, 7.5))
        for _ in self._times(1, 5):
            at = (curbside, KERB_HEIGHT, rng.uniform(5.0, 24.0))
            self._add(at[2], draw.draw_sign, at)
        for _ in self._times(1, 6):
            at = spot(5.5, 36.0)
            self._add(at[2], draw.draw_pedestrian, at)
        for _ in self._times(0, 4):
            at = spot(4.5, 26.0)
            self._add(at[2], draw.draw_clutter, at)
        if rng.uniform() < 0.25:
            z = rng.uniform(3.0, 14.0)
            self._add_fence(draw.GUARD_RAIL, kerb + 0.25 * side, z, z + rng.uniform(5.0, 16.0))

    def _free(self, x: float, z: float, gap: float) -> bool:
        """Whether the road is free there; it is taken from now on."""
        if any(abs(x - a) < 2.0 and abs(z - b) < gap for a, b in self.taken):
            return False
        self.taken.append((x, z))
        return True

    def _add_car(self, x: float, z: float, yaw: float, ahead: bool) -> None:
        if self._free(x, z, 5.4):
            self._add(z, draw.draw_car, (x, 0.0, z), yaw, ahead)

    def add_traffic(self) -> None:
        """Put parked and moving cars, bicyclists and people who cross on the road."""
        rng = self.rng
        left, right = self.street.kerbs.values()
        for side, kerb in self.street.kerbs.items():
            if rng.uniform() < 0.6:
                x, density = kerb - 1.15 * side, rng.uniform(0.3, 0.95)
                for z in np.arange(rng.uniform(7.0, 14.0), 60.0, rng.uniform(5.5, 7.5)).tolist():
                    if rng.uniform() < density:
                        yaw = rng.uniform(-0.05, 0.05)
                        self._add_car(x, z, yaw, side > 0 or rng.uniform() < 0.3)
        for _ in self._times(1, 5):
            x = rng.uniform(left + 1.4, right - 1.4)
            z, turned = 8.0 + 45.0 * rng.uniform() ** 1.5, rng.uniform() < 0.12
            yaw = rng.uniform(1.2, 1.9) if turned else rng.uniform(-0.06, 0.06)
            self._add_car(x, z, yaw, x > (left + right) / 2)
        for _ in self._times(0, 5):
            x = rng.uniform(left + 0.5, right - 0.5)
            z = 5.5 + 16.0 * rng.uniform() ** 1.5
            across = rng.uniform() < 0.4
            if self._free(x, z, 3.6):
                self._add(z, draw.draw_bicyclist, (x, 0.0, z), across)
        if rng.uniform() < 0.35:
            z = rng.uniform(8.0, 22.0)
            for _ in self._times(1, 4):
                x = rng.uniform(left, right)
                if self._free(x, z, 3.6):
                    at = (x, 0.0, z + rng.uniform(-0.8, 0.8))
                    self._add(z, draw.draw_pedestrian, at)
