"""Detectors as parts of other stages: what the guard and the enrichment look with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from augment.artifacts import Image
from augment.detect import COCO, Detection, MaskRCNN
from augment.stages.base import Stage
from augment.weights import TorchvisionCheckpoint


@dataclass(frozen=True)
class MaskRcnn(Stage):
    """torchvision's Mask R-CNN; see `augment.detect.MaskRCNN`.

    - `model`: torchvision's weights by name, or a checkpoint of `maskrcnn_resnet50_fpn_v2` (`.safetensors` or `.pth`).
    - `names`: the classes of your checkpoint, in the order of its outputs, without the background; empty for COCO's.
    - `score`: what is scored below it is not looked at, 0 to 1.
    - `device`: as torch names it, or "auto".
    """

    backend: ClassVar[str] = "mask-rcnn"
    execution_only: ClassVar[frozenset[str]] = frozenset({"device"})

    model: str = COCO
    names: tuple[str, ...] = ()
    score: Annotated[float, Field(ge=0, le=1)] = 0.5
    device: str = "auto"

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class that it can find."""
        return self._detector.classes

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `augment.detect.Detector`. Raises WeightsError."""
        return self._detector(images)

    def weights(self) -> TorchvisionCheckpoint:
        return self._detector.weights()

    def check(self) -> None:
        """Raise WeightsError where the checkpoint or the device is not to be had."""
        self.where()
        self.weights().check()

    @cached_property
    def _detector(self) -> MaskRCNN:
        return MaskRCNN(self.model, self.names, self.score, self.device)


DETECTORS: dict[str, type[Stage]] = {MaskRcnn.backend: MaskRcnn}
