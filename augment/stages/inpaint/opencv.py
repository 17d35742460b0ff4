"""OpenCV's two inpainting methods: fast, and smooth where a hole is large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.inpaint.hole import per_hole


@dataclass(frozen=True)
class _OpenCV(Stage):
    """What both methods have in common.

    grow: how much wider than the matte the hole is, as a share of the image's diagonal.
    radius: how far around each missing pixel the method looks, in pixels.
    """

    parallel: ClassVar[bool] = True
    method: ClassVar[int]

    grow: Annotated[float, Field(ge=0.0, le=0.1)] = 0.012
    radius: Annotated[float, Field(gt=0.0, le=50.0)] = 5.0

    def __call__(self, images: Sequence[Image], mattes: Sequence[Matte]) -> Sequence[Image | ItemFailed]:
        return per_hole(images, mattes, self.grow, self._paint)

    def _paint(self, image: Image, hole: np.ndarray) -> Image:
        return cv2.inpaint(image, hole.astype(np.uint8), self.radius, self.method)


@dataclass(frozen=True)
class Telea(_OpenCV):
    """Backend "telea": fast marching (Telea 2004), in OpenCV.

    grow: how much wider than the matte the hole is, as a share of the image's diagonal.
    radius: how far around each missing pixel the method looks, in pixels.
    """

    backend: ClassVar[str] = "telea"
    method: ClassVar[int] = cv2.INPAINT_TELEA


@dataclass(frozen=True)
class NavierStokes(_OpenCV):
    """Backend "navier-stokes": lines of equal brightness carried into the hole (Bertalmio et al. 2001), in OpenCV.

    grow: how much wider than the matte the hole is, as a share of the image's diagonal.
    radius: how far around each missing pixel the method looks, in pixels.
    """

    backend: ClassVar[str] = "navier-stokes"
    method: ClassVar[int] = cv2.INPAINT_NS
