"""Where the object goes on its new background, and how its labels follow.

Coordinates are continuous, like those of boxes: pixel (0, 0) covers [0, 1) x [0, 1). Keypoints name pixels by index,
so add half a pixel for a pixel's center (torchvision and albumentations mirror x to width - 1 - x).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Matte
from augment.errors import InputError
from augment.sampling.checks import check_range

Translate: TypeAlias = Literal["keep", "uniform", "center"]
Matrix: TypeAlias = NDArray[np.float64]  # (2, 3): from the image's continuous coordinates to the composite's


@dataclass(frozen=True)
class Placement:
    """How the object may be moved. The default leaves it unchanged.

    Args:
        scale: range of the factor of its size, drawn uniformly; an object too large for the image is shrunk to fit.
        translate: "keep" its center (as far as it fits), or draw a position from all where it fits: "uniform", or
            "center" with a preference for the middle (a triangular density along each axis).
        flip: probability of mirroring it left to right.
        rotate: largest rotation to either side, in degrees.
        overhang: share, 0 to 0.5, of its width and height that may lie outside the image.

    An object that is cut off by the image's edge stays at that edge, upright, so that no cut side shows.
    Raises InputError, naming the field.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    translate: Translate = "keep"
    flip: float = 0.0
    rotate: float = 0.0
    overhang: float = 0.0

    def __post_init__(self) -> None:
        if not _is_range(self.scale):
            raise InputError(f"placement: scale: {self.scale!r} is not a range (smallest, largest) above 0")
        object.__setattr__(self, "scale", tuple(self.scale))  # a list if it was serialized
        if self.translate not in get_args(Translate):
            raise InputError(f"placement: translate: {self.translate!r} is not one of {', '.join(get_args(Translate))}")
        check_range("placement: flip", self.flip)
        check_range("placement: rotate", self.rotate, 180)
        check_range("placement: overhang", self.overhang, 0.5)


class PlacementDraws(NamedTuple):
    """The random numbers of one placement, each in [0, 1)."""

    scale: float
    x: float
    y: float
    flip: float
    rotate: float


