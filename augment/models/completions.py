"""How a chat server wants to be asked, learned from what it refuses, and how its reply is read."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from augment.models.answers import without_thoughts
from augment.models.chat import Message
from augment.models.http import Reply

SYSTEM = "a system message"

_ROOM = 2048  # tokens for the thoughts of a model that thinks before it answers
# Ways of asking a model not to think, or to think little; each server takes another, and refuses or ignores the rest.
_BRIEFLY: Mapping[str, Any] = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}

_REFUSALS = frozenset({400, 422, 500, 501})  # llama.cpp answers 500 if a chat template raises
_NO_SYSTEM = re.compile(
    r"system (?:role|message|prompt|instruction)s? (?:is |are )?not (?:supported|allowed|enabled)"
    r"|(?:does not|doesn't) support (?:the )?system|developer instruction is not enabled"
    r"|only user,? (?:and )?(?:assistant|model)\b.{0,30}roles|roles must alternate|unsupported role",
    re.IGNORECASE,
)


class Manner:
    """What a stage has learned about its server: the settings it refuses, and whether the model thinks.

    Several threads share it. What one of them learns, the others may learn a second time.
    """

    def __init__(self) -> None:
        self.thinks = False
        self.folds_system = False
        self._refused: set[str] = set()
        self._lock = threading.Lock()

    def learn(self, refusal: str) -> None:
        """Note what the server refuses."""
        with self._lock:
            if refusal == SYSTEM:
                self.folds_system = True
            else:
                self._refused.add(refusal)

    def room(self, max_tokens: int) -> int:
        """The tokens that an answer of `max_tokens` may take, with those of its thoughts."""
        return max_tokens + _ROOM if self.thinks else max_tokens

    def options(self, wanted: Mapping[str, Any], replaced: Mapping[str, str]) -> dict[str, Any]:
        """The settings to send: those that are wanted and not refused, or what takes their place."""
        whole = {**wanted, **(_BRIEFLY if self.thinks else {})}
        with self._lock:
            for name, other in replaced.items():
                if name in self._refused and name in whole:
                    whole[other] = whole[name]
            return {name: value for name, value in whole.items() if name not in self._refused}

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, with the system's in front of the user's text if the server takes no system message."""
        if not self.folds_system:
            return list(messages)
        system = "\n\n".join(str(message["content"]) for message in messages if message["role"] == "system")
        rest = [dict(message) for message in messages if message["role"] != "system"]
        if not system or not rest:
            return list(rest)
        content = rest[0]["content"]
        first = {"type": "text", "text": system}
        rest[0]["content"] = f"{system}\n\n{content}" if isinstance(content, str) else [first, *content]
        return list(rest)


def find_refusal(reply: Reply, options: Mapping[str, Any], has_system: bool) -> str | None:
    """Which of the options an error speaks of, or `SYSTEM`; None if it is about something else."""
    if reply.status not in _REFUSALS:
        return None
    words = reply.message
    if has_system and _NO_SYSTEM.search(words):
        return SYSTEM
    if reply.status >= 500:
        return None
    try:
        content = reply.json()
        param = content["error"]["param"]
    except (ValueError, KeyError, TypeError):
        param = None
    if isinstance(param, str) and param.partition(".")[0] in options:
        return param.partition(".")[0]
    return next((name for name in options if re.search(rf"\b{re.escape(name)}\b", words)), None)


@dataclass(frozen=True)
class Answer:
    """A model's words, and whether it ran out of tokens before it said any."""

    text: str
    is_cut_short: bool = False


def read_answer(content: Any) -> Answer:
    """The answer in a reply. Raises ValueError, in words, if it has none."""
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        said = content.get("error") if isinstance(content, dict) else None
        raise ValueError(str(said)[:200] if said else "it holds no answer")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise ValueError("it holds no message")
    text = _text(message.get("content"))
    is_out_of_room = choices[0].get("finish_reason") == "length"
    if is_out_of_room and not without_thoughts(text).strip():
        return Answer("", is_cut_short=True)
    if not text.strip():
        why = message.get("refusal") or choices[0].get("finish_reason")
        raise ValueError(f"an answer without text ({str(why)[:200]})" if why else "an answer without text")
    return Answer(text)


def _text(content: Any) -> str:
    """The words of a message's content: text, or a list of parts, of which thoughts and pictures do not count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(filter(None, map(_text, content)))
    if isinstance(content, dict) and content.get("type", "text") in ("text", "output_text"):
        return _text(content.get("text"))
    return ""
