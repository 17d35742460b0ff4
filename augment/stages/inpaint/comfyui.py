"""Plates by an inpainting workflow of ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.errors import ItemFailed
from augment.models.calling import map_concurrent
from augment.models.comfyui import ComfyUiModel
from augment.stages.inpaint.hole import HoleInpainter


@dataclass(frozen=True)
class ComfyUi(ComfyUiModel, HoleInpainter):
    """Paints the object out by a workflow that takes a picture and a mask. Settings are those of `ComfyUiModel` and
    `HoleInpainter`, and

    - `prompt`, `negative`: what the hole is to show, and what not; None is the workflow's own.
    - `seed`: that every hole starts from, so that an image has one plate.
    """

    backend: ClassVar[str] = "comfyui"
    parallel: ClassVar[bool] = False
    table: ClassVar[str] = "inpaint"
    needs: ClassVar[tuple[str, ...]] = ("image", "mask")

    prompt: str | None = None
    negative: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    def __call__(self, *, images: Sequence[Image], mattes: Sequence[Matte], **_: Any) -> list[Image | ItemFailed]:
        """See `Inpainter`. What the server cannot do fails that item."""
        items = list(zip(images, mattes, strict=True))
        return map_concurrent(lambda item: self._plate(*item), items, self.concurrency)

    def paint(self, image: Image, hole: NDArray[np.bool_]) -> Image:
        mask = hole.astype(np.uint8) * 255
        return self.painted(image, mask, prompt=self.prompt, negative=self.negative, seed=self.seed)
