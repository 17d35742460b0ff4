"""Language models as a part of the enrichment: questions in, answers out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from augment.errors import ItemFailed
from augment.models.chat import Message
from augment.stages.base import Stage


class ChatModel(Stage):
    """Base class of language models that are chatted with."""

    backends: ClassVar[Mapping[str, str]] = {
        "gpt4all": "augment.stages.enrich.chat.gpt4all:Gpt4All",
        "openai": "augment.stages.enrich.chat.openai:OpenAi",
    }

    @abstractmethod
    def __call__(
        self, *, chats: Sequence[Sequence[Message]], seeds: Sequence[int]
    ) -> Sequence[str | ItemFailed | None]:
        """Chats and their seeds to the model's answers; None if a local model did not finish in time."""
