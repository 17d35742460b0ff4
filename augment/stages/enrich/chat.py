"""Language models as parts of the enrichment: questions in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Protocol

from pydantic import Field

from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.chat import EndpointStage, Gpt4AllChat, Message
from augment.weights import Gguf


class Talker(Protocol):
    """Chats and their seeds to the model's answers; None where a local model was not done in time."""

    def __call__(
        self, chats: Sequence[Sequence[Message]], seeds: Sequence[int]
    ) -> Sequence[str | ItemFailed | None]: ...


@dataclass(frozen=True)
class Gpt4All(Stage):
    """A GGUF language model on this machine, through GPT4All, which takes no seed.

    - `model`: a GGUF file, or the name of one in `folder`, in GPT4All's own folder, or of its download.
    - `folder`: where that file lies, or is to be downloaded to.
    - `max_tokens`: longest answer, in the model's tokens; some 40 an object.
    - `temperature`: 0 for reproducible answers; above it they are not.
    - `time_limit`: seconds for one answer.
    - `device`: "cpu", "cuda", "kompute", "gpu" or a device's name; None is Metal on Apple silicon and else the CPU.
    - `threads`: on the CPU; None lets GPT4All choose.
    """

    backend: ClassVar[str] = "gpt4all"
    execution_only: ClassVar[frozenset[str]] = frozenset({"folder", "time_limit", "device", "threads"})

    model: str = "mistral-7b-instruct-v0.1.Q4_0.gguf"
    folder: str | None = None
    max_tokens: Annotated[int, Field(ge=16)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    time_limit: Annotated[float, Field(gt=0)] = 180.0
    device: str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None

    def __call__(self, chats: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str | None]:
        """See `Talker`. Raises WeightsError where the model cannot be had or loaded."""
        return [self._answer(chat, seed) for chat, seed in zip(chats, seeds, strict=True)]

    def weights(self) -> Gguf:
        return Gguf(self.model, self.folder)

    def where(self) -> str:
        return self.device or "cpu"

    def check(self) -> None:
        """Raise WeightsError where gpt4all or the model is missing and cannot be fetched."""
        self.weights().check()

    @cached_property
    def _chat(self) -> Gpt4AllChat:
        return Gpt4AllChat(
            self.weights(), self.device, self.threads, self.max_tokens, self.temperature, self.time_limit
        )

    def _answer(self, chat: Sequence[Message], seed: int) -> str | None:
        try:
            return self._chat(chat, seed)
        except TimeoutError:
            return None


@dataclass(frozen=True)
class Endpoint(EndpointStage):
    """A language model behind an OpenAI-compatible server. Settings are those of `EndpointStage`."""

    backend: ClassVar[str] = "openai"

    max_tokens: Annotated[int, Field(ge=16)] = 256

    def __call__(self, chats: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str | ItemFailed]:
        """See `Talker`. Raises WeightsError where the server refuses the key or has no such model."""
        return self._at_once(lambda question: self.chat(*question), list(zip(chats, seeds, strict=True)))


CHATS: dict[str, type[Stage]] = {backend.backend: backend for backend in (Gpt4All, Endpoint)}
