"""Prompts by a language model on this machine, through GPT4All."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from augment.artifacts import Prompt
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.chat import Gpt4AllChat
from augment.stages.refine.llm import refine
from augment.weights import Gguf


@dataclass(frozen=True)
class Gpt4All(Stage):
    """Lets a GGUF language model describe the scene that the template has planned for a variant.

    GPT4All takes no seed: at temperature 0 the same question has the same answer, and the variants differ because each
    asks for another setting and light. Where no usable answer comes, the prompt is the template's; its origin says so.

    model: a GGUF file, or the name of one in `folder`, in GPT4All's own folder, or of its download.
    folder: where that file lies, or is to be downloaded to.
    max_tokens: longest answer, in the model's tokens.
    temperature: 0 for reproducible answers; above it they are not.
    time_limit: seconds for one answer.
    device: "cpu", "cuda", "kompute", "gpu" or a device's name; None is Metal on Apple silicon and else the CPU.
    threads: on the CPU; None lets GPT4All choose.
    """

    model: str = "mistral-7b-instruct-v0.1.Q4_0.gguf"
    folder: str | None = None
    max_tokens: Annotated[int, Field(ge=16)] = 96
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    time_limit: Annotated[float, Field(gt=0)] = 120.0
    device: str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None

    backend: ClassVar[str] = "gpt4all"
    execution_only: ClassVar[frozenset[str]] = frozenset({"folder", "time_limit", "device", "threads"})

    @cached_property
    def _chat(self) -> Gpt4AllChat:
        return Gpt4AllChat(
            self.weights(), self.device, self.threads, self.max_tokens, self.temperature, self.time_limit
        )

    def check(self) -> None:
        """Raise WeightsError where gpt4all or the model is missing and cannot be fetched."""
        self.weights().check()

    def weights(self) -> Gguf:
        return Gguf(self.model, self.folder)

    def where(self) -> str:
        return self.device or "GPT4All's choice"

    def __call__(
        self,
        captions: Sequence[str],
        groups: Sequence[str | None],
        variants: Sequence[int],
        seeds: Sequence[int],
    ) -> list[Prompt | ItemFailed]:
        """One prompt for each caption; see `Refiner`. Raises WeightsError."""
        entries = zip(captions, groups, variants, seeds, strict=True)
        return [refine(self._chat, caption, group, variant, seed) for caption, group, variant, seed in entries]
