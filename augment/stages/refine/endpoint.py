"""Prompts by a language model behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from augment.artifacts import Prompt
from augment.errors import ItemFailed
from augment.stages.chat import EndpointStage
from augment.stages.refine.llm import refine


@dataclass(frozen=True)
class Endpoint(EndpointStage):
    """Lets a served language model describe the scene that the template has planned for a variant.

    Where no usable answer comes, the prompt is the template's, and its origin says so. Settings are those of
    `EndpointStage`.
    """

    backend: ClassVar[str] = "openai"

    def __call__(
        self,
        captions: Sequence[str],
        groups: Sequence[str | None],
        variants: Sequence[int],
        seeds: Sequence[int],
    ) -> list[Prompt | ItemFailed]:
        """One prompt for each caption; see `Refiner`. Raises WeightsError where the server cannot be used."""
        entries = list(zip(captions, groups, variants, seeds, strict=True))
        return self._at_once(lambda entry: refine(self.chat, *entry), entries)
