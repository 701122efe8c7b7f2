"""The camera, the light, the canvas and the shapes on it. Lengths are metres, y points up.

Every shape is painted once, far to near, as a number on a single canvas; a table then turns the
numbers into label values and into colours, so that image and label agree on every pixel. Nothing
here depends on the image size except the last step from units of image height to pixels.

Solids are frusta with outward faces; flat things (people, signs, lamps) are figures in a plane
that faces the camera, or nearly so. Colours are (red, green, blue), 0…255.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from dabnet.data.camvid import CAMVID
from dabnet.data.dataset import Uint8Array

Rng = np.random.Generator
Colour = tuple[float, ...]
Vector = tuple[float, float, float]
Floats = NDArray[np.float64]
Texture = NDArray[np.float32]
Shape = tuple[Colour, Floats]
Part = tuple[Colour, float, float, float, float]
"""Colour and span (s0, s1, t0, t1) of a rectangle on a face, as ``panels`` takes it."""

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
IGNORE = CAMVID.ignore

KERB_HEIGHT = 0.12


def from_hex(text: str) -> tuple[Colour, ...]:
    """Return the colours written as words of six hex digits."""
    return tuple(tuple(map(float, bytes.fromhex(word))) for word in text.split())


WALLS = from_hex("8e5442 784838 a88868 c4b8a0 ded8cc 868482 686a70 b07858 5e5246 bac4cc")
PAINTS = from_hex("cecece a8aaae 707276 2a2a2e 1e2234 96221e 2c4888 3a543e a09278 c4a83c 565454")
METALS = from_hex("707274 3e4042 969898 36483c 624e3c")


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """Return ``a`` moved towards ``b`` by ``amount`` (0…1)."""
    keep = 1.0 - amount
    return tuple(x * keep + y * amount for x, y in zip(a, b, strict=True))


def scaled(colour: Colour, factor: float) -> Colour:
    """Return ``colour`` made brighter or darker."""
    return tuple(channel * factor for channel in colour)


def varied(rng: Rng, colour: Colour, amount: float = 14.0) -> Colour:
    """Return a colour near ``colour``: a common shift of brightness and a smaller one of hue."""
    common, *hues = (rng.random(4) - 0.5).tolist()
    return tuple(
        max(4.0, channel + amount * (2.0 * common + hue))
        for channel, hue in zip(colour, hues, strict=True)
    )


def pick(rng: Rng, colours: Sequence[Colour], amount: float = 14.0) -> Colour:
    """Return a variation of one of ``colours``."""
    return varied(rng, colours[int(rng.integers(len(colours)))], amount)


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera, ``height`` over the road, that looks along z.

    Image coordinates (u, v) are in units of image height, u from the middle, v from the top:
    ``vanishing`` is u of the vanishing point, ``horizon`` v of the horizon. The street shifts
    sideways by ``bend * z**2``. The camera stands ``driven`` metres along it.
    """

    focal: float
    horizon: float
    vanishing: float
    height: float
    bend: float
    driven: float = 0.0

    @classmethod
    def sample(cls, rng: Rng) -> Camera:
        """Draw a camera as it may sit in a car or a van."""
        return cls(
            focal=rng.uniform(0.78, 1.15),
            horizon=rng.uniform(0.40, 0.57),
            vanishing=rng.uniform(-0.16, 0.16),
            height=rng.uniform(1.3, 2.3),
            bend=rng.uniform(-0.0016, 0.0016),
        )

    def project(self, points: ArrayLike) -> Floats:
        """Turn points (…, 3) in metres into (…, 2) image coordinates (u, v)."""
        p = np.asarray(points, dtype=np.float64)
        z = np.maximum(p[..., 2] - self.driven, 1.0)
        scale = self.focal / z
        projected = np.empty((*p.shape[:-1], 2))
        projected[..., 0] = self.vanishing + scale * p[..., 0] + (self.focal * self.bend) * z
        projected[..., 1] = self.horizon + scale * (self.height - p[..., 1])
        return projected


