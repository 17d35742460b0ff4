"""Plates by any inpainting pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Alpha, Image, Matte, Prompt, Rejected
from augment.errors import ItemFailed
from augment.imaging.fit import stretch
from augment.models.diffusers import DiffusersModel, painting
from augment.stages.inpaint import Inpainter
from augment.stages.inpaint.hole import no_hole


@dataclass(frozen=True)
class Diffusers(DiffusersModel, Inpainter):
    """Paints the object out through `diffusers.AutoPipelineForInpainting`. Settings are those of `DiffusersModel`, and

    - `grow`: how much wider than the matte the hole is, as a share of the image's diagonal.
    - `prompt`, `negative`: what the hole is to show, and what not.
    - `seed`: of the noise that every hole starts from, so that an image has one plate.
    """

    backend: ClassVar[str] = "diffusers"
    auto_class: ClassVar[str] = "AutoPipelineForInpainting"
    table: ClassVar[str] = "inpaint"

    model: str = "stable-diffusion-v1-5/stable-diffusion-inpainting"
    grow: Annotated[float, Field(ge=0.0, le=0.1)] = 0.012
    prompt: str = "empty background, nothing in it"
    negative: str = "person, animal, object, text"
    seed: Annotated[int, Field(ge=0)] = 0

    def __call__(self, *, images: Sequence[Image], mattes: Sequence[Matte], **_: Any) -> list[Image | ItemFailed]:
        """See `Inpainter`; any number of items. Raises UnavailableError if the pipeline cannot be had or loaded."""
        done: dict[int, Image | ItemFailed] = {}
        holes = [matte.hole(self.grow) for matte in mattes]
        for n, (image, matte) in enumerate(zip(images, mattes, strict=True)):
            if (early := no_hole(image, matte, holes[n], self.grow)) is not None:
                done[n] = early
        left = [n for n in range(len(images)) if n not in done]
        masks = [holes[n].astype(np.uint8) * 255 for n in left]
        chosen = [images[n] for n in left]
        drawn = self.draw(
            [Prompt(self.prompt, self.negative)] * len(left),
            [self.seed] * len(left),
            self._followed(chosen, masks),
            painting(chosen, masks, 1.0),
        )
        for n, image, result in zip(left, chosen, drawn, strict=True):
            if isinstance(result, np.ndarray):
                done[n] = np.where(holes[n][..., None], stretch(result, *image.shape[:2]), image)
            else:
                done[n] = ItemFailed(result.reason) if isinstance(result, Rejected) else result
        return [done[n] for n in range(len(images))]

    def _followed(self, images: Sequence[Image], masks: Sequence[Alpha]) -> Sequence[Image]:
        """What a ControlNet follows: the images without the objects' own edges."""
        if self.controlnet is None:
            return images
        return [cv2.inpaint(image, mask, 5, cv2.INPAINT_TELEA) for image, mask in zip(images, masks, strict=True)]
