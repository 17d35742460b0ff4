"""GrabCut as it was made: the object inside a box that somebody drew around it."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Image
from augment.imaging.edges import find_edge

_Mask: TypeAlias = NDArray[Any]  # (H, W) bool
_Window: TypeAlias = tuple[slice, slice]  # rows and columns

_MARGIN = 0.5  # of the box's sides: what is seen around it is the background to tell the object from
_STEPS = 5
_PART = 0.1  # of the largest part's area: a smaller part is noise
_HOLE = 0.003  # of the object's area: a smaller hole is noise
_LEAST = 8  # pixels that are seen around a box at least
_COVER = (0.1, 0.97)  # of its box: what covers less is not the object, and above it no edge was found, only the box


def cut_boxes(image: Image, boxes: NDArray[np.float64], size: int) -> tuple[Alpha, float]:
    """`(H, W)` uint8 alpha of the objects in all boxes, and the confidence, 0 to 1, of the one that is least certain.

    Each is found with its surroundings scaled to `size` pixels, if they are larger. A certain object reaches all four
    sides of its box, and is found again from other seeds: the confidence is the lower of two overlaps (IoU), of the box
    with the bounds of what was found, and of what was found with what is found from the ellipse inside the box.
    """
    alpha = np.zeros(image.shape[:2], np.uint8)
    confidences = [_add_object(image, boxes, box, size, alpha) for box in boxes]
    return alpha, min(confidences)


def _add_object(image: Image, boxes: NDArray[np.float64], box: NDArray[np.float64], size: int, alpha: Alpha) -> float:
    """Draw one box's object into the alpha; returns the confidence."""
    around = _around(box, image.shape)
    crop = image[around]
    if not crop.size:
        return 0.0
    scale = min(1.0, size / max(crop.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in crop.shape[:2])
    to_small = np.array([width / crop.shape[1], height / crop.shape[0]] * 2)
    corner = np.array([around[1].start, around[0].start] * 2)
    own, *others = (_filled((one - corner) * to_small, (height, width)) for one in [box, *boxes])
    # Another object is not background: two of a kind would look like it otherwise.
    likely = np.any(others, axis=0)
    small = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    mask = _without_noise(_cut(small, likely, likely) & own)
    again = _without_noise(_cut(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), likely, likely & (~own | _ellipse(own))) & own)
    np.maximum(alpha[around], find_edge(crop, mask), out=alpha[around])
    return min(_reach(mask, own), int((mask & again).sum()) / max(1, int((mask | again).sum())))


def _around(box: NDArray[np.float64], shape: tuple[int, ...]) -> _Window:
    """The box with its margin, within the image."""
    left, top, right, bottom = box
    margin = [max(_LEAST, _MARGIN * side) for side in (right - left, bottom - top)]
    columns = slice(max(0, math.floor(left - margin[0])), max(0, min(shape[1], math.ceil(right + margin[0]))))
    rows = slice(max(0, math.floor(top - margin[1])), max(0, min(shape[0], math.ceil(bottom + margin[1]))))
    return rows, columns


def _filled(box: NDArray[np.float64], shape: tuple[int, int]) -> _Mask:
    """`(H, W)` bool: the pixels of the box, at least one if it is not outside."""
    mask = np.zeros(shape, bool)
    left, top = np.floor(box[:2] + 0.5).astype(int).clip(0)
    right, bottom = np.maximum(np.floor(box[2:] + 0.5).astype(int), (left + 1, top + 1)).clip(0)
    mask[top:bottom, left:right] = True
    return mask


def _ellipse(box: _Mask) -> _Mask:
    """The pixels of the ellipse inside a box."""
    left, top, width, height = cv2.boundingRect(box.astype(np.uint8))
    drawn = np.zeros(box.shape, np.uint8)
    centre = (left + (width - 1) / 2, top + (height - 1) / 2)
    cv2.ellipse(drawn, (centre, (float(width), float(height)), 0.0), 1, -1)
    return drawn > 0


def _cut(image: Image, possible: _Mask, likely: _Mask) -> _Mask:
    """GrabCut's mask, with what is not possible as certain background and only the likely part as object to begin
    with."""
    if not likely.any() or likely.all() or possible.all():  # nothing is seen of the background
        return possible
    labels = np.where(likely, cv2.GC_PR_FGD, np.where(possible, cv2.GC_PR_BGD, cv2.GC_BGD)).astype(np.uint8)
    cv2.setRNGSeed(0)  # this thread's own generator, which starts GrabCut's k-means
    background_model, object_model = np.zeros((1, 65)), np.zeros((1, 65))
    whole = (0, 0, 0, 0)  # the rectangle is not read if a mask starts the cut
    cv2.grabCut(image, labels, whole, background_model, object_model, _STEPS, cv2.GC_INIT_WITH_MASK)
    cut: _Mask = labels == cv2.GC_PR_FGD
    return cut


def _without_noise(mask: _Mask) -> _Mask:
    """The mask without its small parts and without its small holes."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0
    kept = (areas[labels] > 0) & (areas[labels] >= _PART * areas.max())
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < _HOLE * kept.sum()
    filled: _Mask = kept | (small[labels] & ~kept)
    return filled


def _reach(mask: _Mask, box: _Mask) -> float:
    """The overlap of the box with the box of the mask, 0 to 1; 0 if the mask is all of the box, or hardly any."""
    _, _, width, height = cv2.boundingRect(mask.astype(np.uint8))
    cover = mask.sum() / max(1, box.sum())
    return float(width * height / max(1, box.sum())) if _COVER[0] <= cover <= _COVER[1] else 0.0
