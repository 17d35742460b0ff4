"""What the items of a Dataset hold: the image, its group, and the dataset's own mask."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Subset
from torchvision import tv_tensors

from augment.errors import InputError

_LABELS = ("label", "labels", "class", "category", "group", "target")


def resolve(dataset: Any, index: int) -> tuple[Any, int]:
    """The dataset that an item comes from, and its number there: out of any Subset and ConcatDataset."""
    while True:
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, int(dataset.indices[index])
        elif isinstance(dataset, ConcatDataset):
            number = bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[number - 1] if number else 0
            dataset = dataset.datasets[number]
        else:
            return dataset, index


def path_of(dataset: Any, index: int) -> str | None:
    """The path of an item of torchvision's ImageFolder and DatasetFolder; None if the dataset does not say."""
    dataset, index = resolve(dataset, index)
    pairs = getattr(dataset, "samples", None)
    if isinstance(pairs, Sequence) and index < len(pairs) and isinstance(pairs[index], tuple):
        return str(pairs[index][0])
    return None


def image_of(sample: Any) -> Any:
    """The image of an item: itself, its first part, or the only image of a dict. Raises InputError."""
    if isinstance(sample, dict):
        if "image" in sample:
            return sample["image"]
        images = [name for name, value in sample.items() if _may_be_image(value)]
        if len(images) != 1:
            names = ", ".join(map(str, images or sample))
            raise InputError(f'{len(images)} of its columns are images ({names}): call the one to use "image"')
        return sample[images[0]]
    return sample[0] if isinstance(sample, tuple | list) else sample


def group_of(dataset: Any, index: int, sample: Any) -> str | None:
    """The name of an item's class: by `classes` of the dataset it comes from, by the `features` of a Hugging Face
    dataset, or a text under a usual name in a dict; None if nothing says."""
    dataset, _ = resolve(dataset, index)
    if isinstance(sample, dict):
        name = next((name for name in _LABELS if name in sample), None)
        value = None if name is None else sample[name]
        if isinstance(value, str):
            return value
        classes = getattr((getattr(dataset, "features", None) or {}).get(name), "names", None)
    elif isinstance(sample, tuple | list) and len(sample) > 1:
        value, classes = sample[1], None
    else:
        return None
    classes = classes or getattr(dataset, "classes", None)
    number = _as_index(value)
    if not classes or number is None or not 0 <= number < len(classes):
        return None
    return str(classes[number])


def mask_of(sample: Any, size: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The union of the sample's own masks, 255 wherever any is not 0, or None if it has none."""
    found = np.zeros(size, bool)
    masks = list(_masks(sample))
    for mask in masks:
        if mask.shape[-2:] != size:
            raise InputError(f"its mask is {mask.shape[-2:]} but its image is {size}")
        found |= (mask.reshape(-1, *size) != 0).any(0)
    return found.astype(np.uint8) * 255 if masks else None


def _as_index(value: Any) -> int | None:
    """A label as an int, also from NumPy and torch; a bool is none."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, torch.Tensor) and value.dtype == torch.bool):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _may_be_image(value: Any) -> bool:
    if isinstance(value, PIL.Image.Image | tv_tensors.Image):
        return True
    if isinstance(value, tv_tensors.TVTensor):
        return False
    shape: tuple[int, ...] = tuple(getattr(value, "shape", ()))
    return len(shape) == 3 and (shape[0] in (1, 3, 4) or shape[-1] in (1, 3, 4)) and min(shape[-2:]) > 0


def _masks(value: Any, name: str = "") -> Iterator[NDArray[Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _masks(inner, str(key))
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _masks(inner, name)
    elif isinstance(value, tv_tensors.Mask) or name in ("mask", "masks"):
        yield torch.as_tensor(value).numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
