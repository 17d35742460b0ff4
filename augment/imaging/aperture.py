"""Round fields on black, as eyepieces, endoscopes and fundus cameras give them."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image

_SIDE = 384  # pixels of the longer side at which a field is judged
_BLACK = 26  # of 255, in the brightest channel: what JPEG and the sensor leave of a black surround
_MOST_TURN = 8.0  # degrees: what the tilt of a head or of an instrument does


def round_field(image: Image) -> NDArray[np.bool_] | None:
    """Where the field of an `(H, W, 3)` uint8 RGB image is, `(H, W)` bool; None if it has no round field on black."""
    scale = min(1.0, _SIDE / max(image.shape[:2]))
    small = image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    value = np.asarray(small.max(axis=2))
    side = min(value.shape) // 14
    if side < 2 or any(corner.max() > _BLACK + 6 for corner in _corners(value, side)):
        return None
    inside = value > _BLACK
    share = float(inside.mean())
    # The border is sharp: hardly any pixel is between the surround and the field. A dark photograph has many.
    between = float(((value > _BLACK - 12) & (value < _BLACK + 16)).mean())
    if not 0.4 < share < 0.92 or between > 0.06 or float(np.median(value[inside])) < 70:
        return None
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max(contours, key=cv2.contourArea)
    hull = cv2.convexHull(largest)
    # One convex thing, which fills the circle or, cut off by the frame, the box around it.
    area, (_, radius) = cv2.contourArea(hull), cv2.minEnclosingCircle(hull)
    if cv2.contourArea(largest) < 0.93 * area or area < 0.92 * float(inside.sum()) or area < 0.6 * np.pi * radius**2:
        return None
    field = cv2.fillPoly(np.zeros(value.shape, np.uint8), [hull], 1)
    return np.asarray(cv2.resize(field, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0)


def turned(image: Image, field: NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """The image mirrored at random, and tilted a little around the middle of its field."""
    flip = int(rng.integers(4))
    angle = float(rng.uniform(-_MOST_TURN, _MOST_TURN))
    ways = tuple(axis for axis in (0, 1) if flip >> axis & 1)
    image, field = np.flip(image, ways), np.flip(field, ways)
    rows, columns = np.nonzero(field)
    centre = ((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2)
    around = cv2.getRotationMatrix2D(cast("tuple[float, float]", centre), angle, 1.0)
    return np.asarray(
        cv2.warpAffine(
            np.ascontiguousarray(image),
            around,
            image.shape[1::-1],
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


def smoothed(image: Image, hole: NDArray[np.bool_], field: NDArray[np.bool_]) -> Image:
    """The image with its hole filled from what surrounds it in the field, without edges that would show its
    outline. Fine detail of what is in the hole stays.
    """
    scale = 96 / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    known = cv2.resize((field & ~hole).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    colors = cv2.resize(image * (field & ~hole)[..., None].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    low: NDArray[np.float32]
    weight: NDArray[np.float32]
    low, weight = np.zeros(colors.shape, np.float32), np.zeros(known.shape, np.float32)
    for sigma in (2.0, 4.0, 8.0, 16.0, 32.0):  # wherever a narrow blur reaches nothing that is known, a wider one does
        near = cv2.GaussianBlur(known, (0, 0), sigma)
        wanted = np.clip(near * 8, 0, 1) * (1 - weight)
        near_colors = cv2.GaussianBlur(colors, (0, 0), sigma)
        low = np.asarray(low + (wanted / np.maximum(near, 1e-6))[..., None] * near_colors, np.float32)
        weight = np.asarray(weight + wanted, np.float32)
    even = cv2.GaussianBlur(low / np.maximum(weight, 1e-6)[..., None], (0, 0), 2.0)
    low = np.asarray(cv2.resize(even, image.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.float32)
    soft = 0.01 * float(np.hypot(*image.shape[:2]))
    detail = image - cv2.GaussianBlur(image, (0, 0), soft / 3).astype(np.float32)
    share = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), soft)[..., None]  # a half at the edge
    replaced = np.clip(2 * share, 0, 1) * field[..., None]
    filled = (1 - replaced) * image + replaced * low + np.clip((share - 0.6) / 0.3, 0, 1) * detail
    return np.asarray(np.clip(filled + 0.5, 0, 255), np.uint8)


def _corners(value: NDArray[np.uint8], side: int) -> list[NDArray[np.uint8]]:
    ends = (slice(0, side), slice(-side, None))
    return [value[rows, columns] for rows in ends for columns in ends]
