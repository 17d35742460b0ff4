"""Labels that a composite must not make wrong: which of them a matte keeps, and how it is widened to keep them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Matte

_MIN_BOX_COVERAGE = 0.3  # a slim diagonal object fills about a third of its box


@dataclass(frozen=True, eq=False)
class Labels:
    """What a sample says of where its objects are, in pixels of an image of `size` `(H, W)`.

    `mask` is `(H, W)` bool, any instance; `boxes` `(n, 4)` float as left, top, right, bottom; `points` `(n, 2)` float
    x, y.
    """

    mask: NDArray[np.bool_] | None = None
    boxes: NDArray[np.float64] | None = None
    points: NDArray[np.float64] | None = None


def protected(matte: Matte, labels: Sequence[Labels]) -> Matte | None:
    """The matte widened to hold every labelled pixel, or None where it cannot: then the sample must stay as it is.

    Masks are united with the matte. A box that holds too little of it, or a point off it, means that the matte is not
    (all of) what the label speaks of.
    """
    found = matte.full()
    alpha = found
    for mask in (label.mask for label in labels if label.mask is not None):
        if mask.shape != matte.size:
            return None
        alpha = np.where(mask, np.uint8(255), alpha)
    for label in labels:
        if label.boxes is not None and not all(_covers(alpha, box) for box in label.boxes):
            return None
        if label.points is not None and not all(_holds(alpha, point) for point in label.points):
            return None
    if alpha is found:
        return matte
    widened = Matte.from_full(alpha, matte.confidence)
    if widened.unusable:
        return None
    # Soft pixels that a mask made opaque have no colour of their own any more: they keep the image's.
    still_soft = alpha[(found > 0) & (found < 255)] < 255
    return replace(widened, edge_colors=matte.edge_colors[still_soft] if len(matte.edge_colors) else matte.edge_colors)


def _covers(alpha: NDArray[np.uint8], box: NDArray[np.float64]) -> bool:
    left, top, right, bottom = (max(0, round(float(edge))) for edge in box)
    inside = alpha[top:bottom, left:right]
    return inside.size > 0 and cv2.mean(inside)[0] >= 255 * _MIN_BOX_COVERAGE


def _holds(alpha: NDArray[np.uint8], point: NDArray[np.float64]) -> bool:
    x, y = int(point[0]), int(point[1])
    return 0 <= y < alpha.shape[0] and 0 <= x < alpha.shape[1] and bool(alpha[y, x] >= 128)
