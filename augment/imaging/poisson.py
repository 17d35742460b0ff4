"""Lessen the step in color at an object's edge."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Image

_REACH = 0.03  # of the diagonal of the object's window; chosen by eye: at 0.08, slim objects take the background's hue
_SIDE = 72  # pixels of the grid that is solved: the correction is smooth
_ERODED = 3  # pixels by which OpenCV shrinks the mask
_MARGIN = 2 * _ERODED  # OpenCV needs pixels around the mask and clears the outermost ones
_AROUND = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))


def poisson(colors: Image, alpha: Alpha, background: Image) -> Image:
    """The object with its gradients kept, but near its edge with colors halfway to the background's.

    `colors` and `background` are `(h, w, 3)`, `alpha` `(h, w)`, uint8. OpenCV's implementation of Pérez, Gangnet and
    Blake, "Poisson Image Editing" (2003), run only on the object's window and a margin. In full, it would change all
    of a plain object and remove the contrast of a slim one. It is therefore halved and fades inwards. What it adds to
    the object is smooth, and is computed on a coarse grid.
    """
    height, width = alpha.shape
    factor = max(1.0, max(height, width) / _SIDE)
    source, target, solid = colors, background, alpha >= 128
    if factor > 1:
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        weighted = cv2.multiply(cv2.cvtColor(colors, cv2.COLOR_RGB2RGBA), cv2.merge([alpha] * 4), scale=1 / 255)
        small, target = _shrunk(weighted, size, factor), _shrunk(background, size, factor)
        solid = small[..., 3] >= 128
        source = _extended(small.astype(np.float32))
    change = _change(source, target, solid, factor, _REACH * float(np.hypot(height, width)))
    if change is None:
        return colors
    if factor > 1:
        change = np.asarray(cv2.resize(change, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    result = cv2.add(colors, change, dtype=cv2.CV_8U)
    # Soft pixels outside the mask already have the background's color here, and would fade twice.
    cv2.copyTo(colors, cv2.inRange(alpha, 0, 127), result)
    return np.asarray(result, np.uint8)


def _shrunk(image: Image, size: tuple[int, int], factor: float) -> Image:
    width = 2 * int(factor / 2) + 1
    return np.asarray(cv2.resize(cv2.blur(image, (width, width)), size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _extended(weighted: NDArray[np.float32]) -> Image:
    """The colors of RGBA pixels that are weighted by alpha, continued around the object."""
    wide = cv2.blur(weighted, (2 * _ERODED + 1, 2 * _ERODED + 1), borderType=cv2.BORDER_CONSTANT)
    weighted = np.where(weighted[..., 3:] >= 128, weighted, wide)
    colors = weighted[..., :3] * (255 / np.maximum(weighted[..., 3:], 1))
    return np.asarray(np.minimum(colors, 255).astype(np.uint8))


def _change(
    source: Image, target: Image, solid: NDArray[np.bool_], factor: float, reach: float
) -> NDArray[np.float32] | None:
    """What to add to the source, `(h, w, 3)`; None if the object is too small to have an inside."""
    mask = np.pad(solid.astype(np.uint8) * np.uint8(255), _MARGIN)
    left, top, width, height = cv2.boundingRect(mask)
    if min(width, height) < 3:
        return None
    # OpenCV erodes the mask, by pixels of the image and not of the grid. It also inverts it in place.
    solved = cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=round(_ERODED - _ERODED / factor))
    left, top, width, height = cv2.boundingRect(solved)
    source, target = (np.pad(part, _AROUND, mode="edge") for part in (source, target))
    cloned = cv2.seamlessClone(source, target, solved, (left + width // 2, top + height // 2), cv2.NORMAL_CLONE)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)  # 1 at the edge
    share = 0.5 * np.exp((1 - depth) * (factor / reach))
    share[mask == 0] = 0
    change = np.subtract(cloned, source, dtype=np.float32) * share[..., None]
    if factor > 1:  # interpolation reads pixels next to the object too: they get the mean of the object's next to them
        inside = mask / np.float32(255)
        near = cv2.blur(change, (3, 3)) / np.maximum(cv2.blur(inside, (3, 3)), 1e-3)[..., None]
        change = np.where(inside[..., None] > 0, change, near)
    return np.asarray(change[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN], np.float32)
