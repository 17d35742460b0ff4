"""A model behind an OpenAI-compatible server: OpenAI, Ollama, llama.cpp, vLLM."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from augment.errors import ItemFailed, UnavailableError
from augment.models.calling import PASSING, NoServer, PassingFault, pause_asked_for, with_retries
from augment.models.chat import Message
from augment.models.weights import PROBE_SECONDS, check_libraries

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

_REPLACED = {"max_tokens": "max_completion_tokens"}  # what OpenAI's own reasoning models take instead


@dataclass(frozen=True)
class OpenAiModel:
    """The settings that every role of such a model has.

    The key is read from OPENAI_API_KEY at each start and kept nowhere else; a server of your own needs none.

    - `model`: the name by which the server knows it.
    - `base_url`: the address up to and including "/v1"; the default is Ollama's on this machine.
    - `temperature`: 0 gives the most likely answer; higher values vary it, by the seed that goes with each question.
    - `max_tokens`: the longest answer.
    - `concurrency`: questions in flight at once.
    - `timeout`: seconds to wait for an answer.
    - `retries`: how often a question is asked again after a fault of the server or the connection, with growing pauses.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"base_url", "concurrency", "timeout", "retries"})
    batch_size: ClassVar[int] = 32  # enough to keep the questions in flight

    model: str
    base_url: Annotated[str, Field(pattern=r"^https?://")] = "http://localhost:11434/v1"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=16)] = 120
    concurrency: Annotated[int, Field(ge=1)] = 4
    timeout: Annotated[float, Field(gt=0)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 3

    def target(self) -> str:
        return self.base_url

    def check(self) -> None:
        """Raise UnavailableError if the openai package is missing or no server answers."""
        client = self._client.with_options(timeout=PROBE_SECONDS)
        import openai

        try:
            client.models.list()
        except openai.APIConnectionError as error:
            raise UnavailableError(f"{self._unreachable(error)}; start it or correct base_url") from error
        except (openai.OpenAIError, ValueError) as error:  # not every server lists its models, but this one answers
            logger.debug("%s does not list its models: %s", self.base_url, error)

    def chat(self, messages: Sequence[Message], seed: int = 0) -> str:
        """The model's answer; see `Chat`.

        A server that is gone fails only the item: `check` has reached it before the work began, and it may come back.
        """
        completion = with_retries(partial(self._complete, messages, seed), self.retries, self._down)
        choices = getattr(completion, "choices", None)
        content = choices[0].message.content if choices and choices[0].message else None
        if not isinstance(content, str):
            raise ItemFailed(f"{self.base_url}: an answer without text")
        return content

    def _complete(self, messages: Sequence[Message], seed: int) -> Any:
        """The server's reply, asked for once; without the settings that it refuses."""
        import openai

        options = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": seed & 0x7FFFFFFF}
        ask: Any = self._client.chat.completions.create  # its types list every setting one by one
        while True:
            try:
                return ask(model=self.model, messages=messages, **options)
            except openai.APITimeoutError as error:
                # The server is still at it: asking again would only put more work in its queue.
                raise ItemFailed(f"{self.base_url}: no answer in {self.timeout:g} s; raise timeout") from error
            except openai.APIConnectionError as error:
                raise NoServer(self._unreachable(error)) from error
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise UnavailableError(
                    f"{self.base_url} refuses the key (HTTP {error.status_code}): set OPENAI_API_KEY"
                ) from error
            except openai.NotFoundError as error:
                raise UnavailableError(
                    f"{self.base_url}: it has no model {self.model!r}, or base_url is not right ({_first_line(error)})"
                ) from error
            except openai.BadRequestError as error:
                # Some models refuse settings that others need; the server names the one that it does not take.
                refused = str(error.param)
                if refused not in options:
                    raise ItemFailed(f"{self.base_url}: HTTP 400: {_first_line(error)}") from error
                value = options.pop(refused)
                if refused in _REPLACED:
                    options[_REPLACED[refused]] = value
            except openai.APIStatusError as error:
                said = f"{self.base_url}: HTTP {error.status_code}: {_first_line(error)}"
                if error.status_code in PASSING:
                    raise PassingFault(said, pause_asked_for(error.response.headers.get("Retry-After"))) from error
                raise ItemFailed(said) from error
            except (openai.OpenAIError, ValueError) as error:  # what it sent is not JSON, or not of the right form
                raise ItemFailed(f"{self.base_url}: an answer that cannot be read: {_first_line(error)}") from error

    @cached_property
    def _client(self) -> openai.OpenAI:
        check_libraries(["openai", "tenacity"])
        import openai

        key = os.environ.get("OPENAI_API_KEY") or "none"  # the client insists on one; local servers do not read it
        return openai.OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=0)

    @cached_property
    def _down(self) -> threading.Event:
        """Set while nothing answers there; see `with_retries`."""
        return threading.Event()

    def _unreachable(self, error: Exception) -> str:
        return f"{self.base_url}: no server answers there ({error.__cause__ or error})"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
