"""Prompts by a language model behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Prompt
from augment.errors import ItemFailed
from augment.models.calling import map_concurrent
from augment.models.openai import OpenAiModel
from augment.stages.refine import Refiner
from augment.stages.refine.llm import refine


@dataclass(frozen=True)
class OpenAi(OpenAiModel, Refiner):
    """Has a served language model describe the scene that the template has planned for a variant.

    If the answer cannot be used, the prompt is the template's, and its origin says so. Settings are those of
    `OpenAiModel`.
    """

    backend: ClassVar[str] = "openai"

    def __call__(
        self,
        *,
        captions: Sequence[str],
        groups: Sequence[str | None],
        variants: Sequence[int],
        seeds: Sequence[int],
        **_: Any,
    ) -> list[Prompt | ItemFailed]:
        """See `Refiner`. Raises UnavailableError if the server refuses the key or has no such model."""
        entries = list(zip(captions, groups, variants, seeds, strict=True))
        return map_concurrent(lambda entry: refine(self.chat, *entry), entries, self.concurrency)
