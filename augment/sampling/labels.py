"""Labels that a composite must not make wrong: whether a matte holds them, and how it is widened to hold them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Image, Matte
from augment.sampling.placement import Move, outline

Reason: TypeAlias = Literal["mask", "box", "keypoint"]

MIN_BOX_COVERAGE = 0.3  # a thin diagonal object fills about a third of its box
_MAX_BOX_COVERAGE = 0.97  # above it GrabCut found no edge, only the box
_ON_OBJECT = 0.9  # share of a mask that the matte must hold for the mask to be the object's
_SAME_BOX = 0.7  # overlap (IoU) of a box with the part of the object inside it, for the box to be the object's
_GRABCUT_SIDE = 128  # pixels: at this size GrabCut takes as long as all other steps of a hit
_GRABCUT_STEPS = 3


@dataclass(frozen=True, eq=False)
class Labels:
    """Where a sample's objects are, in pixels of the image.

    `masks` is `(n, H, W)` bool, one per instance (or one for all labelled pixels); `boxes` `(n, 4)` float as left, top,
    right, bottom; `points` `(n, 2)` float x, y, with whole numbers at pixels' centers.
    """

    masks: NDArray[np.bool_] | None = None
    boxes: NDArray[np.float64] | None = None
    points: NDArray[np.float64] | None = None

    def __bool__(self) -> bool:
        return any(found is not None and len(found) > 0 for found in (self.masks, self.boxes, self.points))

    def present(self) -> Labels:
        """Without the boxes and points that say that there is none (see `is_missing`)."""
        boxes, points = (
            values if values is None or not (gone := is_missing(values)).any() else values[~gone]
            for values in (self.boxes, self.points)
        )
        return Labels(self.masks, boxes, points)


def is_missing(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows `(n, 2 | 4)` are no point or box, but say that there is none, or fill a table: all 0 (as in COCO), all
    negative, or not finite."""
    return np.asarray(~np.isfinite(values).all(-1) | (values == 0).all(-1) | (values < 0).all(-1))


