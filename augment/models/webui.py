"""A client of Stable Diffusion WebUI's API (AUTOMATIC1111's, and those that kept it, such as Forge and SD.Next)."""

from __future__ import annotations

import base64
import binascii
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from augment.artifacts import Image, decode_image, encode_image
from augment.errors import CorruptEntry, ItemFailed, WeightsError

logger = logging.getLogger(__name__)

AUTH = "AUGMENT_WEBUI_AUTH"

_PROBE_SECONDS = 5.0  # a server that has not answered the first question by then is taken as out of reach
_FIRST_PAUSE = 0.5  # seconds before the first retry; each further one waits twice as long
_PASSING = {429, 500, 502, 503, 504}  # statuses that another try may not meet again
_SEED_BITS = 0xFFFFFFFF  # WebUI draws its own seeds from 32 bits, and its NumPy and PyTorch take no larger ones

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Client:
    """One server. User and password are read from AUGMENT_WEBUI_AUTH ("user:password") and kept nowhere else.

    `timeout` is for one image, in seconds; `retries` after a fault of the server or the line, with growing pauses;
    `concurrency` requests in flight at once. May be called from several threads.
    """

    base_url: str
    timeout: float
    retries: int
    concurrency: int

    def check(self, checkpoint: str | None = None) -> None:
        """Raise WeightsError, with the way out, where the server cannot be used or lacks the checkpoint."""
        import httpx

        try:
            reply = self._http.get("/sdapi/v1/sd-models", timeout=_PROBE_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise WeightsError(f"{self._unreachable(error)}; start it with --api, or correct base_url") from error
        if reply.status_code in (401, 403):
            raise WeightsError(
                f'{self.base_url} refuses the login (HTTP {reply.status_code}): set {AUTH} to "user:password", as in '
                "its --api-auth"
            )
        if reply.status_code == 404:
            raise WeightsError(
                f"{self.base_url} has no WebUI API (HTTP 404): start WebUI with --api, or correct base_url"
            )
        if reply.status_code != 200:
            raise WeightsError(f"{self.base_url}: HTTP {reply.status_code}: {_words(reply)}")
        try:
            models = [dict(model) for model in reply.json()]
        except (ValueError, TypeError) as error:
            raise WeightsError(f"{self.base_url}: what answers there is not a WebUI; correct base_url") from error
        # WebUI takes the checkpoint it has loaded where it does not know the name, and does not say so.
        if checkpoint and checkpoint not in {str(name) for model in models for name in model.values()}:
            known = ", ".join(sorted(str(model.get("model_name") or model.get("title")) for model in models))
            raise WeightsError(f"{self.base_url} has no checkpoint {checkpoint!r}; it has: {known or 'none'}")

    def image(self, endpoint: str, payload: Mapping[str, Any], seed: int) -> Image:
        """The first image that "txt2img" or "img2img" makes, `(H, W, 3)` uint8 RGB. Raises ItemFailed."""
        whole = {**payload, "seed": seed & _SEED_BITS, "batch_size": 1, "n_iter": 1, "save_images": False}
        reply = self._post(f"/sdapi/v1/{endpoint}", whole)
        try:
            (data, *_) = reply.json()["images"]
            # Some servers put "data:image/png;base64," before it.
            return decode_image(base64.b64decode(data.rpartition(",")[2], validate=True))
        except (ValueError, TypeError, KeyError, AttributeError, binascii.Error, CorruptEntry) as error:
            raise ItemFailed(f"{self.base_url}: {endpoint}: its reply holds no image: {_words(reply)}") from error

    def at_once(self, ask: Callable[[T], R], items: Sequence[T]) -> list[R | ItemFailed]:
        """`ask` over the items, `concurrency` at a time, in order; ItemFailed in the place of one that failed."""

        def ask_one(item: T) -> R | ItemFailed:
            try:
                return ask(item)
            except ItemFailed as error:
                return error

        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="webui") as pool:
            return list(pool.map(ask_one, items))

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        http = self.__dict__.pop("_http", None)
        if http is not None:
            http.close()

    @cached_property
    def _http(self) -> Any:
        from augment.weights import check_libraries

        check_libraries(["httpx"])
        import httpx

        login = os.environ.get(AUTH)
        if login is not None and ":" not in login:
            raise WeightsError(f'{AUTH}: it must read "user:password", and has no colon')
        auth = httpx.BasicAuth(*login.split(":", 1)) if login else None
        limits = httpx.Limits(max_connections=self.concurrency + 1)
        try:
            return httpx.Client(base_url=self.base_url, auth=auth, timeout=self.timeout, limits=limits)
        except httpx.InvalidURL as error:
            raise WeightsError(f"base_url: {self.base_url!r} is not an address: {error}") from error

    @cached_property
    def _down(self) -> threading.Event:
        """Set while the server cannot be reached: then the next items fail at once, not each after all its retries."""
        return threading.Event()

    def _post(self, path: str, payload: Mapping[str, Any]) -> Any:
        import httpx

        for attempt in range(self.retries + 1):
            last = attempt == self.retries or self._down.is_set()
            try:
                reply = self._http.post(path, json=payload)
            except httpx.ReadTimeout as error:
                # The server is still at it: asking again would only put more work in its queue.
                raise ItemFailed(f"{self.base_url}: no image in {self.timeout:g} s; raise timeout") from error
            except httpx.TransportError as error:
                problem = self._unreachable(error)
                if last:
                    if isinstance(error, httpx.ConnectError):
                        self._down.set()
                    raise ItemFailed(problem) from error
            else:
                self._down.clear()
                if reply.status_code == 200:
                    return reply
                problem = f"{self.base_url}: HTTP {reply.status_code}: {_words(reply)}"
                if last or reply.status_code not in _PASSING:
                    raise ItemFailed(problem)
            pause = _FIRST_PAUSE * 2**attempt
            logger.debug("%s; again in %g s", problem, pause)
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, error: Exception) -> str:
        import httpx

        if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.DecodingError):
            return f"{self.base_url}: it broke off its reply ({error})"
        return f"{self.base_url}: no server answers there ({error or type(error).__name__})"


def to_base64(image: Image) -> str:
    """An image or mask as the API takes it: a PNG in base64."""
    return base64.b64encode(encode_image(image, "png")).decode()


def _words(reply: Any) -> str:
    """What a reply says, in at most a line."""
    try:
        content = reply.json()
    except ValueError:
        content = reply.text
    if isinstance(content, dict):
        # {"error": kind, "errors": text} for what went wrong inside, {"detail": text} for what was asked wrongly.
        content = content.get("errors") or content.get("detail") or content.get("error") or content
    return " ".join(str(content).split())[:200] or "an empty reply"
