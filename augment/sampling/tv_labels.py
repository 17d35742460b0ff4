"""Labels as torchvision's tv_tensors: what they say, and how they move with their object."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812  # torchvision's own name for it

from augment.sampling.labels import Labels, is_missing, labeled_pixels, moved_boxes, moved_points
from augment.sampling.placement import Move


def labels_of(leaf: Any) -> Labels:
    """Where a tv_tensor says that objects are; a video says nothing."""
    if isinstance(leaf, tv_tensors.Mask):
        values = leaf.detach().cpu().numpy()
        return Labels(masks=labeled_pixels(values).reshape(-1, *values.shape[-2:]))
    if isinstance(leaf, tv_tensors.BoundingBoxes):
        return Labels(boxes=upright_boxes(leaf))
    if isinstance(leaf, tv_tensors.KeyPoints):
        return Labels(points=float_array(leaf).reshape(-1, 2))
    return Labels()


def upright_boxes(boxes: tv_tensors.BoundingBoxes) -> NDArray[np.float64]:
    if not tv_tensors.is_rotated_bounding_format(boxes.format):
        return float_array(F.convert_bounding_box_format(boxes, new_format="XYXY")).reshape(-1, 4)
    corners = float_array(F.convert_bounding_box_format(boxes, new_format="XYXYXYXY")).reshape(-1, 4, 2)
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def moved(label: Any, move: Move) -> Any:
    """A label of an object that moved; it keeps its type, format and element type."""
    if isinstance(label, tv_tensors.Mask):
        masks = move.masks(label.detach().cpu().numpy())
        return tv_tensors.wrap(torch.from_numpy(masks).to(label.device), like=label)
    if isinstance(label, tv_tensors.KeyPoints):
        points = moved_points(move, float_array(label).reshape(-1, 2))
        return tv_tensors.wrap(written_like(points, label).reshape(label.shape), like=label)
    if not isinstance(label, tv_tensors.BoundingBoxes):
        return label
    if not tv_tensors.is_rotated_bounding_format(label.format):
        between, moved = "XYXY", moved_boxes(move, upright_boxes(label))
    else:
        between = "XYXYXYXY"
        corners = float_array(F.convert_bounding_box_format(label, new_format=between)).reshape(-1, 4, 2)
        moved = move.corners(corners)
        if np.linalg.det(move.matrix[:, :2]) < 0:
            moved = moved[:, [1, 0, 3, 2]]  # mirrored, the first corner is the second
        moved = moved.reshape(-1, 8)
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(moved), format=between, canvas_size=label.canvas_size)
    boxes = written_like(float_array(F.convert_bounding_box_format(boxes, new_format=label.format)), label)
    gone = torch.from_numpy(is_missing(upright_boxes(label))).to(label.device)
    boxes = torch.where(gone[:, None], torch.as_tensor(label).reshape(boxes.shape), boxes)
    return tv_tensors.wrap(boxes.reshape(label.shape), like=label)


def float_array(tensor: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().cpu().double().numpy(), np.float64)


def written_like(values: NDArray[np.float64], tensor: torch.Tensor) -> torch.Tensor:
    found = torch.from_numpy(values)
    return (found if tensor.dtype.is_floating_point else found.round()).to(tensor.dtype).to(tensor.device)