def labeled_pixels(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a mask labels something: where it is not 0.

    If it holds other classes and 0 as well, 255 and negative values are no class, but say that a pixel is of none (VOC
    marks objects' borders so); in a mask with values above 255, they are numbers of instances.
    """
    labeled = np.asarray(mask != 0)
    if mask.dtype == bool or not mask.size or mask.max() > 255:
        return labeled
    void = (mask == 255) | (mask < 0)
    classes = labeled & ~void
    return classes if void.any() and classes.any() and not labeled.all() else labeled


def visible(alpha: NDArray[Any] | None) -> Labels:
    """Where an image `(H, W)` uint8 or float in 0 … 1 is opaque, if its alpha is not the same everywhere."""
    if alpha is None or alpha.min() == alpha.max():
        return Labels()
    return Labels(masks=alpha[None] >= (128 if alpha.dtype == np.uint8 else 0.5))


def moved_points(move: Move, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(n, 2)` points that go with an object; missing ones stay as they are."""
    moved, there = points.copy(), ~is_missing(points)
    moved[there] = move.points(points[there])
    return moved


def moved_boxes(move: Move, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(n, 4)` left, top, right, bottom that go with an object; missing ones stay as they are."""
    moved, there = boxes.copy(), ~is_missing(boxes)
    moved[there] = move.boxes(boxes[there])
    return moved


def explained(reason: Reason, labels: Sequence[Labels], size: tuple[int, ...]) -> str:
    """What is remarkable about the labels `(H, W)` that a matte cannot hold; empty if nothing is."""
    for label in labels:
        for mask in () if label.masks is None or reason != "mask" else label.masks:
            if mask.shape != size:
                return f"a mask of {mask.shape} for an image of {size}"
            if mask.all():
                return "a mask that is 0 nowhere"
        for left, top, right, bottom in () if label.boxes is None or reason != "box" else label.boxes.tolist():
            if not (left < right <= size[1] + 1 and top < bottom <= size[0] + 1):
                return f"a box from {left:g}, {top:g} to {right:g}, {bottom:g} in an image of {size[1]} x {size[0]}"
    return ""


def protected(matte: Matte, labels: Sequence[Labels], image: Image) -> Matte | Reason:
    """The matte widened to hold every labelled pixel, or which kind of label it cannot hold.

    Masks are merged into the matte. If the matte covers less of a box than MIN_BOX_COVERAGE, GrabCut looks for the
    object inside the box. A point has to be on the matte, and its pixel is made opaque.
    """
    found = matte.uncropped()
    alpha = found.copy()
    for label in labels:
        for mask in () if label.masks is None else label.masks:
            if mask.shape != matte.size:
                return "mask"
            alpha[mask] = 255
    for label in labels:
        for box in () if label.boxes is None else label.boxes:
            if not _covers(alpha, box):
                inside = _find_in_box(image, box)
                if inside is None:
                    return "box"
                alpha[inside] = 255
    for label in labels:
        for x, y in () if label.points is None else _pixels(label.points):
            if not (0 <= y < alpha.shape[0] and 0 <= x < alpha.shape[1] and alpha[y, x] >= 128):
                return "keypoint"
            alpha[y, x] = 255
    changed = alpha != found
    if not changed.any():
        return matte
    widened = Matte.from_full(alpha, matte.confidence)
    if widened.unusable:
        return "mask"
    # Soft pixels that were made opaque no longer have a color of their own: they keep the image's.
    still_soft = ~changed[(found > 0) & (found < 255)]
    return replace(widened, edge_colors=matte.edge_colors[still_soft] if len(matte.edge_colors) else matte.edge_colors)


def on_object(matte: Matte, labels: Sequence[Labels]) -> bool:
    """Whether every label refers to the object of the matte, so that it may move with it."""
    if not labels:
        return True
    alpha = matte.uncropped()
    solid = alpha >= 128
    for label in labels:
        for mask in () if label.masks is None else label.masks:
            if mask.shape != matte.size or np.count_nonzero(mask & solid) < _ON_OBJECT * np.count_nonzero(mask):
                return False
        for box in () if label.boxes is None else label.boxes:
            if not _covers(alpha, box) or _overlap(box, _bounds(outline(matte, box))) < _SAME_BOX:
                return False
        for x, y in () if label.points is None else _pixels(label.points):
            if not (0 <= y < alpha.shape[0] and 0 <= x < alpha.shape[1] and solid[y, x]):
                return False
    return True


def _pixels(points: NDArray[np.float64]) -> list[list[int]]:
    """The pixel of each point; -1 for a coordinate that is not a finite number."""
    return [[int(np.floor(v + 0.5)) if np.isfinite(v) else -1 for v in point] for point in points.tolist()]


def _covers(alpha: Alpha, box: NDArray[np.float64]) -> bool:
    inside = alpha[_window(box)]
    return inside.size > 0 and cv2.mean(inside)[0] >= 255 * MIN_BOX_COVERAGE


def _window(box: NDArray[np.float64]) -> tuple[slice, slice]:
    left, top, right, bottom = (max(0, round(float(edge))) if np.isfinite(edge) else 0 for edge in box)
    return slice(top, bottom), slice(left, right)


def _find_in_box(image: Image, box: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """`(H, W)` bool: the object that GrabCut finds in a box, or None if it fills too little or all of the box.

    Rother, Kolmogorov and Blake, "GrabCut" (2004), on the box with a margin of half its size, scaled down.
    """
    rows, columns = _window(box)
    height, width = image.shape[:2]
    box_height, box_width = min(height, rows.stop) - rows.start, min(width, columns.stop) - columns.start
    if min(box_height, box_width) < 4:
        return None
    top, left = max(0, rows.start - box_height // 2), max(0, columns.start - box_width // 2)
    crop = image[top : rows.stop + box_height // 2, left : columns.stop + box_width // 2]
    in_box = np.zeros(crop.shape[:2], np.uint8)
    in_box[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = 1
    scale = min(1.0, _GRABCUT_SIDE / max(crop.shape))
    size = (max(8, round(crop.shape[1] * scale)), max(8, round(crop.shape[0] * scale)))
    likely = np.asarray(cv2.resize(in_box, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    if likely.sum() < 16 or (likely == 0).sum() < 16:
        return None
    trimap = np.where(likely, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    picture = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    model: NDArray[Any] = np.zeros((1, 65))
    cv2.setRNGSeed(0)  # of this thread's generator, which GrabCut's k-means draws from
    cv2.grabCut(picture, trimap, (0, 0, 1, 1), model, model.copy(), _GRABCUT_STEPS, cv2.GC_INIT_WITH_MASK)
    mask = (trimap == cv2.GC_PR_FGD).astype(np.uint8)
    inside = cv2.resize(mask, crop.shape[1::-1], interpolation=cv2.INTER_NEAREST) * in_box > 0
    if not MIN_BOX_COVERAGE <= np.count_nonzero(inside) / np.count_nonzero(in_box) <= _MAX_BOX_COVERAGE:
        return None
    result = np.zeros(image.shape[:2], bool)
    result[top : top + crop.shape[0], left : left + crop.shape[1]] = inside
    return result


def _bounds(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([points.min(0), points.max(0)])


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(sides.clip(0)))
    areas: Any = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])
    return shared / max(1e-9, float(areas) - shared)
