"""Text to image, or image to image from the plate, by a workflow of ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Image, Prompt
from augment.errors import ItemFailed
from augment.imaging.fit import cover
from augment.models.calling import map_concurrent
from augment.models.comfyui import ComfyUiModel
from augment.stages.generate import Generator


@dataclass(frozen=True)
class ComfyUi(ComfyUiModel, Generator):
    """Backgrounds by a workflow that takes a prompt, a seed and, if it has them, a negative prompt, width and height,
    and a picture: the plate. Settings are those of `ComfyUiModel`."""

    backend: ClassVar[str] = "comfyui"
    table: ClassVar[str] = "generate"
    needs: ClassVar[tuple[str, ...]] = ("prompt", "seed", "size")

    def __call__(
        self, *, prompts: Sequence[Prompt], plates: Sequence[Image], seeds: Sequence[int], **_: Any
    ) -> list[Image | ItemFailed]:
        """See `Generator`. What the server cannot do fails that item."""
        items = list(zip(prompts, plates, seeds, strict=True))
        return map_concurrent(lambda item: self._make(*item), items, self.concurrency)

    def _make(self, prompt: Prompt, plate: Image, seed: int) -> Image:
        made = self.picture(plate, image=plate, prompt=prompt.text, negative=prompt.negative, seed=seed)
        return cover(made, *plate.shape[:2])
