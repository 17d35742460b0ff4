"""Prompts by a language model on this machine, through GPT4All."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Prompt
from augment.models.gpt4all import Gpt4AllModel
from augment.stages.refine.llm import Instructed, refine


@dataclass(frozen=True)
class Gpt4All(Gpt4AllModel, Instructed):
    """Has a GGUF language model describe the scene that the template has planned for a variant.

    GPT4All takes no seed: at temperature 0 the same question has the same answer, and the variants differ because each
    asks for another setting and light. If the answer cannot be used, the prompt is the template's, and its origin says
    so. Settings are those of `Gpt4AllModel` and `Instructed`.
    """

    backend: ClassVar[str] = "gpt4all"
    version: ClassVar[int] = 2  # questions and prompts follow the kind of picture

    def check(self) -> None:
        """Raise UnavailableError if gpt4all, the model or a file of the user's is missing."""
        self.check_files()
        super().check()

    def __call__(
        self,
        *,
        captions: Sequence[str],
        groups: Sequence[str | None],
        variants: Sequence[int],
        seeds: Sequence[int],
        **_: Any,
    ) -> list[Prompt]:
        """See `Refiner`. Raises UnavailableError if the model cannot be had or loaded."""
        return [refine(self.chat, *entry, self) for entry in zip(captions, groups, variants, seeds, strict=True)]
