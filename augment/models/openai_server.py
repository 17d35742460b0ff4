"""A server with OpenAI's API: OpenAI, Gemini, Mistral, Ollama, llama.cpp, vLLM, LocalAI; what every role of it has."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from augment.errors import ItemFailed, UnavailableError
from augment.models.calling import NoServer
from augment.models.completions import Manner
from augment.models.http import Reply, Server, check_address
from augment.models.weights import PROBE_SECONDS

logger = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"

_NAMED = 8  # of a server's models, in an error
_SPENT = re.compile(r"\bquota\b|billing hard limit|credit balance|insufficient (?:funds|balance)", re.IGNORECASE)


@dataclass(frozen=True)
class OpenAiServer:
    """The settings that every role of a model behind such a server has.

    The key is read from OPENAI_API_KEY at each start and kept nowhere else; a server of your own needs none.

    - `model`: the name by which the server knows it.
    - `base_url`: the address up to and including "/v1"; the default is Ollama's on this machine.
    - `concurrency`: requests in flight at once.
    - `timeout`: seconds for a whole answer.
    - `retries`: how often a request is sent again after a fault of the server or the connection, with growing pauses.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"base_url", "concurrency", "timeout", "retries"})

    model: str
    base_url: str = "http://localhost:11434/v1"
    concurrency: Annotated[int, Field(ge=1)] = 4
    timeout: Annotated[float, Field(gt=0)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 3

    def __post_init__(self) -> None:
        check_address("base_url", self.base_url)

    def target(self) -> str:
        return self.base_url

    def check(self) -> None:
        """Raise UnavailableError if the server cannot be reached, refuses the key or does not have the model."""
        try:
            self._look()
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

    def _look(self) -> None:
        """What `check` asks; any ItemFailed means that the server cannot be used."""
        raise NotImplementedError

    def _raise_for_all(self, reply: Reply) -> None:
        """Raise UnavailableError for what every item would meet."""
        said = f"(HTTP {reply.status}: {reply.words})"
        is_spent = reply.status in (400, 403, 429) and _SPENT.search(reply.message)
        if reply.status == 402 or is_spent:
            raise UnavailableError(f"{self.base_url}: the account has nothing left {said}")
        if reply.status in (401, 403):
            key = f"set {KEY}" if not read_key() else f"correct {KEY}"
            if reply.status == 403 and read_key():
                key += ", or ask for the right to use this model"
            raise UnavailableError(f"{self.base_url} refuses the key {said}: {key}")
        if reply.status in (404, 405, 501):
            raise UnavailableError(
                f"{self.base_url}: it has no model {self.model!r}, or base_url is not right {said}{self._hint()}"
            )

    def _listed_models(self) -> list[str] | None:
        """The models that the server lists; None if it lists none."""
        reply = self._server.get("/models", PROBE_SECONDS)
        if reply.status in (401, 403):
            self._raise_for_all(reply)
        if reply.status != 200:
            logger.debug("%s does not list its models: HTTP %d", self.base_url, reply.status)
            return None
        try:
            return _listed_names(reply)
        except ValueError as error:
            raise self._not_a_server(error) from error

    def _is_among(self, names: Sequence[str]) -> bool:
        return any(name in names for name in (self.model, f"{self.model}:latest", f"models/{self.model}"))

    def _not_a_server(self, error: ValueError) -> UnavailableError:
        return UnavailableError(
            f"{self.base_url}: what answers there is not an OpenAI-compatible server: it sent {error}{self._hint()}"
        )

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
        key = read_key()
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


def read_key() -> str:
    """The key, without the line break that a mounted secret ends in. Raises UnavailableError if it cannot be sent."""
    key = os.environ.get(KEY, "").strip()
    if not key.isprintable() or not key.isascii() or " " in key:
        raise UnavailableError(f"{KEY}: it holds a character that no key has, such as a space or a line break inside")
    return key
