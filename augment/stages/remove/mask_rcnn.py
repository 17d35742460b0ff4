"""Mattes of objects of known classes, by Mask R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.errors import RecipeError
from augment.models.mask_rcnn import Detection, MaskRcnnModel
from augment.stages.remove import Remover

_EDGE = 1.0  # pixels: softens the stairs of a thresholded mask and no more, because Mask R-CNN gives no soft edges


@dataclass(frozen=True)
class MaskRcnn(MaskRcnnModel, Remover):
    """The union of the objects that Mask R-CNN finds, at the image's own size.

    The confidence is the mean score of the objects, each weighted by its area. Settings are those of `MaskRcnnModel`,
    and

    - `classes`: the classes to keep; empty for all.
    - `min_area`: objects smaller than this share of the image's area are left out, 0 to 1.
    """

    backend: ClassVar[str] = "mask-rcnn"

    classes: tuple[str, ...] = ()
    min_area: Annotated[float, Field(ge=0, le=1)] = 0.001

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[Matte]:
        """See `Remover`. Raises UnavailableError, and RecipeError if the model does not have the `classes`."""
        self._check_classes()
        return [self._matte(image, found) for image, found in zip(images, self.detect(images), strict=True)]

    def check(self) -> None:
        self._check_classes()
        super().check()

    def _check_classes(self) -> None:
        if unknown := [name for name in self.classes if name not in self.labels]:
            known = ", ".join(self.labels)
            raise RecipeError(f"remove.classes: {', '.join(unknown)} not among the model's classes: {known}")

    def _matte(self, image: Image, detections: Sequence[Detection]) -> Matte:
        pixels = self.min_area * image.shape[0] * image.shape[1]
        areas = {
            n: area
            for n, detection in enumerate(detections)
            if (not self.classes or detection.label in self.classes)
            and (area := int(np.count_nonzero(detection.mask))) >= max(1, pixels)
        }
        alpha = np.zeros(image.shape[:2], np.uint8)
        if not areas:
            wanted = ", ".join(self.classes) or "object"
            return Matte.from_full(alpha, 0.0, f"nothing found: no {wanted} scored {self.score:g} or more")
        for n in areas:
            alpha[detections[n].mask] = 255
        confidence = np.average([detections[n].score for n in areas], weights=list(areas.values()))
        return Matte.from_full(np.asarray(cv2.GaussianBlur(alpha, (0, 0), _EDGE), np.uint8), float(confidence))
