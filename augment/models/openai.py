"""A language model behind a server with OpenAI's API."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from augment.errors import ItemFailed
from augment.models.calling import with_retries
from augment.models.chat import Message
from augment.models.completions import Answer, find_refusal, read_answer
from augment.models.http import MEGABYTE, Reply, Server
from augment.models.openai_server import OpenAiServer, read_key
from augment.models.weights import PROBE_SECONDS

logger = logging.getLogger(__name__)

_PROBE_TOKENS = 1
_LARGEST_REPLY = 4 * MEGABYTE
_REPLACED = {"max_tokens": "max_completion_tokens"}  # what OpenAI's own reasoning models take instead


@dataclass(frozen=True)
class OpenAiModel(OpenAiServer):
    """The settings that every role of a language model has: those of `OpenAiServer`, and

    - `temperature`: 0 gives the most likely answer; higher values vary it, by the seed that goes with each question.
    - `max_tokens`: the longest answer. A model that thinks first gets room for its thoughts besides.

    A setting that the server refuses, such as a seed or a system message, is left out from then on.
    """

    batch_size: ClassVar[int] = 32  # enough to keep the questions in flight

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=16)] = 120

    def _look(self) -> None:
        """Ask for the list of models. If that does not settle it, because the server lists none, does not list this one
        or shows the list to anybody, ask the model for an answer of one token."""
        names = self._listed_models()
        if names is None or not self._is_among(names) or self._is_list_open():
            self._ask_for_a_token()

    def chat(self, messages: Sequence[Message], seed: int = 0) -> str:
        """The model's answer; see `Chat`.

        A server that is gone fails only the item: `check` has reached it before the work began, and it may come back.
        """
        thinks = self._manner.thinks
        answer = self._answer(messages, seed)
        if answer.is_cut_short and not thinks:
            # Its thoughts have used up the room for the answer.
            self._manner.thinks = True
            answer = self._answer(messages, seed)
        if answer.is_cut_short:
            raise ItemFailed(
                f"{self.base_url}: {self.model} thought for {self._manner.room(self.max_tokens)} tokens and gave no "
                "answer; raise max_tokens, or use a model that does not think"
            )
        return answer.text

    def _answer(self, messages: Sequence[Message], seed: int) -> Answer:
        reply = with_retries(partial(self._complete, messages, seed), self.retries, self._down)
        try:
            return read_answer(reply.json())
        except ValueError as error:
            raise ItemFailed(f"{self.base_url}: an answer that cannot be read: {error}") from error

    def _complete(self, messages: Sequence[Message], seed: int, max_tokens: int | None = None) -> Reply:
        """The server's reply, asked for once; without what it refuses."""
        manner = self._manner
        while True:
            wanted: dict[str, Any] = {
                "temperature": self.temperature,
                "max_tokens": manner.room(self.max_tokens) if max_tokens is None else max_tokens,
                "seed": seed & 0x7FFFFFFF,
            }
            options = manner.options(wanted, _REPLACED)
            folds = manner.folds_system
            payload = {"model": self.model, "messages": manner.messages(messages), **options}
            reply = self._server.post("/chat/completions", payload, self.timeout, _LARGEST_REPLY)
            if reply.status == 200:
                return reply
            self._raise_for_all(reply)
            refusal = find_refusal(reply, options, has_system=not folds)
            if refusal is None:
                raise self._server.fault(reply)
            manner.learn(refusal)
            logger.info("%s does not take %s: left out from now on (%s)", self.base_url, refusal, reply.words)

    def _is_list_open(self) -> bool:
        """Whether there is a key, and the server shows its list also to those without one."""
        if not read_key():
            return False
        open_server = Server(self.base_url)
        try:
            return open_server.get("/models", PROBE_SECONDS).status == 200
        finally:
            open_server.close()

    def _ask_for_a_token(self) -> None:
        try:
            reply = self._complete([{"role": "user", "content": "Hello"}], 0, _PROBE_TOKENS)
            read_answer(reply.json())
        except ValueError as error:
            raise self._not_a_server(error) from error
