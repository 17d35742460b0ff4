"""Any inpainting pipeline of diffusers, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Alpha, Image, Prompt, Rejected
from augment.errors import ItemFailed
from augment.imaging.fit import stretch
from augment.models.diffusers import DiffusersModel, painting
from augment.stages.enrich.inpainters import ObjectInpainter


@dataclass(frozen=True)
class Diffusers(DiffusersModel, ObjectInpainter):
    """Repaints through `diffusers.AutoPipelineForInpainting`: models made for inpainting, or plain text-to-image ones.

    Settings are those of `DiffusersModel`, and

    - `strength`: how much of the object is made anew; at 1 nothing of it is left.
    """

    backend: ClassVar[str] = "diffusers"
    auto_class: ClassVar[str] = "AutoPipelineForInpainting"
    table: ClassVar[str] = "enrich.inpainter"
    version: ClassVar[int] = 2  # steps and guidance are the model's own

    model: str = "stable-diffusion-v1-5/stable-diffusion-inpainting"
    strength: Annotated[float, Field(gt=0, le=1)] = 0.75

    def __call__(
        self,
        *,
        images: Sequence[Image],
        masks: Sequence[Alpha],
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        **_: Any,
    ) -> list[Image | Rejected | ItemFailed]:
        """See `ObjectInpainter`; any number of objects. Raises UnavailableError if the pipeline cannot be had."""

        painted = self.draw(prompts, seeds, images, painting(images, masks, self.strength))
        return [
            stretch(result, *image.shape[:2]) if isinstance(result, np.ndarray) else result
            for result, image in zip(painted, images, strict=True)
        ]
