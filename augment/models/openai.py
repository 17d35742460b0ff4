"""Clients of language models: one call takes the messages of a chat and returns the answer."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, TypeAlias, TypeVar

from pydantic import Field

from augment.errors import ItemFailed, WeightsError
from augment.stages.base import Stage
from augment.stages.chat_template import prompt_template
from augment.weights import Gguf, check_libraries

logger = logging.getLogger(__name__)

Message: TypeAlias = Mapping[str, Any]  # {"role": "system" | "user", "content": text, or parts for a vision endpoint}
T = TypeVar("T")
R = TypeVar("R")

_PROMPT_BATCH = 128  # tokens of a question read at once; gpt4all's 8 takes longer over it
_PROBE_SECONDS = 5.0  # a server that has not answered the first question by then is taken as out of reach
_REPLACED = {"max_tokens": "max_completion_tokens"}  # what OpenAI's own reasoning models take in its stead


class Chat(Protocol):
    """Messages, one system's and one user's, to the model's answer; `seed` counts where the model takes one.

    Raises ItemFailed where this answer cannot be had, WeightsError where none can, and TimeoutError where a local model
    took too long.
    """

    def __call__(self, messages: Sequence[Message], seed: int = 0) -> str: ...


@dataclass(frozen=True)
class Gpt4AllChat:
    """A GGUF model in this process, through the gpt4all package. See `refine.gpt4all.Gpt4All` for the settings."""

    weights: Gguf
    device: str | None
    threads: int | None
    max_tokens: int
    temperature: float
    time_limit: float

    @cached_property
    def _path(self) -> Path:
        return self.weights.resolve()

    @cached_property
    def _model(self) -> Any:
        path = self._path
        with _stderr_to_log() as heard:
            try:
                from gpt4all import GPT4All

                model = GPT4All(
                    path.name, model_path=path.parent, allow_download=False, device=self.device, n_threads=self.threads
                )
                # A model that llama.cpp refuses is not reported by the constructor; this raises for it.
                model.model.thread_count()
            except Exception as error:  # it raises bare Exceptions, too
                said = next((line for line in heard() if "error" in line.lower()), str(error))
                raise WeightsError(
                    f"{path}: gpt4all {version('gpt4all')} cannot load it on {self.device or 'its default device'} "
                    f"({said.strip()}); its llama.cpp is of mid-2024: take a GGUF file of that time, or a server"
                ) from error
        return model

    def __call__(self, messages: Sequence[Message], seed: int = 0) -> str:
        system, user = (message["content"] for message in messages)
        template = prompt_template(str(self._path), system)
        model = self._model
        started = time.monotonic()
        in_time = True

        def go_on(token: int, text: str) -> bool:
            nonlocal in_time
            in_time = time.monotonic() - started < self.time_limit
            return in_time

        # The template holds the system message too: gpt4all would put none of a model's marks around it.
        with model.chat_session("", template):
            options = {"max_tokens": self.max_tokens, "temp": self.temperature, "n_batch": _PROMPT_BATCH}
            answer = model.generate(user, callback=go_on, **options)
        if not in_time:
            # Where it broke off depends on the machine, so that what is there must not be used.
            raise TimeoutError(f"no whole answer in {self.time_limit:g} s")
        return str(answer)


@dataclass(frozen=True)
class EndpointStage(Stage):
    """Base of the stages that ask an OpenAI-compatible server: OpenAI, Ollama, llama.cpp, vLLM.

    The key is read from OPENAI_API_KEY at each start and kept nowhere; a server of your own needs none.

    model: the name by which the server knows it.
    base_url: the address up to and with "/v1"; the default is Ollama's on this machine.
    temperature: 0 is the most likely answer; higher ones vary, as the seed that goes with each question has it.
    max_tokens: longest answer.
    concurrency: questions in flight at once.
    timeout: seconds to wait for an answer.
    retries: how often a question is put again after a fault of the server or the line, with growing pauses.
    """

    model: str
    base_url: Annotated[str, Field(pattern=r"^https?://")] = "http://localhost:11434/v1"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=16)] = 120
    concurrency: Annotated[int, Field(ge=1)] = 4
    timeout: Annotated[float, Field(gt=0)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 3

    execution_only: ClassVar[frozenset[str]] = frozenset({"base_url", "concurrency", "timeout", "retries"})
    batch_size = 32  # enough to keep the questions in flight

    @cached_property
    def _down(self) -> threading.Event:
        """Set while the server cannot be reached: then the next items fail at once, not each after all its retries."""
        return threading.Event()

    @cached_property
    def _client(self) -> Any:
        check_libraries(["openai"])
        import openai

        key = os.environ.get("OPENAI_API_KEY") or "none"  # the client insists on one; local servers do not read it
        return openai.OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.retries)

    def where(self) -> str:
        return self.base_url

    def check(self) -> None:
        """Raise WeightsError where the openai package or the server is not there."""
        client = self._client.with_options(timeout=_PROBE_SECONDS, max_retries=0)
        import openai

        try:
            client.models.list()
        except openai.APIConnectionError as error:
            raise WeightsError(f"{self._unreachable(error)}; start it or correct base_url") from error
        except (openai.OpenAIError, ValueError) as error:  # not every server lists its models, but this one answers
            logger.debug("%s does not list its models: %s", self.base_url, error)

    def chat(self, messages: Sequence[Message], seed: int = 0) -> str:
        """Ask the server; see `Chat`. A server that is gone fails the item: `check` has reached it before the work
        began, and it may come back."""
        import openai

        options = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": seed & 0x7FFFFFFF}
        while True:
            client = self._client.with_options(max_retries=0) if self._down.is_set() else self._client
            try:
                completion = client.chat.completions.create(model=self.model, messages=messages, **options)
                self._down.clear()
                break
            except openai.APITimeoutError as error:
                raise ItemFailed(f"{self.base_url}: no answer in {self.timeout:g} s") from error
            except openai.APIConnectionError as error:
                self._down.set()
                raise ItemFailed(self._unreachable(error)) from error
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise WeightsError(
                    f"{self.base_url} refuses the key (HTTP {error.status_code}): set OPENAI_API_KEY"
                ) from error
            except openai.NotFoundError as error:
                raise WeightsError(
                    f"{self.base_url}: it has no model {self.model!r}, or base_url is not right ({_first_line(error)})"
                ) from error
            except openai.BadRequestError as error:
                # Some models refuse settings that others need; the server names the one it does not take.
                refused = str(error.param)
                if refused not in options:
                    raise ItemFailed(f"{self.base_url}: HTTP 400: {_first_line(error)}") from error
                value = options.pop(refused)
                if refused in _REPLACED:
                    options[_REPLACED[refused]] = value
            except openai.APIStatusError as error:
                raise ItemFailed(f"{self.base_url}: HTTP {error.status_code}: {_first_line(error)}") from error
            except (openai.OpenAIError, ValueError) as error:  # what it sent is not JSON, or not of the right form
                raise ItemFailed(f"{self.base_url}: an answer that cannot be read: {_first_line(error)}") from error
        choices = getattr(completion, "choices", None)
        content = choices[0].message.content if choices and choices[0].message else None
        if not isinstance(content, str):
            raise ItemFailed(f"{self.base_url}: an answer without text")
        return content

    def _at_once(self, ask: Callable[[T], R], questions: Sequence[T]) -> list[R | ItemFailed]:
        """`ask` over the questions, `concurrency` at a time, in order; ItemFailed in the place of one that failed."""

        def ask_one(question: T) -> R | ItemFailed:
            try:
                return ask(question)
            except ItemFailed as error:
                return error

        executor = ThreadPoolExecutor(self.concurrency, thread_name_prefix="endpoint")
        try:
            return list(executor.map(ask_one, questions))
        finally:
            executor.shutdown(cancel_futures=True)  # where one question ends the work, the others need not be put

    def _unreachable(self, error: Exception) -> str:
        return f"{self.base_url}: no server answers there ({error.__cause__ or error})"


@contextmanager
def _stderr_to_log() -> Iterator[Callable[[], list[str]]]:
    """Send what native code writes to file descriptor 2 to the debug log; gives a function that returns it by lines.

    gpt4all's libraries print a warning for each CUDA library they do not find, whatever the device.
    """
    try:
        kept = os.dup(2)
    except OSError:  # no standard error at all: nothing to keep quiet
        yield list
        return
    with tempfile.TemporaryFile() as file:

        def lines() -> list[str]:
            file.seek(0)
            return file.read().decode(errors="replace").splitlines()

        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            for line in lines():
                logger.debug("gpt4all: %s", line)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
