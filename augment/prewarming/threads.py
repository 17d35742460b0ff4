"""Threads that no one has to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Threads(Generic[T]):
    """A few threads that run calls, one after another.

    Unlike those of `concurrent.futures` they are daemons: a call that never returns keeps neither the caller nor the
    end of the process waiting.
    """

    def __init__(self, count: int, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[T], Callable[..., T], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a thread make this call."""
        future: Future[T] = Future()
        self._calls.put((future, call, arguments))
        return future

    def close(self) -> None:
        """End the threads, each after the call that it is making."""
        for _ in self._threads:
            self._calls.put(None)

    def _run(self) -> None:
        while (made := self._calls.get()) is not None:
            future, call, arguments = made
            try:
                future.set_result(call(*arguments))
            except BaseException as error:  # it is the caller's, as in concurrent.futures
                future.set_exception(error)
            del made, future, call, arguments  # holds a batch's images otherwise, until the next call
