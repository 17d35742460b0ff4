"""Convert Pillow images to arrays and back, with fewer copies than Pillow itself makes."""

from __future__ import annotations

import ctypes
import warnings
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

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
_memoryview = ctypes.pythonapi.PyMemoryView_FromMemory
_memoryview.restype = ctypes.py_object
_memoryview.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_PYBUF_WRITE = 0x200


def rgb_array(image: PIL.Image.Image) -> Image:
    """`(H, W, 3)` uint8 from an image of mode RGB."""
    memory = _memory(image)
    return np.asarray(image) if memory is None else np.asarray(cv2.cvtColor(memory.pixels, cv2.COLOR_RGBA2RGB))


def rgb_image(array: Image) -> PIL.Image.Image:
    """An image of mode RGB from `(H, W, 3)` uint8."""
    image = PIL.Image.new("RGB", array.shape[1::-1], None)  # `PIL.Image.fromarray` clears its memory first
    memory = _memory(image)
    if memory is None:
        image.frombytes(np.ascontiguousarray(array).data)
    else:
        cv2.cvtColor(array, cv2.COLOR_RGB2RGBA, dst=memory.pixels)
    return image


class _Memory(NamedTuple):
    """The memory of an image of mode RGB: `(H, W, 4)` uint8, valid for as long as `owner` exists."""

    pixels: NDArray[np.uint8]
    owner: object


def _memory(image: PIL.Image.Image) -> _Memory | None:
    """The image's own pixels without a copy, or None if they are not in one block (more than 16 MB) or there are none.

    Uses the Arrow C data interface: Pillow stores four bytes per pixel and exports them as lists of four.
    """
    if not image.width or not image.height:
        return None
    try:
        _, capsule = image.__arrow_c_array__()
    except ValueError:  # not in one block
        return None
    array = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
    # Not a ctypes array: that needs a new type for each size, which only the garbage collector can free.
    view = _memoryview(array.children[0].contents.buffers[1], 4 * array.length, _PYBUF_WRITE)
    return _Memory(np.frombuffer(view, np.uint8).reshape(image.height, image.width, 4), capsule)


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
