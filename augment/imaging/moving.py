"""Move an object by an affine map."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Image, Matte

_PAD = 2  # pixels that are repeated where the image cuts the object off
_AVERAGED = 0.5  # bilinear interpolation reads four pixels: below this scale it would skip some


def moved(
    colors: Image, alpha: Alpha, matte: Matte, matrix: NDArray[np.float64]
) -> tuple[Image, Alpha, tuple[int, int]]:
    """Colors and alpha of a matte's box moved by `matrix`, in the smallest window that holds them; its left and top.

    `matrix` (2, 3) maps continuous coordinates, see `augment.sampling.placement`. The object is clipped to the image.
    """
    linear, offset = matrix[:, :2], matrix[:, 2]
    whole = np.floor(offset + 0.5)
    if np.array_equal(linear, np.eye(2)) and np.abs(offset - whole).max() < 1e-6:
        return _shifted(colors, alpha, matte, int(whole[0]), int(whole[1]))
    return _warped(colors, alpha, matte, linear, offset)


def _shifted(colors: Image, alpha: Alpha, matte: Matte, x: int, y: int) -> tuple[Image, Alpha, tuple[int, int]]:
    """Moved by whole pixels, byte for byte."""
    height, width = matte.size
    left, top, right, bottom = matte.box
    columns = slice(max(0, -left - x), max(0, min(right, width - x) - left))
    rows = slice(max(0, -top - y), max(0, min(bottom, height - y) - top))
    corner = (max(0, left + x), max(0, top + y))
    return colors[rows, columns], alpha[rows, columns], corner


def _warped(
    colors: Image, alpha: Alpha, matte: Matte, linear: NDArray[np.float64], offset: NDArray[np.float64]
) -> tuple[Image, Alpha, tuple[int, int]]:
    height, width = matte.size
    left, top, right, bottom = matte.box
    # Colors are weighted by alpha, so that the surroundings of the object do not bleed into its edge.
    stack = cv2.cvtColor(colors, cv2.COLOR_RGB2RGBA)
    cv2.multiply(stack, cv2.merge([alpha] * 4), dst=stack, scale=1 / 255)
    # Interpolation would fade the sides where the image cuts the object off, so the last pixels are repeated there.
    above, below, before, after = (_PAD * cut for cut in (top == 0, bottom == height, left == 0, right == width))
    if above or below or before or after:
        stack = cv2.copyMakeBorder(stack, above, below, before, after, cv2.BORDER_REPLICATE)
    (xx, xy), (yx, yy) = linear.tolist()
    x, y = (linear @ (left - before, top - above) + offset).tolist()
    scale = math.sqrt(abs(xx * yy - xy * yx))
    if scale < _AVERAGED:
        rows, columns = stack.shape[:2]
        small = (max(1, round(columns * scale)), max(1, round(rows * scale)))
        stack = cv2.resize(stack, small, interpolation=cv2.INTER_AREA)
        xx, yx, xy, yy = xx * columns / small[0], yx * columns / small[0], xy * rows / small[1], yy * rows / small[1]
    # Interpolation reaches half a pixel beyond the outermost ones.
    ends = [(u, v) for u in (-0.5, stack.shape[1] + 0.5) for v in (-0.5, stack.shape[0] + 0.5)]
    xs, ys = [xx * u + xy * v + x for u, v in ends], [yx * u + yy * v + y for u, v in ends]
    left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
    size = (min(width, math.ceil(max(xs))) - left, min(height, math.ceil(max(ys))) - top)
    if min(size) <= 0:
        return colors[:0, :0], alpha[:0, :0], (0, 0)
    # OpenCV's coordinates refer to pixel centers.
    shift = (xx + xy) / 2 + x - left - 0.5, (yx + yy) / 2 + y - top - 0.5
    centers = np.array([[xx, xy, shift[0]], [yx, yy, shift[1]]])
    stack = cv2.warpAffine(stack, centers, size, flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0, 0))
    alpha = np.asarray(cv2.extractChannel(stack, 3), np.uint8)
    colors = cv2.divide(cv2.cvtColor(stack, cv2.COLOR_RGBA2RGB), cv2.merge([alpha] * 3), scale=255)
    return np.asarray(colors, np.uint8), alpha, (left, top)
