"""A language model behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from augment.errors import ItemFailed
from augment.models.calling import map_concurrent
from augment.models.chat import Message
from augment.models.openai import OpenAiModel
from augment.stages.enrich.chat import ChatModel


@dataclass(frozen=True)
class OpenAi(OpenAiModel, ChatModel):
    """Settings are those of `OpenAiModel`. An answer takes about 40 tokens per object."""

    backend: ClassVar[str] = "openai"

    max_tokens: Annotated[int, Field(ge=16)] = 256

    def __call__(self, *, chats: Sequence[Sequence[Message]], seeds: Sequence[int], **_: Any) -> list[str | ItemFailed]:
        """See `ChatModel`. Raises UnavailableError if the server refuses the key or has no such model."""
        questions = list(zip(chats, seeds, strict=True))
        return map_concurrent(lambda question: self.chat(*question), questions, self.concurrency)
