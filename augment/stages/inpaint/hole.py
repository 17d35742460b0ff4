"""From images and mattes to plates, one hole at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image, Matte
from augment.errors import ItemFailed


def per_hole(
    images: Sequence[Image],
    mattes: Sequence[Matte],
    grow: float,
    paint: Callable[[Image, NDArray[np.bool_]], Image],
) -> list[Image | ItemFailed]:
    """Plates from `paint(image, hole)`, `(H, W, 3)` uint8 and `(H, W)` bool; outside the hole the image's own pixels.

    The hole is the matte grown by `grow` of the image's diagonal. ItemFailed where it leaves no pixel to paint from.
    """
    return [_plate(image, matte, grow, paint) for image, matte in zip(images, mattes, strict=True)]


def _plate(
    image: Image, matte: Matte, grow: float, paint: Callable[[Image, NDArray[np.bool_]], Image]
) -> Image | ItemFailed:
    if not matte.alpha.any():
        return image.copy()
    hole = matte.hole(grow)
    if hole.all():
        return ItemFailed(
            f"no visible pixel is left to paint the object out with: its matte, grown by {grow:g} of the diagonal, "
            "covers the image; lower inpaint.grow or leave this image out"
        )
    return np.where(hole[..., None], paint(image, hole), image)
