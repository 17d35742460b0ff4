"""Move an object's colors towards those of its background."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Image

_MOST_MOVED = np.array([40.0, 12.0, 12.0])  # 8-bit Lab; chosen by eye: beyond it, objects turn pale or blue
_SAMPLE = 48  # pixels a side, of object and background: enough for means and deviations
_RIDGE = 1.0  # gray levels of variation below which a color is only moved, not stretched


def harmonized(colors: Image, alpha: Alpha, background: Image, strength: float) -> Image:
    """Means and deviations in Lab moved `strength`, 0 to 1, of the way to the background's.

    After Reinhard et al., "Color Transfer between Images" (2001), but bounded: a flat background does not remove the
    object's contrast, and a colorful one does not remove its color, which may identify it. The change is computed for
    a sample of the object's colors and applied as the affine map of RGB that comes closest to it.
    """
    sample = _sample(colors, alpha)
    if not len(sample):
        return colors
    moved = _moved(sample, background, strength)
    return np.asarray(cv2.transform(colors, _affine(sample.astype(np.float64), moved.astype(np.float64))))


def _sample(colors: Image, alpha: Alpha) -> NDArray[np.uint8]:
    """`(n, 3)` of the object's pixels, on a grid."""
    step = max(1, int(np.ceil(np.sqrt(alpha.size) / _SAMPLE)))
    for grid in (slice(step // 2, None, step), slice(None)):
        solid = alpha[grid, grid] > 127
        if solid.any():
            return np.asarray(colors[grid, grid][solid], np.uint8)
    return np.empty((0, 3), np.uint8)


def _moved(sample: NDArray[np.uint8], background: Image, strength: float) -> NDArray[np.uint8]:
    """The sample with its statistics moved to the background's."""
    lab = cv2.cvtColor(sample[None], cv2.COLOR_RGB2LAB)
    mean, deviation = (values.ravel() for values in cv2.meanStdDev(lab))
    # Averaging 2 x 2 pixels of a coarser grid is 10 times as fast as averaging all of them.
    small = cv2.resize(background, (2 * _SAMPLE, 2 * _SAMPLE), interpolation=cv2.INTER_NEAREST)
    small = cv2.resize(small, (_SAMPLE, _SAMPLE), interpolation=cv2.INTER_AREA)
    target_mean, target_deviation = (
        values.ravel() for values in cv2.meanStdDev(cv2.cvtColor(small, cv2.COLOR_RGB2LAB))
    )
    ratio = ((target_deviation + 1) / (deviation + 1)).clip(0.7, 1.4)
    scale = 1 + strength * (ratio - 1)
    moved_by = (strength * (target_mean - mean)).clip(-_MOST_MOVED, _MOST_MOVED)
    table = np.arange(256)[:, None] * scale + (mean + moved_by - scale * mean)
    moved = cv2.LUT(lab, table.round().clip(0, 255).astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(moved, cv2.COLOR_LAB2RGB)[0], np.uint8)


def _affine(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """The map (3, 4) closest to `before` -> `after`, in least squares; identity along colors that do not vary."""
    mean = before.mean(0)
    centered, change = before - mean, after - before
    moments = centered.T @ centered + _RIDGE**2 * len(before) * np.eye(3)
    linear = np.eye(3) + np.linalg.solve(moments, centered.T @ change).T
    return np.column_stack([linear, after.mean(0) - linear @ mean])
