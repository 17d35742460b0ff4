"""Finds out that images come as BGR, as OpenCV decodes them."""

from __future__ import annotations

import numpy as np

from augment.artifacts import PLATE, Image, Matte
from augment.imaging.fit import stretch
from augment.keys import image_key
from augment.store.reader import Reader

BGR = (
    "their channels are in the order BGR, as OpenCV decodes images: convert them before ReplaceBackground, with "
    "`cv2.cvtColor(image, cv2.COLOR_BGR2RGB)`"
)
_LIKE = 8.0  # gray levels: a resized image differs less from its plate, where the plate shows the image itself


def flipped(image: Image) -> Image:
    """The image with its channels in the opposite order."""
    return np.ascontiguousarray(image[..., ::-1])


def is_bgr(image: Image, key: str, matte: Matte, reader: Reader) -> bool:
    """Whether the image `(H, W, 3)` is that of the key, its channels in the opposite order; `matte` is at its size.

    A resized image is compared with its plate, outside the object.
    """
    if image_key(image) == key:
        return False
    if image_key(flipped(image)) == key:
        return True
    plate = reader.get(PLATE, key)
    outside = matte.uncropped() == 0
    if plate is None or not outside.any():
        return False
    pixels = image[outside].astype(np.int16)
    seen = stretch(plate, *image.shape[:2])[outside].astype(np.int16)
    as_rgb, as_bgr = (float(np.abs(seen - order).mean()) for order in (pixels, pixels[:, ::-1]))
    return as_bgr < _LIKE and as_bgr < as_rgb / 2
