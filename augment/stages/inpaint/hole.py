"""From images and mattes to plates, one hole at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.errors import ItemFailed
from augment.stages.inpaint import Inpainter


@dataclass(frozen=True)
class HoleInpainter(Inpainter):
    """Base class of inpainters that paint each image's hole on their own.

    - `grow`: how much wider than the matte the hole is, as a share of the image's diagonal.
    """

    parallel: ClassVar[bool] = True

    grow: Annotated[float, Field(ge=0.0, le=0.1)] = 0.012

    def __call__(self, *, images: Sequence[Image], mattes: Sequence[Matte], **_: Any) -> list[Image | ItemFailed]:
        return [self._plate(image, matte) for image, matte in zip(images, mattes, strict=True)]

    @abstractmethod
    def paint(self, image: Image, hole: NDArray[np.bool_]) -> Image:
        """The image `(H, W, 3)` uint8 RGB with its hole `(H, W)` bool filled; pixels outside are ignored."""

    def _plate(self, image: Image, matte: Matte) -> Image | ItemFailed:
        hole = matte.hole(self.grow)
        early = no_hole(image, matte, hole, self.grow)
        return np.where(hole[..., None], self.paint(image, hole), image) if early is None else early


def no_hole(image: Image, matte: Matte, hole: NDArray[np.bool_], grow: float) -> Image | ItemFailed | None:
    """The plate where there is nothing to paint out, or nothing to paint it with; None otherwise."""
    if not matte.alpha.any():
        return image.copy()
    if hole.all():
        return ItemFailed(
            f"no visible pixel is left to paint the object out with: its matte, grown by {grow:g} of the "
            "diagonal, covers the image; lower inpaint.grow or leave this image out"
        )
    return None
