"""A chat with a language model: its messages, and what every client of one offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Message: TypeAlias = Mapping[str, Any]  # {"role": "system" | "user", "content": text, or parts for a vision model}


class Chat(Protocol):
    """Messages, one from the system and one from the user, to the model's answer.

    `seed` has an effect only if the model takes one. Raises ItemFailed if this answer cannot be had, UnavailableError
    if none can, and TimeoutError if a local model took too long.
    """

    def __call__(self, messages: Sequence[Message], seed: int = 0) -> str: ...
