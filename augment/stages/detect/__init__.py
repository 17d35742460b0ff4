"""Find objects of named classes: what the guard and the enrichment look with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from augment.artifacts import Image
from augment.models.mask_rcnn import Detection
from augment.stages.base import Stage


class Detector(Stage):
    """Base class of detectors."""

    backends: ClassVar[Mapping[str, str]] = {"mask-rcnn": "augment.stages.detect.mask_rcnn:MaskRcnn"}

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Every class that it can find."""

    @abstractmethod
    def __call__(self, *, images: Sequence[Image]) -> Sequence[Sequence[Detection]]:
        """`(H, W, 3)` uint8 RGB images of any sizes to what is found in each of them, best first."""