# (zenith, horizon, light colour, ambient, diffuse, visibility in metres)
_MOODS: tuple[tuple[Colour, Colour, Colour, float, float, float], ...] = (
    ((104, 148, 204), (190, 210, 228), (1.06, 1.0, 0.92), 0.56, 0.58, 700.0),
    ((120, 150, 190), (214, 220, 222), (1.02, 1.0, 0.97), 0.62, 0.42, 500.0),
    ((164, 170, 178), (206, 208, 210), (0.96, 0.99, 1.03), 0.80, 0.10, 260.0),
    ((118, 116, 146), (236, 194, 150), (1.12, 0.95, 0.78), 0.48, 0.48, 350.0),
    ((62, 72, 92), (112, 114, 122), (0.50, 0.53, 0.60), 0.80, 0.12, 220.0),
)


@dataclass(frozen=True, slots=True)
class Light:
    """Sun, sky and air."""

    sun: Vector  # unit vector towards it
    ambient: float  # brightness of a face turned away from the sun
    diffuse: float  # what the sun adds at most
    colour: Colour  # gain per channel
    zenith: Colour
    haze: Colour  # of the sky at the horizon, to which distance fades
    visibility: float  # metres at which half of a colour is haze
    clouds: float  # their contrast

    @classmethod
    def sample(cls, rng: Rng) -> Light:
        """Draw the light of a clear, hazy, overcast, low-sun or dim hour."""
        mood = (0, 0, 0, 1, 1, 2, 2, 3, 3, 4)[int(rng.integers(10))]
        zenith, haze, colour, ambient, diffuse, visibility = _MOODS[mood]
        x, y, z = rng.uniform(-1.0, 1.0), rng.uniform(0.45, 1.1), rng.uniform(-0.9, 0.5)
        norm = (x * x + y * y + z * z) ** 0.5
        exposure = rng.uniform(0.82, 1.12)
        return cls(
            sun=(x / norm, y / norm, z / norm),
            ambient=ambient,
            diffuse=diffuse * rng.uniform(0.8, 1.15),
            colour=scaled(colour, exposure),
            zenith=varied(rng, scaled(zenith, exposure), 18.0),
            haze=varied(rng, scaled(haze, exposure), 12.0),
            visibility=visibility * rng.uniform(0.7, 1.4),
            clouds=rng.uniform(0.04, 0.22),
        )

    def facing(self, normal: Vector) -> float:
        """Return the brightness of a face with this unit normal."""
        cosine = normal[0] * self.sun[0] + normal[1] * self.sun[1] + normal[2] * self.sun[2]
        return self.ambient + self.diffuse * max(0.0, cosine)


