"""Pictures that a server sends: what they claim to be is looked at before anything is decoded."""

from __future__ import annotations

import io

import PIL.Image

from augment.artifacts import Image, decode_image
from augment.errors import CorruptEntry

_FORMATS = ("PNG", "JPEG", "WEBP")


def decode_bounded(data: bytes, most_pixels: int) -> Image:
    """A PNG, JPEG or WebP file to `(H, W, 3)` uint8 RGB.

    Raises CorruptEntry, before any memory is taken for its pixels, if it is none or has more than `most_pixels`.
    """
    try:
        with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            width, height = file.size
    except PIL.Image.DecompressionBombError:
        width = height = most_pixels
    except Exception as error:  # Pillow's readers raise whatever their format's library does
        raise CorruptEntry("not a PNG, JPEG or WebP image") from error
    if width * height > most_pixels:
        raise CorruptEntry(f"an image of more than {most_pixels / 1e6:.0f} megapixels; not decoded")
    return decode_image(data)
