"""A GGUF language model on this machine, through GPT4All."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from augment.models.chat import Message
from augment.models.gpt4all import Gpt4AllModel
from augment.stages.enrich.chat import ChatModel


@dataclass(frozen=True)
class Gpt4All(Gpt4AllModel, ChatModel):
    """Settings are those of `Gpt4AllModel`. An answer takes about 40 tokens per object."""

    backend: ClassVar[str] = "gpt4all"

    max_tokens: Annotated[int, Field(ge=16)] = 256
    time_limit: Annotated[float, Field(gt=0)] = 180.0

    def __call__(self, *, chats: Sequence[Sequence[Message]], seeds: Sequence[int], **_: Any) -> list[str | None]:
        """See `ChatModel`. Raises UnavailableError if the model cannot be had or loaded."""
        return [self._answer(chat, seed) for chat, seed in zip(chats, seeds, strict=True)]

    def _answer(self, chat: Sequence[Message], seed: int) -> str | None:
        try:
            return self.chat(chat, seed)
        except TimeoutError:
            return None