class Canvas:
    """The canvas of one scene of ``height`` × ``width`` pixels; paint from far to near."""

    def __init__(self, camera: Camera, light: Light, height: int, width: int) -> None:
        self.camera, self.light, self._size = camera, light, (width, height)
        self._index = Image.new("I", self._size, 0)
        self._draw = ImageDraw.Draw(self._index)
        self._shade = Image.new("L", self._size, 255)
        self._shade_draw = ImageDraw.Draw(self._shade)
        # Per material: label, red, green, blue, grain, blotch, whether shadows fall on it.
        self._materials: list[tuple[float, ...]] = [(SKY, *light.haze, 0.0, 0.0, 0.0)]

    def material(
        self,
        label: int,
        colour: Colour,
        depth: float,
        facing: float | None = None,
        grain: float = 0.03,
        blotch: float = 0.06,
        ground: bool = False,
    ) -> int:
        """Add a material and return its number.

        ``colour`` is seen in white light; ``facing`` is the brightness of the face (by default
        that of an upright one turned to the camera); grain and blotch are relative contrasts.
        """
        light = self.light
        bright = light.facing((0.0, 0.0, -1.0)) if facing is None else facing
        lit = [
            min(250.0, channel * gain * bright)
            for channel, gain in zip(colour, light.colour, strict=True)
        ]
        seen = mix(tuple(lit), light.haze, depth / (depth + light.visibility))
        self._materials.append((label, *seen, grain, blotch, float(ground)))
        return len(self._materials) - 1

    def sky_material(self, colour: Colour, blotch: float) -> int:
        """Add a material of class sky whose colour no light changes."""
        self._materials.append((SKY, *colour, 0.004, blotch, 0.0))
        return len(self._materials) - 1

    def _pixels(self, image_points: Floats) -> NDArray[np.int64]:
        width, height = self._size
        pixels = image_points * height
        pixels[..., 0] += width / 2.0
        return np.floor(pixels).astype(np.int64)

    def paint_flat(self, materials: Iterable[int], polygons: ArrayLike) -> None:
        """Paint polygons (n, corners, 2) given in image coordinates (u, v)."""
        pixels = self._pixels(np.asarray(polygons, dtype=np.float64))
        flat = pixels.reshape(len(pixels), 2 * pixels.shape[1]).tolist()
        for material, corners in zip(materials, flat, strict=True):
            self._draw.polygon(corners, fill=material)

    def paint(self, materials: Iterable[int], polygons: ArrayLike) -> None:
        """Paint polygons (n, corners, 3) given in metres."""
        self.paint_flat(materials, self.camera.project(polygons))

    def shadow(self, polygon: ArrayLike, strength: float) -> None:
        """Darken the ground within a polygon (corners, 3) to ``strength`` (0…1)."""
        pixels = self._pixels(self.camera.project(polygon))
        self._shade_draw.polygon(pixels.ravel().tolist(), fill=round(255 * strength))

    def figure(
        self,
        label: int,
        shapes: Sequence[Shape],
        at: Vector,
        scale: float = 1.0,
        yaw: float = 0.0,
    ) -> None:
        """Paint plane shapes (colour, points (n, 2)) that stand at ``at``, turned by ``yaw``."""
        frame = np.array([(scale * math.cos(yaw), 0.0, scale * math.sin(yaw)), (0.0, scale, 0.0)])
        points = np.concatenate([points for _, points in shapes])
        projected, first = self.camera.project(points @ frame + at), 0
        for colour, points in shapes:
            polygon = projected[first : first + len(points)]
            self.paint_flat([self.material(label, colour, at[2])], polygon[None])
            first += len(points)

    def solid(self, label: int, colour: Colour, faces: Floats, yaw: float = 0.0) -> list[int]:
        """Paint the visible ones of a frustum's five faces and return which they are."""
        p = self.camera.project(faces)
        d, e = p[:, 2] - p[:, 0], p[:, 3] - p[:, 1]
        seen: list[int] = np.flatnonzero(d[:, 0] * e[:, 1] - d[:, 1] * e[:, 0] < 0.0).tolist()
        c, s = math.cos(yaw), math.sin(yaw)
        normals: tuple[Vector, ...] = ((s, 0, -c), (c, 0, s), (-s, 0, c), (-c, 0, -s), (0, 1, 0))
        depth = float(faces[0, :, 2].mean())
        bright = [self.light.facing(normals[i]) for i in seen]
        self.paint_flat([self.material(label, colour, depth, b) for b in bright], p[seen])
        return seen

    def decorate(
        self,
        label: int,
        face: Floats,
        depth: float,
        parts: Sequence[Part],
        facing: float | None = None,
    ) -> None:
        """Paint rectangles on a face."""
        numbers = [self.material(label, colour, depth, facing) for colour, *_ in parts]
        self.paint(numbers, panels(face, *np.array([span for _, *span in parts]).T))

    def develop(self, rng: Rng, textures: tuple[Texture, Texture]) -> tuple[Uint8Array, Uint8Array]:
        """Return image (H, W, 3) and label (H, W), both uint8.

        ``textures`` are two small noise pictures with values -1…1, stretched over the image;
        ``rng`` gives the noise of the single pixels, which alone differs between image sizes.
        """
        width, height = self._size
        index = np.asarray(self._index).astype(np.intp)
        columns = np.array(self._materials, dtype=np.float32).T.copy()
        label, red, green, blue, grain, blotch, ground = columns
        coarse, middle = (
            np.asarray(Image.fromarray(t).resize(self._size, Image.Resampling.BILINEAR))
            for t in textures
        )
        noise = rng.integers(-128, 128, (height, width), dtype=np.int8).astype(np.float32)
        noise *= np.float32(1 / 74)  # unit variance
        # "clip" only spares the check of the indices, which are all in range.
        gain = blotch.take(index, mode="clip")
        gain *= coarse
        # The sky has clouds but no surface.
        gain += np.where(label == SKY, 0, 0.6 * blotch).take(index, mode="clip") * middle
        gain += grain.take(index, mode="clip") * noise
        gain += np.float32(1)
        shade = np.asarray(self._shade).astype(np.float32)
        shade -= 255
        shade *= (ground / np.float32(255)).take(index, mode="clip")
        shade += 1
        gain *= shade
        rows = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None] ** 2
        across = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :] ** 2
        gain *= 1 - np.float32(rng.uniform(0.03, 0.13)) * (rows + across)
        noise *= np.float32(rng.uniform(1.5, 5.0))
        image = np.empty((height, width, 3), dtype=np.uint8)
        for channel, colour in enumerate((red, green, blue)):
            plane = colour.take(index, mode="clip")
            plane *= gain
            # The same noise shifted: cheaper than new noise, and the eye cannot tell.
            plane += np.roll(noise, 37 * (channel + 1), axis=0)
            np.clip(plane, 0, 255, out=plane)
            image[..., channel] = plane
        blur = float(rng.uniform(0.15, 0.5)) * max(1.0, height / 480)
        blurred = Image.fromarray(image).filter(ImageFilter.BoxBlur(blur))
        return np.asarray(blurred), label.astype(np.uint8).take(index, mode="clip")


