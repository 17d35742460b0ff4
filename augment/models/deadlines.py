"""Network streams that keep a deadline for a whole exchange, where httpcore limits only each single read."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpcore


class Clock(threading.local):
    """The deadline of the calling thread's request."""

    def __init__(self) -> None:
        self._at: float | None = None

    def start(self, seconds: float) -> None:
        """The request has to be complete in so many seconds."""
        self._at = time.monotonic() + seconds

    def stop(self) -> None:
        self._at = None

    def left(self, timeout: float | None) -> float | None:
        """`timeout`, but no longer than until the deadline; at most 0 if it has passed."""
        if self._at is None:
            return timeout
        left = self._at - time.monotonic()
        return left if timeout is None else min(left, timeout)


def deadline_backend(clock: Clock) -> httpcore.NetworkBackend:
    """A backend for httpcore's pool whose streams keep the clock's deadline."""
    import httpcore

    class Stream(httpcore.NetworkStream):
        def __init__(self, inner: httpcore.NetworkStream) -> None:
            self._inner = inner

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            left = clock.left(timeout)
            if left is not None and left <= 0:
                raise httpcore.ReadTimeout("the deadline has passed")
            return self._inner.read(max_bytes, left)

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            left = clock.left(timeout)
            if left is not None and left <= 0:
                raise httpcore.WriteTimeout("the deadline has passed")
            self._inner.write(buffer, left)

        def close(self) -> None:
            self._inner.close()

        def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            return Stream(self._inner.start_tls(ssl_context, server_hostname, _positive(clock.left(timeout))))

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

    class Backend(httpcore.NetworkBackend):
        def __init__(self) -> None:
            self._inner = httpcore.SyncBackend()

        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore.NetworkStream:
            left = _positive(clock.left(timeout))
            return Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options))

        def sleep(self, seconds: float) -> None:
            self._inner.sleep(seconds)

    return Backend()


def _positive(seconds: float | None) -> float | None:
    return None if seconds is None else max(0.001, seconds)  # 0 would mean: do not wait at all
