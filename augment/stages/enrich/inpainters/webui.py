"""Inpainting by a Stable Diffusion WebUI, here or on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Alpha, Image, Prompt
from augment.errors import ItemFailed
from augment.imaging.fit import stretch
from augment.models.calling import map_concurrent
from augment.models.webui import WebUiModel, to_base64
from augment.stages.enrich.inpainters import ObjectInpainter

_ORIGINAL = 1  # WebUI's `inpainting_fill`: begin from what is there, not from a fill, noise or nothing


@dataclass(frozen=True)
class WebUi(WebUiModel, ObjectInpainter):
    """Repaints through `/sdapi/v1/img2img` with a mask. Settings are those of `WebUiModel`, and

    - `strength`: how much of the object is made anew, WebUI's denoising strength; at 1 nothing of it is left.
    """

    backend: ClassVar[str] = "webui"

    strength: Annotated[float, Field(gt=0, le=1)] = 0.75

    def __call__(
        self,
        *,
        images: Sequence[Image],
        masks: Sequence[Alpha],
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        **_: Any,
    ) -> list[Image | ItemFailed]:
        """See `ObjectInpainter`. What the server cannot do fails that item."""
        items = list(zip(images, masks, prompts, seeds, strict=True))
        return map_concurrent(lambda item: self._paint(*item), items, self.concurrency)

    def _paint(self, image: Image, mask: Alpha, prompt: Prompt, seed: int) -> Image:
        painted = self.image(
            "img2img",
            prompt,
            image,
            seed,
            init_images=[to_base64(image)],
            mask=to_base64(np.repeat(mask[..., None], 3, axis=2)),
            # The image is the part around the object already, and the caller blends.
            inpaint_full_res=False,
            mask_blur=0,
            inpainting_fill=_ORIGINAL,
            inpainting_mask_invert=0,
            denoising_strength=self.strength,
        )
        return stretch(painted, *image.shape[:2])
