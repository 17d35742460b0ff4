"""Prompts by a language model behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Prompt
from augment.errors import ItemFailed
from augment.models.calling import map_concurrent
from augment.models.openai import OpenAiModel
from augment.stages.refine.llm import Instructed, refine


@dataclass(frozen=True)
class OpenAi(OpenAiModel, Instructed):
    """Has a served language model describe the scene that the template has planned for a variant.

    If the answer cannot be used, the prompt is the template's, and its origin says so. Settings are those of
    `OpenAiModel` and `Instructed`.
    """

    backend: ClassVar[str] = "openai"
    version: ClassVar[int] = 2  # questions and prompts follow the kind of picture

    def __post_init__(self) -> None:
        OpenAiModel.__post_init__(self)
        Instructed.__post_init__(self)

    def check(self) -> None:
        """Raise UnavailableError if a server, its model or a file of the user's is missing."""
        self.check_files()
        super().check()

    def unload(self) -> None:
        OpenAiModel.unload(self)
        Instructed.unload(self)

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
        return map_concurrent(lambda entry: refine(self.chat, *entry, self), entries, self.concurrency)
