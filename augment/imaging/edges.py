"""The edge of an object, from a coarse mask and the colors on both sides of it."""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Image

# OpenCV's types only say that a result is an array.
_Map: TypeAlias = NDArray[Any]  # (H, W) or (H, W, C) float32
_Mask: TypeAlias = NDArray[Any]  # (H, W) bool


def find_edge(image: Image, mask: _Mask) -> Alpha:
    """`(H, W)` uint8 alpha of the image from a mask at a smaller size.

    In a band along the mask's edge, a pixel's alpha is where its color lies between the mean colors of the object and
    of the background nearby; if these are alike, it follows the mask.
    """
    height, width = image.shape[:2]
    zoom = max(height / mask.shape[0], width / mask.shape[1])
    reach = 1 + round(1.5 * zoom)  # the mask's edge is off by a pixel or so of its own
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    left, top, box_width, box_height = cv2.boundingRect((soft > 0).astype(np.uint8))
    rows = slice(max(0, top - 4 * reach), top + box_height + 4 * reach)
    columns = slice(max(0, left - 4 * reach), left + box_width + 4 * reach)
    alpha = np.zeros((height, width), np.uint8)
    if mask.any():
        alpha[rows, columns] = _edge_alpha(image[rows, columns].astype(np.float32), soft[rows, columns], reach)
    return alpha


def _edge_alpha(image: _Map, soft: _Map, reach: int) -> Alpha:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    solid = (soft > 0.5).astype(np.uint8)
    # Beyond the picture nothing is known: without these borders an object cut off by it would be eroded there.
    inner = cv2.erode(solid, kernel, borderType=cv2.BORDER_REPLICATE)
    outer = 1 - cv2.dilate(solid, kernel, borderType=cv2.BORDER_REPLICATE)
    window = (4 * reach + 1, 4 * reach + 1)

    def mean_color(where: NDArray[Any]) -> tuple[_Map, _Map]:
        weight = cv2.boxFilter(where.astype(np.float32), -1, window)
        color = cv2.boxFilter(image * where[..., None], -1, window)
        return color / np.maximum(weight, 1e-6)[..., None], weight

    (object_color, near_object), (ground_color, near_ground) = mean_color(inner), mean_color(outer)
    axis = object_color - ground_color
    length = (axis * axis).sum(-1)
    place = ((image - ground_color) * axis).sum(-1) / np.maximum(length, 1)
    trust = length / (length + 40.0**2) * ((near_object > 1e-4) & (near_ground > 1e-4))
    guess = cv2.boxFilter(soft, -1, (2 * (reach // 2) + 1,) * 2)
    alpha = trust * np.clip(place * 1.4 - 0.2, 0, 1) + (1 - trust) * guess
    # Texture makes single pixels look like the other side; the median takes them out and keeps the edge.
    edge: Alpha = cv2.medianBlur((alpha * 255).round().astype(np.uint8), 5)
    edge[inner > 0], edge[outer > 0] = 255, 0
    return edge
