"""A drawn chest: what a radiograph of nobody looks like, as an array of brightness.

The drawing is made small and enlarged; only the noise is drawn at full size, so that an image of 2048
by 2048 pixels takes a fraction of a second. Dense things are bright, as in MONOCHROME2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    PreprocessedImage = NDArray[np.float32]
    Sketch = NDArray[np.floating]  # float32 too; the type checker can't follow it through the arithmetic

#: Rows and columns of the drawing.
_SKETCH: Final = 288

#: Five by seven dots, as lead letters mark the side of the body.
_LETTER_R: Final = ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#")


def brightness(seed: int, rows: int, columns: int, *, lateral: bool = False) -> PreprocessedImage:
    """Draw a chest: (rows, columns) float32 in [0, 1].

    Parameters
    ----------
    seed
        Another seed is another person: size of the heart, height of the diaphragm, density, a nodule or none.
    rows, columns
        The size in pixels.
    lateral
        Seen from the side instead of from the front.
    """
    random = np.random.default_rng(seed)
    line = np.linspace(-1, 1, _SKETCH, dtype=np.float32)
    x, y = np.meshgrid(
        (line - np.float32(random.normal(0, 0.03))) * np.float32(random.uniform(0.95, 1.08)),
        (line - np.float32(random.normal(0, 0.03))) * np.float32(random.uniform(0.95, 1.05)),
    )
    texture = _smooth_noise(random, 48) * 0.6 + _smooth_noise(random, 16)
    sketch = _side(random, x, y, texture) if lateral else _front(random, x, y, texture)
    picture = _enlarged(sketch.astype(np.float32), rows, columns)
    picture += random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.012)
    if not lateral:
        _stamp(picture)
    return np.clip(picture, 0, 1, out=picture)


def _front(random: np.random.Generator, x: Sketch, y: Sketch, texture: Sketch) -> Sketch:
    # The image's left is the body's right: its diaphragm stands higher, and the heart points the other way.
    floor = random.normal(0.5, 0.05)
    dome = floor + 0.06 * (x > 0) + 1.1 * (np.abs(x) - 0.42) ** 2
    lungs = np.zeros_like(x)
    for side in (-1, 1):
        lung = _ellipse(side * x, y, 0.44, 0.0, 0.34, 0.85, softness=0.05) * _step(side * x - 0.1, 0.03)
        lungs = np.maximum(lungs, lung)
    lungs *= _step(dome - y, 0.015)
    shoulders = _step(y + 1.0 - 0.45 * np.abs(x) ** 2.5, 0.03)
    body = _step(0.9 - 0.06 * y**2 - np.abs(x), 0.03) * shoulders
    neck = _step(0.34 - np.abs(x), 0.05) * _step(-0.55 - y, 0.2)
    picture = 0.08 + 0.5 * np.maximum(body, neck)
    picture += 0.08 * _step(y - dome, 0.02) * body
    picture -= random.uniform(0.32, 0.4) * lungs

    size = random.uniform(0.85, 1.25)
    heart = _ellipse(x - 0.45 * (y - 0.3), y, 0.1, 0.3, 0.3 * size, 0.3 * size, softness=0.12)
    aorta = _ellipse(x, y, 0.1, -0.3, 0.11, 0.13, softness=0.2)
    middle = np.exp(-((x / 0.15) ** 4))
    picture += 0.26 * np.maximum(heart, 0.6 * aorta) * (0.35 + 0.65 * lungs)
    picture += 0.14 * middle + 0.03 * middle * np.cos(y * 34)
    picture -= 0.14 * np.exp(-(((x - 0.01) / 0.045) ** 2)) * _step(-0.25 - y, 0.05)

    inside = 0.35 * body + 0.65 * lungs
    for rib in range(9):
        high = -0.82 + 0.165 * rib
        back = high + 0.2 * np.abs(x) ** 1.2 - 0.1
        front = high + 0.62 * (0.85 - np.abs(x))
        picture += 0.075 * _band(y - back, 0.026) * inside * _step(0.84 - np.abs(x), 0.04)
        picture += 0.045 * _band(y - front, 0.034) * inside * _step(np.abs(x) - 0.3, 0.08)
    collar = -0.74 - 0.12 * np.abs(x) + 0.05 * np.sin(3 * np.abs(x))
    picture += 0.11 * _band(y - collar, 0.03) * _step(np.abs(x) - 0.1, 0.03) * _step(0.8 - np.abs(x), 0.05)

    hilum = np.exp(-(((np.abs(x) - 0.2) / 0.14) ** 2) - ((y + 0.02) / 0.22) ** 2)
    picture += lungs * (0.05 * hilum * (1.5 + texture) + 0.018 * texture)
    if random.random() < 0.4:
        at_x, at_y = random.choice((-1, 1)) * random.uniform(0.35, 0.55), random.uniform(-0.4, 0.2)
        picture += 0.13 * _ellipse(x, y, at_x, at_y, 0.05, 0.05, softness=0.15)
    return picture * random.uniform(0.92, 1.12)


def _side(random: np.random.Generator, x: Sketch, y: Sketch, texture: Sketch) -> Sketch:
    body = _ellipse(x, y, 0, 0.2, 0.8, 1.5, softness=0.03)
    lung = _ellipse(x + 0.12 * y, y, 0.02, -0.05, 0.55, 0.75, softness=0.04)
    lung *= _step(0.45 + 0.35 * (x - 0.1) ** 2 - y, 0.02)
    spine = np.exp(-(((x - 0.5 - 0.12 * np.cos(2 * y)) / 0.11) ** 4))
    heart = _ellipse(x, y, -0.22, 0.22, 0.26, 0.26, softness=0.14)
    picture = 0.08 + 0.52 * body - 0.3 * lung + 0.2 * heart * lung + spine * (0.13 + 0.05 * np.cos(y * 30))
    for rib in range(9):
        picture += 0.05 * _band(y - (-0.75 + 0.17 * rib) + 0.4 * x, 0.024) * body
    return picture + 0.02 * texture * lung + random.normal(0, 0.01)


def _step(distance: Sketch, softness: float) -> Sketch:
    """Rise from 0 to 1 where the distance turns positive."""
    risen: Sketch = 0.5 + 0.5 * np.tanh(distance / softness)
    return risen


def _ellipse(
    x: Sketch,
    y: Sketch,
    at_x: float,
    at_y: float,
    half_width: float,
    half_height: float,
    *,
    softness: float,
) -> Sketch:
    return _step(1 - np.hypot((x - at_x) / half_width, (y - at_y) / half_height), softness)


def _band(distance: Sketch, half_width: float) -> Sketch:
    """Draw a bone along distance 0: its two edges are denser than its middle."""
    square = np.square(distance / half_width)
    # Cut off at e^-36, which is invisible: smaller numbers would only be slow ones.
    square = np.minimum(square, np.float32(6))
    bone: Sketch = np.exp(-np.square(square)) * (np.float32(0.6) + np.float32(0.5) * square)
    return bone


def _smooth_noise(random: np.random.Generator, cells: int) -> PreprocessedImage:
    coarse = random.standard_normal((cells, cells)).astype(np.float32)
    return _enlarged(coarse, _SKETCH, _SKETCH)


def _enlarged(picture: PreprocessedImage, rows: int, columns: int) -> PreprocessedImage:
    """Resize linearly, as one matrix product for each axis."""
    enlarged = _interpolation(picture.shape[0], rows) @ picture @ _interpolation(picture.shape[1], columns).T
    return enlarged.astype(np.float32, copy=False)


def _interpolation(old: int, new: int) -> PreprocessedImage:
    place = np.linspace(0, old - 1, new)
    lower = np.minimum(place.astype(int), old - 2)
    weights = np.zeros((new, old), dtype=np.float32)
    weights[np.arange(new), lower] = 1 - (place - lower)
    weights[np.arange(new), lower + 1] = place - lower
    return weights


def _stamp(picture: PreprocessedImage) -> None:
    """Burn the letter R into the upper left corner: the side of the body that the viewer's left is."""
    dots = np.array([[dot == "#" for dot in line] for line in _LETTER_R])
    size = max(1, min(picture.shape) // 160)
    letter = dots.repeat(size, axis=0).repeat(size, axis=1)
    top, left = picture.shape[0] // 16, picture.shape[1] // 16
    corner = picture[top : top + letter.shape[0], left : left + letter.shape[1]]
    corner[letter[: corner.shape[0], : corner.shape[1]]] = 0.97
