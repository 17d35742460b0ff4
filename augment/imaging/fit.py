"""Change an image to another size by cropping or stretching."""

from __future__ import annotations

import cv2
import numpy as np

from augment.artifacts import Image


def cover(image: Image, height: int, width: int, x: float = 0.5, y: float = 0.5) -> Image:
    """The largest part of `image` with the aspect ratio of `(height, width)`, resized to that size.

    `(H, W, 3)` uint8 to `(height, width, 3)` uint8. `x` and `y`, 0 to 1, set the position of the part: 0 is left or
    top, 1 right or bottom.
    """
    scale = min(image.shape[0] / height, image.shape[1] / width)  # pixels of `image` per pixel of the result
    part_height = min(image.shape[0], max(1, round(height * scale)))
    part_width = min(image.shape[1], max(1, round(width * scale)))
    top = round((image.shape[0] - part_height) * y)
    left = round((image.shape[1] - part_width) * x)
    part = image[top : top + part_height, left : left + part_width]
    if part.shape[:2] == (height, width):
        return np.ascontiguousarray(part)
    # Below half the size, bilinear interpolation would skip pixels. Down to it, averaging takes 6 times as long for no
    # visible difference; when enlarging, Lanczos takes 10 times as long as bicubic.
    method = cv2.INTER_AREA if scale > 2 else cv2.INTER_LINEAR if scale > 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (width, height), interpolation=method), np.uint8)


def stretch(image: Image, height: int, width: int) -> Image:
    """`image`, `(H, W)` or `(H, W, 3)` uint8, resized to that size without cropping, so that a mask still fits it."""
    if image.shape[:2] == (height, width):
        return image
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
