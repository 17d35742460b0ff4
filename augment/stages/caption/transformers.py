"""Captions by any image-to-text model of transformers: GIT, BLIP, or a vision language model."""

from __future__ import annotations

import re
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
    table: ClassVar[str] = "caption"
    version: ClassVar[int] = 2  # longer answers, without loops; another question

    model: str = "microsoft/git-large-coco"

    def __call__(self, *, plates: Sequence[Image], **_: Any) -> list[str | ItemFailed]:
        """See `Captioner`. Raises UnavailableError if the model cannot be loaded."""
        return [answer if isinstance(answer, ItemFailed) else self._caption(answer) for answer in self.answer(plates)]

    def _caption(self, answer: str) -> str | ItemFailed:
        answer = without_loop(answer)
        caption = clean_answer(answer) if self.is_chatted_with else whole_sentences(answer)
        return caption or ItemFailed(f"{self.model} said nothing about the plate")


def without_loop(text: str) -> str:
    """The text up to where it begins to repeat itself until its end, the first round of the loop included."""
    words = text.split()
    plain = [re.sub(r"\W+", "", word).lower() for word in words]
    for start in range(len(words)):
        left = len(words) - start
        for period in range(1, left // 2 + 1):
            # Two short words may well be said twice: "it is very, very cold".
            if left >= period * (2 if period > 3 else 3) and _repeats(plain[start:], period):
                kept = words[: start + period]
                while kept and (plain[len(kept) - 1] in ("and", "with", "a", "the", "of") or not plain[len(kept) - 1]):
                    kept.pop()
                return " ".join(kept).rstrip(" ,;")
    return " ".join(words)


def _repeats(words: list[str], period: int) -> bool:
    """Whether the words repeat after `period` of them; the last one may have broken off."""
    *before, last = words[:-period]
    *after, broken = words[period:]
    return before == after and last.startswith(broken)


def whole_sentences(text: str) -> str:
    """The text on one line, without a last sentence that broke off; a caption that is one sentence stays."""
    text = " ".join(text.split())
    end = max(text.rfind(mark) for mark in (". ", "! ", "? "))
    return text if end < 0 or text[-1:] in ".!?" else text[: end + 1]
