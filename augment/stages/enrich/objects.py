"""Which objects of an image are repainted, and which part of the image an inpainter gets. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from augment.artifacts import Alpha, Image
from augment.models.mask_rcnn import Detection


@dataclass(frozen=True, eq=False)
class SceneObject:
    """An object to repaint: `name` is its label, numbered if a label occurs more than once; `area` is a share of the
    image's, 0 to 1."""

    name: str
    detection: Detection
    area: float


@dataclass(frozen=True)
class Region:
    """A part of an image: rows `top` to `bottom`, columns `left` to `right`, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


def choose_objects(
    detections: Sequence[Detection], most: int, min_area: float, leave: Collection[str] = ()
) -> list[SceneObject]:
    """The `most` largest detections of at least `min_area` (share of the image), largest first, without the labels in
    `leave`."""
    large = [
        (area, detection)
        for detection in detections
        if (area := float(detection.mask.mean())) >= min_area and area > 0 and detection.label not in leave
    ]
    # Ties are broken by place, so that the order does not depend on the detector's.
    chosen = sorted(large, key=lambda found: (-found[0], found[1].box))[:most]
    counts = Counter(detection.label for _, detection in chosen)
    numbers: Counter[str] = Counter()
    objects = []
    for area, detection in chosen:
        numbers[detection.label] += 1
        name = f"{detection.label} {numbers[detection.label]}" if counts[detection.label] > 1 else detection.label
        objects.append(SceneObject(name, detection, area))
    return objects


def feathered(mask: Alpha, width: float) -> Alpha:
    """`(H, W)` bool to uint8: 0 outside the mask, rising to 255 within `width` pixels of its edge.

    The ramp is inside the mask, so that nothing outside can change; it is steeper where the mask is thinner.
    """
    # Padded, because the image's edge is no edge of the mask.
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1, mode="edge"), cv2.DIST_L2, 5)[1:-1, 1:-1]
    ramp = np.clip(distance / max(1.0, min(width, float(distance.max(initial=0.0)))), 0, 1)
    return np.asarray((ramp * ramp * (3 - 2 * ramp) * 255).round(), np.uint8)


def region_around(mask: Alpha, context: float) -> Region:
    """The mask's box with a margin of `context` × its longer side, within the image and as square as that allows."""
    height, width = mask.shape
    left, top, w, h = cv2.boundingRect(mask.astype(np.uint8))
    side = round(max(w, h) * (1 + 2 * context))
    rows, columns = min(height, max(side, h)), min(width, max(side, w))
    y = min(max(0, top + h // 2 - rows // 2), height - rows)
    x = min(max(0, left + w // 2 - columns // 2), width - columns)
    return Region(y, y + rows, x, x + columns)


def laid_over(image: Image, painted: Image, alpha: Alpha, region: Region) -> Image:
    """A copy of `image` with `painted`, the new pixels of the region, laid over it by `alpha` (of the whole image).

    Every byte stays where `alpha` is 0.
    """
    result = image.copy()
    weight = alpha[region.slices][..., None].astype(np.float32) / 255
    old = image[region.slices]
    result[region.slices] = np.where(weight > 0, (painted * weight + old * (1 - weight)).round(), old).astype(np.uint8)
    return result