# The faces of a frustum, in order.
NEAR, RIGHT, FAR, LEFT, TOP = range(5)

_ANGLES = [2.0 * math.pi * i / 12 for i in range(12)]
CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in _ANGLES])
SQUARE = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
TRIANGLE = np.array([(-1.0, -0.8), (1.0, -0.8), (0.0, 1.0)])
DIAMOND = np.array([(0.0, -1.1), (1.1, 0.0), (0.0, 1.1), (-1.1, 0.0)])
RING = np.concatenate([CIRCLE, CIRCLE[:1], CIRCLE[:1] * 0.84, CIRCLE[::-1] * 0.84])


def rectangles(x0: ArrayLike, x1: ArrayLike, y0: ArrayLike, y1: ArrayLike) -> Floats:
    """Return the corners (n, 4, 2) of n rectangles."""
    corners = np.empty((np.broadcast(x0, x1, y0, y1).size, 4, 2))
    corners[:, 0, 0] = corners[:, 3, 0] = x0
    corners[:, 1, 0] = corners[:, 2, 0] = x1
    corners[:, 0, 1] = corners[:, 1, 1] = y0
    corners[:, 2, 1] = corners[:, 3, 1] = y1
    return corners


def rectangle(x0: float, x1: float, y0: float, y1: float) -> Floats:
    """Return the corners (4, 2) of one rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def level(x0: ArrayLike, x1: ArrayLike, y: float, z0: ArrayLike, z1: ArrayLike) -> Floats:
    """Return level rectangles (n, 4, 3) at height ``y``."""
    flat = rectangles(x0, x1, z0, z1)
    corners = np.full((len(flat), 4, 3), y)
    corners[..., ::2] = flat
    return corners


def panels(face: Floats, s0: ArrayLike, s1: ArrayLike, t0: ArrayLike, t1: ArrayLike) -> Floats:
    """Return rectangles (n, 4, 3) in a face; s runs 0…1 from left to right, t from below."""
    spans = rectangles(s0, s1, t0, t1)
    s, t = spans[..., :1], spans[..., 1:]
    below: Floats = face[0] + s * (face[1] - face[0])
    above: Floats = face[3] + s * (face[2] - face[3])
    return below + t * (above - below)


def disc(x: float, z: float, rx: float, rz: float) -> Floats:
    """Return an ellipse (12, 3) that lies on the road, for shadows."""
    c = CIRCLE
    return np.stack([x + rx * c[:, 0], np.zeros(12), np.maximum(z + rz * c[:, 1], 1.3)], axis=-1)


Ring = tuple[float, float, float, float, float]
"""x0, x1, z0, z1, y of a level rectangle."""


def frustum(low: Ring, high: Ring) -> Floats:
    """Return the five faces (5, 4, 3), ``NEAR`` to ``TOP``, between two level rectangles.

    Corners run bottom left, bottom right, top right, top left as seen from outside.
    """
    below, above = (level(x0, x1, y, z0, z1)[0] for x0, x1, z0, z1, y in (low, high))
    next_below, next_above = np.roll(below, -1, axis=0), np.roll(above, -1, axis=0)
    walls = np.stack([below, next_below, next_above, above], axis=1)
    return np.concatenate([walls, above[None]])


def placed(local: Floats, at: Vector, yaw: float) -> Floats:
    """Turn points (…, 3) by ``yaw`` about the upright axis and move them to ``at``."""
    c, s = math.cos(yaw), math.sin(yaw)
    x, y, z = local[..., 0], local[..., 1], local[..., 2]
    return np.stack([at[0] + c * x - s * z, at[1] + y, at[2] + s * x + c * z], axis=-1)
