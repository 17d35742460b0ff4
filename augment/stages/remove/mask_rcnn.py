"""Mattes of objects of known classes, by Mask R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.detect import COCO, Detection, MaskRCNN
from augment.errors import RecipeError
from augment.stages.base import Item, Stage
from augment.weights import TorchvisionCheckpoint

_EDGE = 1.0  # pixels: softens the stairs of a thresholded mask, no more, for Mask R-CNN knows nothing of soft edges


@dataclass(frozen=True)
class MaskRcnn(Stage):
    """The union of the objects that Mask R-CNN finds, at the image's own size; see `augment.detect.MaskRCNN`.

    The confidence is the mean score of the objects, each weighted by its area.

    - `model`: torchvision's weights by name, or a checkpoint of `maskrcnn_resnet50_fpn_v2` (`.safetensors` or `.pth`).
    - `names`: the classes of your checkpoint, in the order of its outputs, without the background; empty for COCO's.
    - `classes`: the classes to keep; empty for all.
    - `score`: objects scored below it are left out, 0 to 1.
    - `min_area`: objects smaller than this share of the image's area are left out, 0 to 1.
    - `device`: as torch names it, or "auto".
    """

    backend: ClassVar[str] = "mask-rcnn"
    execution_only: ClassVar[frozenset[str]] = frozenset({"device"})

    model: str = COCO
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    score: Annotated[float, Field(ge=0, le=1)] = 0.5
    min_area: Annotated[float, Field(ge=0, le=1)] = 0.001
    device: str = "auto"

    def __call__(self, items: Sequence[Item]) -> list[Matte]:
        """Raises WeightsError where the checkpoint cannot be had, RecipeError where `classes` are not its own."""
        self._check_classes()
        found = self._detector([item.image for item in items])
        return [self._matte(item.image, detections) for item, detections in zip(items, found, strict=True)]

    def weights(self) -> TorchvisionCheckpoint:
        return self._detector.weights()

    def check(self) -> None:
        self._check_classes()
        self.where()
        self.weights().check()

    @cached_property
    def _detector(self) -> MaskRCNN:
        return MaskRCNN(self.model, self.names, self.score, self.device)

    def _check_classes(self) -> None:
        if unknown := [name for name in self.classes if name not in self._detector.classes]:
            known = ", ".join(self._detector.classes)
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
