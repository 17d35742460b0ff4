"""Calls to a server: several at once, and again after a fault that may pass."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from augment.errors import ItemFailed

if TYPE_CHECKING:
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})  # HTTP statuses that another try may not meet

_FIRST_PAUSE = 0.5  # seconds before the first retry; each further one waits twice as long
_LONGEST_PAUSE = 60.0  # seconds


class PassingFault(ItemFailed):
    """A fault of the server or the connection that another try may not meet.

    `pause` is how many seconds the server asks to wait.
    """

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class NoServer(PassingFault):
    """Nothing answers at the address."""


def with_retries(ask: Callable[[], R], retries: int, down: threading.Event) -> R:
    """`ask()`, repeated up to `retries` times with growing pauses while it raises PassingFault.

    `down` is shared by all calls to one server, and set while nothing answers there: then each call tries once, so that
    a server that is gone does not cost every item all its pauses.
    """
    from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, stop_when_event_set

    retrying = Retrying(
        retry=retry_if_exception_type(PassingFault),
        stop=stop_after_attempt(retries + 1) | stop_when_event_set(down),
        wait=_pause,
        before_sleep=before_sleep_log(logger, logging.DEBUG),
        reraise=True,
    )
    try:
        result = retrying(ask)
    except NoServer:
        down.set()
        raise
    except ItemFailed:
        down.clear()
        raise
    down.clear()
    return result


def _pause(state: RetryCallState) -> float:
    fault = state.outcome.exception() if state.outcome else None
    if isinstance(fault, PassingFault) and fault.pause is not None:
        return min(fault.pause, _LONGEST_PAUSE)
    return min(_FIRST_PAUSE * 2.0 ** (state.attempt_number - 1), _LONGEST_PAUSE)


def pause_asked_for(retry_after: str | None) -> float | None:
    """The seconds in an HTTP `Retry-After` header; None if it is missing or holds a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def map_concurrent(ask: Callable[[T], R], items: Sequence[T], concurrency: int) -> list[R | ItemFailed]:
    """`ask` for each item, `concurrency` at a time; results in order, with ItemFailed in place of those that failed.

    Any other exception ends the work: items that have not begun are not asked.
    """

    def ask_one(item: T) -> R | ItemFailed:
        try:
            return ask(item)
        except ItemFailed as error:
            return error

    executor = ThreadPoolExecutor(concurrency, thread_name_prefix="augment-server")
    try:
        return list(executor.map(ask_one, items))
    finally:
        executor.shutdown(cancel_futures=True)
