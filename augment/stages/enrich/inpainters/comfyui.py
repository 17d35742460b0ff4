"""Inpainting of objects by a workflow of ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Alpha, Image, Prompt
from augment.errors import ItemFailed
from augment.models.calling import map_concurrent
from augment.models.comfyui import ComfyUiModel
from augment.stages.enrich.inpainters import ObjectInpainter


@dataclass(frozen=True)
class ComfyUi(ComfyUiModel, ObjectInpainter):
    """Repaints by a workflow that takes a picture, a mask, a prompt and a seed. Settings are those of `ComfyUiModel`;
    how much of the object is made anew is the workflow's, KSampler's `denoise`."""

    backend: ClassVar[str] = "comfyui"
    table: ClassVar[str] = "enrich.inpainter"
    needs: ClassVar[tuple[str, ...]] = ("image", "mask", "prompt", "seed")

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
        return self.painted(image, mask, prompt=prompt.text, negative=prompt.negative, seed=seed)
