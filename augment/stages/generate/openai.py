"""Text to image by a model behind a server with OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Image, Prompt
from augment.errors import ItemFailed
from augment.imaging.fit import cover
from augment.models.calling import map_concurrent
from augment.models.openai_images import OpenAiImagesModel
from augment.stages.generate import Generator


@dataclass(frozen=True)
class OpenAi(OpenAiImagesModel, Generator):
    """Backgrounds from `/images/generations`; uses the prompt and the plate's size. Settings are those of
    `OpenAiImagesModel`.

    The endpoint takes neither a seed nor a negative prompt. So the cache, not the seed, is what keeps an image's
    background the same: computed a second time, in another cache, it would be another picture.
    """

    backend: ClassVar[str] = "openai"

    def __call__(self, *, prompts: Sequence[Prompt], plates: Sequence[Image], **_: Any) -> list[Image | ItemFailed]:
        """See `Generator`. A prompt that the server refuses fails its item, with the reason. Raises UnavailableError if
        the server refuses the key or has no such model, or if the account has nothing left."""
        items = list(zip(prompts, plates, strict=True))
        return map_concurrent(lambda item: self._make(*item), items, self.concurrency)

    def _make(self, prompt: Prompt, plate: Image) -> Image:
        return cover(self.image(prompt.text, plate), *plate.shape[:2])
