"""What goes with an image and is not understood: if the image changed, it might become wrong without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from augment.artifacts import Image
from augment.errors import InputError
from augment.keys import to_rgb
from augment.sampling.fitting import same_aspect

_SMALLEST = 16  # pixels a side: smaller tables may have an image's aspect ratio by chance
# What datasets call the places of objects.
_NAMES = frozenset(
    {"bbox", "bboxes", "bndbox", "box", "boxes", "bounding_box", "bounding_boxes", "keypoints", "landmarks", "mask"}
    | {"masks", "polygon", "polygons", "segmentation", "segmentations", "segments"}
)


def pixels_of(images: Sequence[Any]) -> list[Image] | str:
    """The images as `(H, W, 3)` uint8; in words, what is wrong with one of them, if it may be something else beside the
    image: a depth map, say. Raises InputError if none can be read."""
    found, fault = [], ""
    for number, image in enumerate(images):
        try:
            found.append(to_rgb(image))
        except InputError as error:
            fault = fault or f"a second picture, such as a depth map: {str(error).partition(':')[0]}"
            if number == len(images) - 1 and not found:
                raise
    return fault or found


def as_picture(value: Any, sizes: Iterable[tuple[int, int]]) -> str:
    """In words, if an array or tensor has a value for each pixel of an image of one of these sizes `(H, W)`; or empty.

    Also one of another resolution: a depth map at half the size, say.
    """
    shape = tuple(getattr(value, "shape", ()))
    if len(shape) < 2:
        return ""
    pairs = list(pairwise(shape))
    for size in sizes:
        if size in pairs or any(min(pair) >= _SMALLEST and same_aspect(pair, size) for pair in (pairs[0], pairs[-1])):
            return f"{type(value).__name__} of {shape}"
    return ""


def untold_place(sample: Any, is_told: Callable[[Any], bool]) -> str:
    """In words, the first entry of a mapping whose name says that it holds places of objects; empty if there is none.

    `is_told` says of a value whether it needs no further look: it is moved, or counts as an image by itself.
    """
    if isinstance(sample, Mapping):
        for name, value in sample.items():
            if name in _NAMES and not is_told(value) and _holds_something(value):
                return f"{name!r} as {type(value).__name__}"
        sample = sample.values()
    elif not isinstance(sample, list | tuple):
        return ""
    return next((found for value in sample if (found := untold_place(value, is_told))), "")


def _holds_something(value: Any) -> bool:
    if isinstance(value, Mapping | list | tuple):
        return len(value) > 0
    return len(getattr(value, "shape", ())) > 0 and 0 not in value.shape
