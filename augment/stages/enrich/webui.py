"""Inpainting by a Stable Diffusion WebUI, here or on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Alpha, Image, Prompt
from augment.errors import ItemFailed
from augment.stages.generate.webui import Server
from augment.webui import to_base64

_ORIGINAL = 1  # WebUI's `inpainting_fill`: begin from what is there, not from a fill, noise or nothing


@dataclass(frozen=True)
class WebUi(Server):
    """Repaints through `/sdapi/v1/img2img` with a mask. Settings are those of `Server`, and

    - `strength`: how much of the object is made anew, WebUI's denoising strength; at 1 nothing of it is left.
    """

    strength: Annotated[float, Field(gt=0, le=1)] = 0.75

    def __call__(
        self, images: Sequence[Image], masks: Sequence[Alpha], prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> list[Image | ItemFailed]:
        """See `Painter`. What the server cannot do is that item's failure."""
        items = list(zip(images, masks, prompts, seeds, strict=True))
        return self._client.at_once(lambda item: self._paint(*item), items)

    def _paint(self, image: Image, mask: Alpha, prompt: Prompt, seed: int) -> Image:
        payload = self._payload(prompt, self._working_size(image)) | {
            "init_images": [to_base64(image)],
            "mask": to_base64(np.repeat(mask[..., None], 3, axis=2)),
            # The image is the part around the object already, and the caller blends.
            "inpaint_full_res": False,
            "mask_blur": 0,
            "inpainting_fill": _ORIGINAL,
            "inpainting_mask_invert": 0,
            "denoising_strength": self.strength,
        }
        painted = self._client.image("img2img", payload, seed)
        if painted.shape == image.shape:
            return painted
        method = cv2.INTER_AREA if painted.shape[0] > image.shape[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(painted, image.shape[1::-1], interpolation=method), np.uint8)
