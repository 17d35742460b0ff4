"""Labeled objects, cut out by their image's matte, and laid over another image.

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (arXiv 2012.07177).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image, Matte
from augment.imaging.composite import Layer, object_colors, object_layer
from augment.sampling.fitting import fitted
from augment.sampling.labels import Labels, is_missing, on_object
from augment.sampling.placement import Move, Placement, PlacementDraws, place, touching

_RIM = 2  # pixels around a mask in which the matte's soft edge still belongs to the object
_SHARED = 0.05  # share of a box that may lie in other boxes: beyond it, the cutout may show another object


@dataclass(frozen=True, eq=False)
class Instances:
    """The objects of a sample: boxes `(n, 4)` left, top, right, bottom in pixels, and masks `(n, H, W)` bool, or None
    if only boxes are labeled."""

    boxes: NDArray[np.float64]
    masks: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.boxes)


def object_matte(matte: Matte, instances: Instances, number: int) -> Matte | str:
    """The part of a matte that is one labeled object; in words, why it cannot be cut out."""
    box, full = instances.boxes[number], matte.uncropped()
    if instances.masks is None:
        label = Labels(boxes=box[None])
        shared = [_shared(box, other) for n, other in enumerate(instances.boxes) if n != number]
        if max(shared, default=0.0) > _SHARED:
            return "another object is in its box"
        region = np.zeros(matte.size, bool)
        left, top, right, bottom = np.round(box).astype(int).clip(0)
        region[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
    else:
        mask = instances.masks[number]
        label = Labels(masks=mask[None])
        kernel = np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)
        region = (cv2.dilate(mask.astype(np.uint8), kernel) > 0) & ~(instances.masks.any(0) & ~mask)
    empty = is_missing(box[None]).any() if instances.masks is None else not region.any()
    if empty or not on_object(matte, [label]):
        return "the matte is not its object"
    found = Matte.from_full(np.where(region, full, 0).astype(np.uint8), matte.confidence)
    if found.unusable:
        return found.unusable
    sides = touching(found)
    if (sides[:2] & sides[2:]).any():
        return "it is cut off on both sides"
    colors = matte.edge_colors
    return replace(found, edge_colors=colors[region[(full > 0) & (full < 255)]] if len(colors) else colors)


@dataclass(frozen=True, eq=False)
class Paste:
    """An object as it lies on another image: its layer, its pixels `(H, W)` bool, and how its labels follow."""

    layer: Layer
    solid: NDArray[np.bool_]
    scale: float  # of lengths
    _fit: tuple[float, int, int]  # the factor and the corner of its image on the other one, before it is moved
    _move: Move

    def box(self, box: NDArray[np.float64]) -> NDArray[np.float64]:
        """`(4,)` left, top, right, bottom of its image on the other one."""
        factor, x, y = self._fit
        return np.asarray(self._move.boxes(box[None] * factor + np.array([x, y, x, y]))[0])

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask `(h, w)` of its image on the other one, `(H, W)`."""
        size = self._move.matte.size
        canvas = np.zeros(size, np.uint8)
        _put(canvas, _resized(mask.astype(np.uint8), self._fit[0]), self._fit)
        return (self._move.masks(canvas) > 0) & self.solid

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """`(n, 2)` x, y by pixel index; missing ones stay as they are."""
        factor, x, y = self._fit
        moved, there = points.copy(), ~is_missing(points)
        moved[there] = self._move.points((points[there] + 0.5) * factor + (x, y) - 0.5)
        return moved


def paste(image: Image, matte: Matte, target: Image, placement: Placement, draws: PlacementDraws) -> Paste | None:
    """An object over the image `target`, which is not changed; None if nothing of it is left.

    An image larger than the target is shrunk to its size first. An object that its image's edge cuts off stays at that
    edge.
    """
    size = target.shape[:2]
    factor = min(1.0, size[0] / matte.size[0], size[1] / matte.size[1])
    left, top, right, bottom = matte.box
    if factor < 1:
        colored = image.copy()
        colored[top:bottom, left:right] = object_colors(image[top:bottom, left:right], matte)
        image = _resized(colored, factor)
        shrunk = fitted(matte, image.shape[:2])
        if shrunk is None:
            return None
        matte = shrunk
        left, top, right, bottom = matte.box
    cut = touching(matte)
    height, width = matte.size
    room = size[1] - width, size[0] - height
    x, y = (
        space if last else 0 if first else space // 2 for space, first, last in zip(room, cut[:2], cut[2:], strict=True)
    )
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[y + top : y + bottom, x + left : x + right] = image[top:bottom, left:right]
    placed = replace(matte, box=(left + x, top + y, right + x, bottom + y), size=size)
    move = place(placement, placed, draws) or Move(np.eye(2, 3), placed)
    layer = object_layer(canvas, placed, target, matrix=move.matrix)
    solid = np.zeros(size, bool)
    solid[layer.window] = layer.alpha >= 128
    return Paste(layer, solid, factor * move.scale, (factor, x, y), move) if solid.any() else None


def visible(instances: Instances, cover: NDArray[np.bool_]) -> tuple[Instances, NDArray[np.float64]]:
    """What is still to be seen of objects under `cover` `(H, W)`, and which share of each, 0 to 1.

    A mask loses what is hidden, and its box becomes that of the rest. Without masks, a box stays as it is.
    """
    if instances.masks is None:
        windows = [tuple(map(int, box)) for box in np.round(instances.boxes).clip(0)]
        hidden = [cover[top:bottom, left:right] for left, top, right, bottom in windows]
        return instances, np.array([1 - float(part.mean()) if part.size else 1.0 for part in hidden])
    masks, boxes = instances.masks & ~cover, instances.boxes.copy()
    before, after = (values.sum((1, 2)) for values in (instances.masks, masks))
    for number in np.flatnonzero((after < before) & (after > 0)):
        left, top, width, height = cv2.boundingRect(masks[number].astype(np.uint8))
        boxes[number] = left, top, left + width, top + height
    return Instances(boxes, masks), after / np.maximum(1, before)


def _shared(box: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The share of a box that lies in another one."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return float(np.prod(sides.clip(0)) / max(1e-9, float(np.prod(box[2:] - box[:2]))))


def _resized(image: Image, factor: float) -> Image:
    if factor == 1:
        return image
    height, width = (max(1, int(side * factor)) for side in image.shape[:2])
    method = cv2.INTER_AREA if image.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (width, height), interpolation=method))


def _put(canvas: Image, part: Image, fit: tuple[float, int, int]) -> None:
    _, x, y = fit
    canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
