"""Convert Pillow images to arrays and back, with fewer copies than Pillow itself makes."""

from __future__ import annotations

import ctypes
import warnings

import cv2
import numpy as np
import PIL.Image

from augment.artifacts import Image

_EXIF_ORIENTATION = 0x0112


class _ArrowArray(ctypes.Structure):
    """The struct defined in https://arrow.apache.org/docs/format/CDataInterface.html."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


def rgb_array(image: PIL.Image.Image) -> Image:
    """`(H, W, 3)` uint8 from an image of mode RGB.

    Uses the Arrow C data interface: Pillow stores four bytes per pixel and exports them as lists of four, without a
    copy if they are in one block.
    """
    if not image.width or not image.height:
        return np.asarray(image)
    try:
        _, capsule = image.__arrow_c_array__()
    except ValueError:  # larger than one block (16 MB)
        return np.asarray(image)
    array = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
    memory = (ctypes.c_uint8 * (4 * array.length)).from_address(array.children[0].contents.buffers[1])
    pixels = np.frombuffer(memory, np.uint8).reshape(image.height, image.width, 4)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB))  # a copy: `capsule` keeps the memory only until here


def rgb_image(array: Image) -> PIL.Image.Image:
    """An image of mode RGB from `(H, W, 3)` uint8; `PIL.Image.fromarray` clears its memory first."""
    image = PIL.Image.new("RGB", array.shape[1::-1], None)
    image.frombytes(np.ascontiguousarray(array).data)
    return image


def exif_orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none, or if the metadata cannot be read: the pixels are all there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds of errors for damaged metadata
        return 1
    return orientation if orientation in range(1, 9) else 1


def oriented(pixels: Image, orientation: int) -> Image:
    """`(H, W, 3)` turned and mirrored as an EXIF orientation says, the same as `PIL.ImageOps.exif_transpose`."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
