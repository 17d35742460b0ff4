"""Prompts by a language model on this machine, through GPT4All."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Prompt
from augment.models.gpt4all import Gpt4AllModel
from augment.stages.refine import Refiner
from augment.stages.refine.llm import refine


@dataclass(frozen=True)
class Gpt4All(Gpt4AllModel, Refiner):
    """Has a GGUF language model describe the scene that the template has planned for a variant.

    GPT4All takes no seed: at temperature 0 the same question has the same answer, and the variants differ because each
    asks for another setting and light. If the answer cannot be used, the prompt is the template's, and its origin says
    so. Settings are those of `Gpt4AllModel`.
    """

    backend: ClassVar[str] = "gpt4all"

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
        return [refine(self.chat, *entry) for entry in zip(captions, groups, variants, seeds, strict=True)]
