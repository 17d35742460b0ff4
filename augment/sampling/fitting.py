"""The matte at the size of an image that was resized since it was prewarmed."""

from __future__ import annotations

import cv2
import numpy as np

from augment.artifacts import Matte

_SAME_ASPECT = 0.02  # a resize to whole pixels changes the aspect ratio by less, a crop usually by more


def same_aspect(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two `(H, W)` are the same except for a resize that keeps the aspect ratio."""
    if one == other:
        return True
    if min(*one, *other) < 1:
        return False
    # Within a pixel too, which is more at small sizes.
    scale = (other[0] / one[0], other[1] / one[1])
    return abs(scale[0] / scale[1] - 1) < max(_SAME_ASPECT, 1 / min(*one, *other))


def was_resized(matte: Matte, size: tuple[int, ...], original: tuple[int, int] | None) -> bool:
    """Whether an image of that size `(H, W)` is a resize of the matte's.

    Only a known original size makes a change of the aspect ratio a resize: otherwise it is taken for a crop.
    """
    return same_aspect(matte.size, size if original is None else original)


def fitted(matte: Matte, size: tuple[int, ...]) -> Matte | None:
    """The matte stretched to the image's size `(H, W)`; None if nothing of it is left."""
    if matte.size == size:
        return matte
    method = cv2.INTER_AREA if size[0] < matte.size[0] else cv2.INTER_LINEAR
    alpha = np.asarray(cv2.resize(matte.uncropped(), (size[1], size[0]), interpolation=method), np.uint8)
    # Without edge colors: those of the soft pixels belonged to other pixels.
    result = Matte.from_full(alpha, matte.confidence)
    return None if result.unusable else result
