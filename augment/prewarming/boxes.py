"""The boxes of a Dataset's labelled objects, wherever it is certain what their numbers mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from augment.errors import InputError

_Boxes: TypeAlias = NDArray[np.float64]  # (n, 4) left, top, right, bottom in pixels


def boxes_of(sample: Any, size: tuple[int, ...]) -> _Boxes | None:
    """The boxes anywhere in an item whose image is `size` (H, W), cut off at the image's edge; None if there are none.

    Known are `tv_tensors.BoundingBoxes` of any format, COCO's annotations (as torchvision's CocoDetection gives them)
    and Pascal VOC's (VOCDetection). Any other list of numbers is left alone: it may have its corners or its width and
    height, in pixels or in shares. Raises InputError if boxes were made for an image of another size, or are not
    numbers.
    """
    found = list(_boxes(sample, size))
    boxes = np.concatenate(found) if found else np.empty((0, 4))
    if not np.isfinite(boxes).all():
        raise InputError("one of its boxes has a corner that is not a number")
    boxes = boxes.clip(0, [size[1], size[0]] * 2)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    return boxes if len(boxes) else None


def _boxes(value: Any, size: tuple[int, ...]) -> Iterator[_Boxes]:
    if isinstance(value, tv_tensors.BoundingBoxes):
        yield _upright(value, size)
    elif isinstance(value, Mapping):
        if "bbox" in value and "category_id" in value:
            if not value.get("iscrowd"):  # a crowd's box is not an object's
                yield _numbers(value["bbox"], "COCO") @ _CORNERS
        elif "bndbox" in value:
            corners = [value["bndbox"].get(name) for name in ("xmin", "ymin", "xmax", "ymax")]
            # VOC counts pixels from 1, and the right and lower edges are the object's last pixels.
            yield _numbers(corners, "VOC") - (1, 1, 0, 0)
        else:
            for inner in value.values():
                yield from _boxes(inner, size)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _boxes(inner, size)


_CORNERS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])  # of left, top, width, height


def _upright(boxes: tv_tensors.BoundingBoxes, size: tuple[int, ...]) -> _Boxes:
    """Boxes of any format as corners; a rotated one as the smallest upright box around it."""
    if tuple(boxes.canvas_size) != tuple(size):
        raise InputError(f"its boxes are for an image of {tuple(boxes.canvas_size)} but its image is {tuple(size)}")
    rotated = tv_tensors.is_rotated_bounding_format(boxes.format)
    corners = functional.convert_bounding_box_format(boxes, new_format="XYXYXYXY" if rotated else "XYXY")
    found = torch.as_tensor(corners).detach().cpu().double().numpy().reshape(-1, 4, 2 if rotated else 1)
    return np.concatenate([found.min(1), found.max(1)], axis=1) if rotated else found.reshape(-1, 4)


def _numbers(box: Any, form: str) -> _Boxes:
    try:
        return np.array(box, np.float64).reshape(1, 4)
    except (TypeError, ValueError) as error:
        raise InputError(f"one of its {form} boxes is not four numbers: {box!r}") from error
