"""Backgrounds that keep the place's layout: diffusers image-to-image from the plate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Image, Prompt, Rejected
from augment.errors import ItemFailed
from augment.imaging.fit import stretch
from augment.models.diffusers import DiffusersModel, starting
from augment.stages.generate import Generator


@dataclass(frozen=True)
class ImageToImage(DiffusersModel, Generator):
    """Backgrounds by an image-to-image pipeline that starts from the plate (SDEdit, Meng et al. 2022; as an
    augmentation: ALIA, Dunlap et al. 2023, and DA-Fusion, Trabucco et al. 2024).

    Loaded through `diffusers.AutoPipelineForImage2Image`, which takes text-to-image models. Settings are those of
    `DiffusersModel`, and

    - `strength`: how much of the plate is made anew; at 1 nothing of it is left. Of `steps`, only this share is run.
    """

    backend: ClassVar[str] = "img2img"
    auto_class: ClassVar[str] = "AutoPipelineForImage2Image"
    table: ClassVar[str] = "generate"
    uses_plate: ClassVar[bool] = True

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    strength: Annotated[float, Field(gt=0, le=1)] = 0.6

    def __call__(
        self, *, prompts: Sequence[Prompt], plates: Sequence[Image], seeds: Sequence[int], **_: Any
    ) -> list[Image | Rejected | ItemFailed]:
        """See `Generator`; any number of items. Raises UnavailableError if the pipeline cannot be had or loaded."""
        drawn = self.draw(prompts, seeds, plates, starting(plates, self.strength))
        return [
            stretch(result, *plate.shape[:2]) if isinstance(result, np.ndarray) else result
            for result, plate in zip(drawn, plates, strict=True)
        ]
