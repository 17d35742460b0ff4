"""OpenCV's two inpainting methods: fast, but smooth in large holes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from augment.artifacts import Image
from augment.stages.inpaint.hole import HoleInpainter


@dataclass(frozen=True)
class _OpenCV(HoleInpainter):
    """What both methods have in common."""

    method: ClassVar[int]

    radius: Annotated[float, Field(gt=0.0, le=50.0)] = 5.0

    def paint(self, image: Image, hole: NDArray[np.bool_]) -> Image:
        return cv2.inpaint(image, hole.astype(np.uint8), self.radius, self.method)


@dataclass(frozen=True)
class Telea(_OpenCV):
    """Fast marching (Telea 2004), in OpenCV. Settings are those of `HoleInpainter`, and

    - `radius`: how far around each missing pixel the method looks, in pixels.
    """

    backend: ClassVar[str] = "telea"
    method: ClassVar[int] = cv2.INPAINT_TELEA


@dataclass(frozen=True)
class NavierStokes(_OpenCV):
    """Lines of equal brightness carried into the hole (Bertalmio et al. 2001), in OpenCV. Settings are those of
    `HoleInpainter`, and

    - `radius`: how far around each missing pixel the method looks, in pixels.
    """

    backend: ClassVar[str] = "navier-stokes"
    method: ClassVar[int] = cv2.INPAINT_NS
