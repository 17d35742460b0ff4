"""Detection by Mask R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Image
from augment.models.mask_rcnn import Detection, MaskRcnnModel
from augment.stages.detect import Detector


@dataclass(frozen=True)
class MaskRcnn(MaskRcnnModel, Detector):
    """torchvision's Mask R-CNN. Its settings are those of `MaskRcnnModel`."""

    backend: ClassVar[str] = "mask-rcnn"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[list[Detection]]:
        """See `Detector`. Raises UnavailableError."""
        return self.detect(images)
