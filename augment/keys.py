"""The image hash: one key per image, whatever form its pixels come in."""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

import cv2
import numpy as np
import PIL.Image
import torch
import xxhash

from augment.artifacts import Image
from augment.errors import InputError
from augment.imaging.pillow import rgb_array

Window: TypeAlias = tuple[float, float]  # the values of a high-depth image that become 0 and 255

_OVERSHOOT = 0.2  # what a bicubic resize may leave outside 0 … 1


class Key(str):
    """The key or the path of a sample's image, which goes with it through transforms that change its pixels.

    `size` (H, W), if given, is the image's original size, and promises that it was only resized since then. The aspect
    ratio may have changed. Without it, an image of another aspect ratio than the original is taken for a crop.
    """

    size: tuple[int, int] | None

    def __new__(cls, text: object, size: tuple[int, int] | None = None) -> Key:
        key = super().__new__(cls, text)
        key.size = size
        return key


def to_rgb(image: Any, window: Window | None = None) -> Image:
    """Convert any image to `(H, W, 3)` uint8 RGB, C-contiguous.

    Takes a PIL image, an array `(H, W)` or `(H, W, 1 | 3 | 4)`, or a tensor `(1 | 3 | 4, H, W)` (also a tv_tensor).
      - Grayscale is repeated over three channels, alpha is dropped, and palettes and CMYK are converted as PIL does.
      - Of 16-bit values only the top 8 bits are used, as in `torchvision.transforms.v2.ToDtype(scale=True)` (PIL's own
        `convert("RGB")` clips them instead). PIL's 32-bit modes are rejected if they hold more than 16 bits.
      - Floats are read as 0 … 1 and scaled as in torchvision, so that uint8 → float → uint8 is exact.

    `window` (low, high) says which values of an image of more than 8 bits become 0 and 255, as in radiology: 12-bit
    data in a 16-bit file needs (0, 4095). Images of 8 bits are not changed by it.

    The result may share memory with the input. Raises InputError for any other form, and for floats that are not
    numbers or clearly outside 0 … 1.
    """
    if isinstance(image, PIL.Image.Image):
        return _from_pil(image, window)
    if window is not None:
        image = _windowed_any(image, window)
    if isinstance(image, torch.Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise InputError(
        f"not an image: {type(image).__name__}; pass a PIL image, an array (H, W, C) or a tensor (C, H, W)"
    )


def image_key(image: Any) -> str:
    """xxh3-128 of the shape and the RGB pixels (see `to_rgb`), as 32 hex digits."""
    pixels = to_rgb(image)
    digest = xxhash.xxh3_128(struct.pack("<3I", *pixels.shape))
    digest.update(pixels.data)
    return digest.hexdigest()


def scene_key(prompt: str) -> str:
    """xxh3-128 of a prompt, as 32 hex digits: the key of the scenes that are made from it.

    It is no image's key: an image that begins with the same bytes would have 10⁹ rows.
    """
    return xxhash.xxh3_128_hexdigest(b"scene:" + prompt.encode())


def _windowed_any(image: Any, window: Window) -> Any:
    """An array or tensor of more than 8 bits as uint8."""
    if isinstance(image, torch.Tensor):
        values = image.detach().cpu()
        array = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        return image if array.dtype.itemsize == 1 else torch.from_numpy(windowed(array, window))
    return image if not isinstance(image, np.ndarray) or image.dtype.itemsize == 1 else windowed(image, window)


def windowed(values: np.ndarray[Any, Any], window: Window) -> np.ndarray[Any, Any]:
    """Values of any shape and type to uint8: the window's low value becomes 0, its high value 255."""
    low, high = window
    scaled = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.asarray((np.nan_to_num(scaled).clip(0, 1) * (256 - 1e-3)).astype(np.uint8))


def _from_pil(image: PIL.Image.Image, window: Window | None) -> Image:
    if window is not None and image.mode[0] in "IF":
        return _from_array(windowed(np.asarray(image), window))
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise InputError(
                f"a PIL image of mode {image.mode} with values outside 0 … 65535; scale it to 8 or 16 bits"
            )
        return _from_array(values.astype(np.uint16))
    if image.mode == "F":
        raise InputError("a PIL image of mode F has no stated range; pass a window, or convert it to 8 or 16 bits")
    if not image.width or not image.height:
        raise InputError(f"an image without pixels: {image.size}")
    try:
        return rgb_array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise InputError(f"a PIL image that cannot be read, because it was closed: {error}") from error


def _from_tensor(image: torch.Tensor) -> Image:
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise InputError(f"an image tensor is (1 | 3 | 4, H, W); got {tuple(image.shape)}")
    if image.numel() == 0:
        raise InputError(f"an image without pixels: {tuple(image.shape)}")
    try:
        image = image.detach().cpu()
        array = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    except (TypeError, NotImplementedError, RuntimeError) as error:  # of the meta device, sparse, quantized
        raise InputError(f"a tensor of {image.layout} on {image.device} whose values cannot be read") from error
    if len(array) == 1:
        return _from_array(array[0])
    pixels = array[:3].transpose(1, 2, 0)
    # A tensor from `pil_to_tensor` is a view of (H, W, 3) memory, so nothing is left to do. For any other tensor,
    # cv2.merge interleaves the planes several times faster than a strided copy.
    if pixels.flags.c_contiguous:
        return _to_uint8(pixels)
    return np.asarray(cv2.merge([np.ascontiguousarray(_to_uint8(plane)) for plane in array[:3]]))


def _from_array(image: np.ndarray[Any, Any]) -> Image:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise InputError(f"an image array is (H, W) or (H, W, 1 | 3 | 4); got {image.shape}")
    if image.size == 0:
        raise InputError(f"an image without pixels: {image.shape}")
    pixels = _to_uint8(image)
    if pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_GRAY2RGB))
    return np.ascontiguousarray(pixels[..., :3])


def _to_uint8(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # of either byte order
        return (values >> 8).astype(np.uint8)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype.kind == "f":
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # NaN fails both
            raise InputError(
                f"floats from {low:g} to {high:g}: a float image is 0 … 1; divide 0 … 255 by 255, and put this "
                "transform before any normalization"
            )
        # As torchvision's to_dtype: 256 equal bins, the last one including its upper end.
        return (values.astype(np.float32).clip(0, 1) * (256 - 1e-3)).astype(np.uint8)
    raise InputError(
        f"image values of type {values.dtype}; use uint8, uint16, bool or a float in 0 … 1, or pass a window"
    )
