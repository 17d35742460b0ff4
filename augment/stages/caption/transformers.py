"""Captions by any image-to-text model of transformers: GIT, BLIP, or a vision language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Image
from augment.errors import ItemFailed
from augment.models.transformers import ImageToTextModel
from augment.stages.caption import Captioner
from augment.stages.text import clean_answer


@dataclass(frozen=True)
class Transformers(ImageToTextModel, Captioner):
    """What a plate shows, in the words of a model. Settings are those of `ImageToTextModel`."""

    backend: ClassVar[str] = "transformers"

    model: str = "microsoft/git-large-coco"
    question: str = "Describe the scenery of this picture in one sentence: the place, the ground, the light."

    def __call__(self, *, plates: Sequence[Image], **_: Any) -> list[str | ItemFailed]:
        """See `Captioner`. Raises UnavailableError if the model cannot be loaded."""
        return [answer if isinstance(answer, ItemFailed) else self._caption(answer) for answer in self.answer(plates)]

    def _caption(self, answer: str) -> str | ItemFailed:
        caption = clean_answer(answer) if self.is_chatted_with else " ".join(answer.split())
        return caption or ItemFailed(f"{self.model} said nothing about the plate")
