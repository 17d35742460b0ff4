"""What a Pillow image carries beside its pixels: a composite gets the same, so that transforms treat both alike."""

from __future__ import annotations

import PIL.Image

from augment.imaging.pillow import exif_orientation

_ORIENTATION = 0x0112


def with_metadata(result: PIL.Image.Image, image: PIL.Image.Image) -> PIL.Image.Image:
    """`result`, changed to have the metadata of `image`: its `info` (EXIF, ICC profile, resolution) and orientation."""
    result.info = image.info.copy()
    # An opened TIFF file, or EXIF that was changed after reading, has an orientation that `info` does not show.
    if hasattr(image, "tag_v2") or getattr(image, "_exif", None) is not None:
        orientation = exif_orientation(image)
        if orientation != exif_orientation(result):
            result.getexif()[_ORIENTATION] = orientation
    return result
