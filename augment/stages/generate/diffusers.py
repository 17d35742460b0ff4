"""Any text-to-image pipeline of diffusers: Stable Diffusion, SDXL, Turbo, Flux, …"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from augment.artifacts import Image, Prompt, Rejected
from augment.errors import ItemFailed
from augment.imaging.fit import cover
from augment.models.diffusers import DiffusersModel
from augment.stages.generate import Generator


@dataclass(frozen=True)
class Diffusers(DiffusersModel, Generator):
    """Backgrounds by a text-to-image pipeline, loaded through `diffusers.AutoPipelineForText2Image`.

    Uses the prompt and the plate's size. An image is made at the model's own area in the plate's aspect, then brought
    to the plate's size by a centered crop (sides are multiples of 64 for Stable Diffusion) and a resize. Settings are
    those of `DiffusersModel`.
    """

    backend: ClassVar[str] = "diffusers"
    auto_class: ClassVar[str] = "AutoPipelineForText2Image"
    table: ClassVar[str] = "generate"
    version: ClassVar[int] = 2  # steps and guidance are the model's own

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"

    def __call__(
        self, *, prompts: Sequence[Prompt], plates: Sequence[Image], seeds: Sequence[int], **_: Any
    ) -> list[Image | Rejected | ItemFailed]:
        """See `Generator`; any number of items. Raises UnavailableError if the pipeline cannot be had or loaded."""
        drawn = self.draw(prompts, seeds, plates)
        return [
            cover(result, *plate.shape[:2]) if isinstance(result, np.ndarray) else result
            for result, plate in zip(drawn, plates, strict=True)
        ]