@dataclass(frozen=True, eq=False)
class Move:
    """An affine map of an object, and of the labels on it, from the image to the composite."""

    matrix: Matrix
    matte: Matte

    def boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """`(n, 4)` left, top, right, bottom on the composite, inside it.

        A box keeps its distance from the part of the object inside it. If the object is rotated, the box encloses the
        rotated object, not the rotated box, which would be too large.
        """
        height, width = self.matte.size
        moved = np.empty((len(boxes), 4))
        for row, box in enumerate(np.asarray(boxes, np.float64)):
            if self._turned:
                points = outline(self.matte, box)
                tight = np.concatenate([points.min(0), points.max(0)])
                margins = (box - tight) * self.scale
                if self.matrix[0, 0] * self.matrix[1, 1] < 0:
                    margins[[0, 2]] = -margins[[2, 0]]
                corners = _map(self.matrix, points)
            else:
                margins = np.zeros(4)
                corners = _map(self.matrix, box.reshape(2, 2))
            moved[row] = np.concatenate([corners.min(0), corners.max(0)]) + margins
        return moved.clip(0, [width, height, width, height])

    def corners(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """`(…, 2)` continuous x, y."""
        return _map(self.matrix, corners.reshape(-1, 2)).reshape(corners.shape)

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """`(…, 2)` x, y by pixel index; those of an object that overhangs may lie outside the image."""
        return self.corners(points + 0.5) - 0.5

    def directions(self, angles: NDArray[np.float64]) -> NDArray[np.float64]:
        """Angles in radians, measured from the x axis towards the y axis, which points down."""
        x, y = self.matrix[:, :2] @ np.stack([np.cos(angles), np.sin(angles)])
        return np.asarray(np.arctan2(y, x), np.float64)

    @property
    def scale(self) -> float:
        """The factor of lengths."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    def masks(self, masks: NDArray[Any]) -> NDArray[Any]:
        """`(…, H, W)` of any type; 0 in places that nothing moved to. Edges towards 0 are interpolated like pixels."""
        planes = masks.reshape(-1, *masks.shape[-2:])
        moved = np.zeros_like(planes)
        for plane, result in zip(planes, moved, strict=True):
            self._move_mask(plane, result)
        return moved.reshape(masks.shape)

    def plane(self, values: NDArray[Any]) -> NDArray[Any]:
        """A channel `(H, W)` uint8 or float that belongs to the object, such as its transparency; interpolated."""
        # OpenCV's coordinates are those of pixels' centers.
        linear, offset = self.matrix[:, :2], self.matrix[:, 2]
        centers = np.column_stack([linear, linear @ [0.5, 0.5] + offset - 0.5])
        known = np.ascontiguousarray(values if values.dtype == np.uint8 else values.astype(np.float32))
        moved = cv2.warpAffine(
            known, centers, values.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(moved.astype(values.dtype))

    def _move_mask(self, mask: NDArray[Any], result: NDArray[Any]) -> None:
        solid = (mask != 0).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(solid)
        if not width:
            return
        corners = self.corners(
            np.array([(x, y) for x in (left, left + width) for y in (top, top + height)], np.float64)
        )
        first = np.maximum(0, np.floor(corners.min(0))).astype(int)
        last = np.minimum(mask.shape[::-1], np.ceil(corners.max(0))).astype(int)
        if (last <= first).any():
            return
        # OpenCV's coordinates are those of pixels' centers.
        linear, offset = self.matrix[:, :2], self.matrix[:, 2]
        centers = np.column_stack([linear, linear @ [0.5, 0.5] + offset - first - 0.5])
        share = cv2.warpAffine(solid.astype(np.float32), centers, (last - first).tolist(), flags=cv2.INTER_LINEAR)
        back = cv2.invertAffineTransform(centers)
        x, y = np.arange(last[0] - first[0]), np.arange(last[1] - first[1])[:, None]
        columns = np.rint(back[0, 0] * x + back[0, 1] * y + back[0, 2]).astype(int).clip(0, mask.shape[1] - 1)
        rows = np.rint(back[1, 0] * x + back[1, 1] * y + back[1, 2]).astype(int).clip(0, mask.shape[0] - 1)
        # The interpolated edge may lie a pixel outside, and needs a value there too.
        wider = cv2.dilate(mask.astype(np.float64), np.ones((3, 3))).astype(mask.dtype)
        values = np.where(solid > 0, mask, wider)[rows, columns]
        window = (slice(first[1], last[1]), slice(first[0], last[0]))
        result[window] = np.where(share >= 0.5, values, result[window])

    @cached_property
    def _turned(self) -> bool:
        return bool(np.abs(self.matrix[[0, 1], [1, 0]]).max() > 1e-9)


def place(placement: Placement, matte: Matte, draws: PlacementDraws) -> Move | None:
    """The move drawn for the object of a matte; None if it stays unchanged."""
    height, width = matte.size
    touches = touching(matte)
    low, high = placement.scale
    scale = low + (high - low) * draws.scale
    flip = -1.0 if draws.flip < placement.flip else 1.0
    angle = 0.0 if touches.any() else np.deg2rad(placement.rotate * (2 * draws.rotate - 1))
    if (touches[:2] & touches[2:]).any():
        scale = 1.0  # cut off on both sides: any other size would leave a gap or cut off more
    linear = np.array([[flip * np.cos(angle), -np.sin(angle)], [flip * np.sin(angle), np.cos(angle)]])
    left, top, right, bottom = matte.box
    center = np.array([left + right, top + bottom]) / 2
    points = outline(matte) if angle else np.array([(x, y) for x in (left, right) for y in (top, bottom)], float)
    reach = (points - center) @ linear.T
    lowest, highest = reach.min(0), reach.max(0)
    extent = highest - lowest
    scale = min(scale, *(np.array([width, height]) / (extent * (1 - placement.overhang))))
    lowest, extent, linear = lowest * scale, extent * scale, linear * scale

    slack = placement.overhang * extent
    first, last = -slack, np.array([width, height]) - extent + slack
    if placement.translate == "keep":
        corner = np.clip(center + lowest, first, last)
    else:
        drawn = np.array([draws.x, draws.y])
        corner = first + (last - first) * (_triangular(drawn) if placement.translate == "center" else drawn)
    sides = touches[[2, 1, 0, 3]] if flip < 0 else touches
    corner = np.where(sides[2:], [width, height] - extent, corner)
    corner = np.where(sides[:2], 0.0, corner)
    if scale == 1 and not angle:
        corner = np.floor(corner + 0.5)  # whole pixels: the object is copied byte for byte
    target = corner - lowest
    matrix = np.column_stack([linear, target - linear @ center])
    if np.abs(matrix - np.eye(2, 3)).max() < 1e-9:
        return None
    return Move(matrix, matte)


def outline(matte: Matte, box: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Corners of the convex hull of the object, `(n, 2)` x, y; its edge is where alpha crosses one half.

    With a `box`, only of the part inside its pixels; the box's own corners if there is none.
    """
    left, top = matte.box[:2]
    alpha = matte.alpha
    if box is not None:
        x0, y0 = max(0, int(np.floor(box[0])) - left), max(0, int(np.floor(box[1])) - top)
        x1, y1 = max(0, int(np.ceil(box[2])) - left), max(0, int(np.ceil(box[3])) - top)
        alpha = alpha[y0:y1, x0:x1]
        left, top = left + x0, top + y0
    across, down = _crossings(alpha), _crossings(alpha.T)[:, ::-1]
    points = np.concatenate([across, down])
    if not len(points):
        whole = np.array(matte.box if box is None else box, np.float64)
        return np.array([(x, y) for x in whole[::2] for y in whole[1::2]])
    hull = cv2.convexHull(points.astype(np.float32)).reshape(-1, 2)
    return np.asarray(hull + np.array([left, top]), np.float64)


def as_placement(placement: Placement | Mapping[str, Any] | None) -> Placement | None:
    """A Placement from itself or from the dict of its fields that serialization makes. Raises InputError."""
    if placement is None or isinstance(placement, Placement):
        return placement
    if not isinstance(placement, Mapping):
        raise InputError(f"placement: {placement!r} is not a Placement, nor None, which leaves the object in place")
    try:
        return Placement(**placement)
    except TypeError as error:
        raise InputError(f"placement: {placement!r} cannot be used: {error}") from error


def _is_range(scale: object) -> bool:
    if not isinstance(scale, tuple | list) or len(scale) != 2:
        return False
    numbers = all(isinstance(value, int | float | np.floating) for value in scale)
    return numbers and bool(0 < scale[0] <= scale[1] < float("inf"))


def _map(matrix: Matrix, points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _crossings(alpha: Alpha) -> NDArray[np.float64]:
    """Where alpha first and last crosses one half in each row, between pixels' centers: `(n, 2)` x, y."""
    solid = alpha >= 128
    rows = np.flatnonzero(solid.any(1))
    if not len(rows):
        return np.empty((0, 2))
    points = []
    for mirrored in (False, True):
        padded = np.pad(alpha[rows, :: -1 if mirrored else 1].astype(np.float64), ((0, 0), (1, 0)))
        first = (padded >= 128).argmax(1)
        inside, outside = (padded[np.arange(len(rows)), first - before] for before in (0, 1))
        # Pixels' centers are half a pixel in; a step from 0 to 255 is crossed at the side that two pixels share.
        x = first - 0.5 - (inside - 127.5) / (inside - outside)
        points.append(np.stack([alpha.shape[1] - x if mirrored else x, rows + 0.5], 1))
    return np.concatenate(points)


def touching(matte: Matte) -> NDArray[np.bool_]:
    """Whether the object is cut off at the image's left, top, right and bottom edge."""
    height, width = matte.size
    left, top, right, bottom = matte.box
    alpha = matte.alpha
    return np.array(
        [
            left == 0 and _solid(alpha[:, 0]),
            top == 0 and _solid(alpha[0]),
            right == width and _solid(alpha[:, -1]),
            bottom == height and _solid(alpha[-1]),
        ]
    )


def _solid(edge: Alpha) -> bool:
    return bool(edge.max() >= 128)


def _triangular(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """From a uniform to a triangular distribution over 0 … 1 with its peak in the middle (its inverse CDF)."""
    return np.where(uniform < 0.5, np.sqrt(uniform / 2), 1 - np.sqrt((1 - uniform) / 2))
