"""A model behind an OpenAI-compatible server: OpenAI, Gemini, Mistral, Ollama, llama.cpp, vLLM."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from augment.errors import ItemFailed, UnavailableError
from augment.models.calling import NoServer, with_retries
from augment.models.chat import Message
from augment.models.completions import Answer, Manner, find_refusal, read_answer
from augment.models.http import MEGABYTE, Reply, Server, check_address
from augment.models.weights import PROBE_SECONDS

logger = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"

_PROBE_TOKENS = 1
_LARGEST_REPLY = 4 * MEGABYTE
_NAMED = 8  # of a server's models, in an error
_REPLACED = {"max_tokens": "max_completion_tokens"}  # what OpenAI's own reasoning models take instead


@dataclass(frozen=True)
class OpenAiModel:
    """The settings that every role of such a model has.

    The key is read from OPENAI_API_KEY at each start and kept nowhere else; a server of your own needs none.

    - `model`: the name by which the server knows it.
    - `base_url`: the address up to and including "/v1"; the default is Ollama's on this machine.
    - `temperature`: 0 gives the most likely answer; higher values vary it, by the seed that goes with each question.
    - `max_tokens`: the longest answer. A model that thinks first gets room for its thoughts besides.
    - `concurrency`: questions in flight at once.
    - `timeout`: seconds for a whole answer.
    - `retries`: how often a question is asked again after a fault of the server or the connection, with growing pauses.

    A setting that the server refuses, such as a seed or a system message, is left out from then on.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"base_url", "concurrency", "timeout", "retries"})
    batch_size: ClassVar[int] = 32  # enough to keep the questions in flight

    model: str
    base_url: str = "http://localhost:11434/v1"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=16)] = 120
    concurrency: Annotated[int, Field(ge=1)] = 4
    timeout: Annotated[float, Field(gt=0)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 3

    def __post_init__(self) -> None:
        check_address("base_url", self.base_url)

    def target(self) -> str:
        return self.base_url

    def check(self) -> None:
        """Raise UnavailableError if the server cannot be reached, refuses the key or does not have the model.

        Asks for the list of models. If that does not settle it, because the server lists none, does not list this one
        or shows the list to anybody, the model is asked for an answer of one token.
        """
        try:
            if not self._is_listed():
                self._ask_for_a_token()
        except NoServer as error:
            raise UnavailableError(f"{error}; start it or correct base_url") from error
        except ItemFailed as error:
            raise UnavailableError(str(error)) from error

    def unload(self) -> None:
        """Close the connections and forget what the server refuses."""
        server = self.__dict__.pop("_server", None)
        for name in ("_down", "_manner"):
            self.__dict__.pop(name, None)
        if server is not None:
            server.close()

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

    def _raise_for_all(self, reply: Reply) -> None:
        """Raise UnavailableError for what every item would meet."""
        said = f"(HTTP {reply.status}: {reply.words})"
        if reply.status in (401, 403):
            key = f"set {KEY}" if not _key() else f"correct {KEY}"
            raise UnavailableError(f"{self.base_url} refuses the key {said}: {key}")
        if reply.status in (404, 405, 501):
            raise UnavailableError(
                f"{self.base_url}: it has no model {self.model!r}, or base_url is not right {said}{self._hint()}"
            )
        if reply.status == 402 or (reply.status == 429 and "quota" in reply.words.lower()):
            raise UnavailableError(f"{self.base_url}: the account has nothing left {said}")

    def _is_listed(self) -> bool:
        """Whether the server lists the model, and shows its list only to those with the right key."""
        reply = self._server.get("/models", PROBE_SECONDS)
        if reply.status in (401, 403):
            self._raise_for_all(reply)
        if reply.status != 200:
            logger.debug("%s does not list its models: HTTP %d", self.base_url, reply.status)
            return False
        names = self._names(reply)
        if not any(name in names for name in (self.model, f"{self.model}:latest", f"models/{self.model}")):
            return False
        if not _key():
            return True
        open_server = Server(self.base_url)
        try:
            return open_server.get("/models", PROBE_SECONDS).status != 200
        finally:
            open_server.close()

    def _names(self, reply: Reply) -> list[str]:
        """The models in a reply to /models. Raises UnavailableError if that is something else."""
        try:
            return _listed_names(reply)
        except ValueError as error:
            raise self._not_a_server(error) from error

    def _not_a_server(self, error: ValueError) -> UnavailableError:
        return UnavailableError(
            f"{self.base_url}: what answers there is not an OpenAI-compatible server: it sent {error}{self._hint()}"
        )

    def _ask_for_a_token(self) -> None:
        try:
            reply = self._complete([{"role": "user", "content": "Hello"}], 0, _PROBE_TOKENS)
            read_answer(reply.json())
        except ValueError as error:
            raise self._not_a_server(error) from error

    def _hint(self) -> str:
        """What the address should be, if the server can be found there, or which models it has."""
        base = self.base_url.rstrip("/")
        is_whole = base.endswith("/v1")
        with contextlib.suppress(ItemFailed, UnavailableError, ValueError):
            for address in [base] if is_whole else [f"{base}/v1", base]:
                reply = self._server.get("/models", PROBE_SECONDS, base_url=address)
                if reply.status != 200 or not (names := _listed_names(reply)):
                    continue
                if address != base:
                    return f"; write base_url = {address!r}"
                more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
                return f"; it has: {', '.join(sorted(names)[:_NAMED])}{more}"
        return "" if is_whole else "; most addresses end in /v1"

    @cached_property
    def _server(self) -> Server:
        key = _key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return Server(self.base_url, headers, self.concurrency)

    @cached_property
    def _manner(self) -> Manner:
        """What was learned about the server."""
        return Manner()

    @cached_property
    def _down(self) -> threading.Event:
        """Set while nothing answers there; see `with_retries`."""
        return threading.Event()


def _listed_names(reply: Reply) -> list[str]:
    """The models in a reply to /models. Raises ValueError, in words, if it is something else."""
    listed = reply.json()
    models = listed.get("data") if isinstance(listed, dict) else listed
    if not isinstance(models or [], list):
        raise ValueError(f"no list of models ({reply.words})")
    return [str(model["id"]) for model in models or [] if isinstance(model, dict) and "id" in model]


def _key() -> str:
    """The key, without the line break that a mounted secret ends in. Raises UnavailableError if it cannot be sent."""
    key = os.environ.get(KEY, "").strip()
    if not key.isprintable() or not key.isascii() or " " in key:
        raise UnavailableError(f"{KEY}: it holds a character that no key has, such as a space or a line break inside")
    return key
