"""Any inpainting pipeline of diffusers, on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Alpha, Image, Prompt, Rejected
from augment.errors import ItemFailed
from augment.imaging.fit import stretch
from augment.models.diffusers import DiffusersModel
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

        def conditions(indices: Sequence[int], size: tuple[int, int]) -> Mapping[str, Any]:
            import torch

            pixels = np.stack([stretch(images[index], *size) for index in indices])
            holes = np.stack([stretch(masks[index], *size) >= 128 for index in indices])
            # Tensors, not PIL images: diffusers would resize those by rules of its own.
            return {
                "image": torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255,
                "mask_image": torch.from_numpy(holes)[:, None].float(),
                "strength": self.strength,
            }

        painted = self.draw(prompts, seeds, [image.shape for image in images], conditions)
        return [
            stretch(result, *image.shape[:2]) if isinstance(result, np.ndarray) else result
            for result, image in zip(painted, images, strict=True)
        ]
