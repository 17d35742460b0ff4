"""A client of Stable Diffusion WebUI's API (AUTOMATIC1111's, and those that kept it, such as Forge and SD.Next)."""

from __future__ import annotations

import base64
import binascii
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Image, Prompt, decode_image, encode_image
from augment.errors import CorruptEntry, ItemFailed, UnavailableError
from augment.models.calling import PASSING, NoServer, PassingFault, pause_asked_for, with_retries
from augment.models.weights import PROBE_SECONDS, check_libraries

if TYPE_CHECKING:
    import httpx

AUTH = "AUGMENT_WEBUI_AUTH"

_MULTIPLE = 8  # WebUI works in latents of an eighth of the size
_SEED_BITS = 0xFFFFFFFF  # WebUI draws its own seeds from 32 bits, and its NumPy and PyTorch take no larger ones


@dataclass(frozen=True)
class WebUiModel:
    """The settings that every role of a Stable Diffusion WebUI, started with `--api`, has.

    User and password, if it wants them, are read from AUGMENT_WEBUI_AUTH ("user:password") and kept nowhere else.

    - `checkpoint`: the model's name on that server; None is whichever it has loaded.
    - `sampler`, `scheduler`: by the names that WebUI shows.
    - `steps`, `guidance`: denoising steps, and the weight of the prompt.
    - `size`: side in pixels of a square of the area to work at, in the image's own aspect.
    - `base_url`: the server's address.
    - `timeout`: seconds for one image.
    - `retries`: how often an image is asked for again after a fault of the server or the connection, with growing
      pauses.
    - `concurrency`: requests in flight at once.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"base_url", "timeout", "retries", "concurrency"})
    batch_size: ClassVar[int] = 16  # enough to keep the requests in flight

    checkpoint: str | None = None
    sampler: str = "DPM++ 2M"
    scheduler: str = "Karras"
    steps: Annotated[int, Field(ge=1)] = 20
    guidance: Annotated[float, Field(ge=1)] = 7.0
    size: Annotated[int, Field(ge=64)] = 512
    base_url: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:7860"
    timeout: Annotated[float, Field(gt=0)] = 300.0
    retries: Annotated[int, Field(ge=0)] = 3
    concurrency: Annotated[int, Field(ge=1)] = 2

    def target(self) -> str:
        return self.base_url

    def check(self) -> None:
        """Raise UnavailableError, with the way out, if the server cannot be used or lacks the checkpoint."""
        client = self._client
        import httpx

        try:
            reply = client.get("/sdapi/v1/sd-models", timeout=PROBE_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnavailableError(f"{self._unreachable(error)}; start it with --api, or correct base_url") from error
        if reply.status_code in (401, 403):
            raise UnavailableError(
                f'{self.base_url} refuses the login (HTTP {reply.status_code}): set {AUTH} to "user:password", as in '
                "its --api-auth"
            )
        if reply.status_code == 404:
            raise UnavailableError(
                f"{self.base_url} has no WebUI API (HTTP 404): start WebUI with --api, or correct base_url"
            )
        if reply.status_code != 200:
            raise UnavailableError(f"{self.base_url}: HTTP {reply.status_code}: {_words(reply)}")
        try:
            models = [dict(model) for model in reply.json()]
        except (ValueError, TypeError) as error:
            raise UnavailableError(f"{self.base_url}: what answers there is not a WebUI; correct base_url") from error
        # If WebUI does not know the name, it uses the checkpoint that it has loaded, and does not say so.
        if self.checkpoint and self.checkpoint not in {str(name) for model in models for name in model.values()}:
            known = ", ".join(sorted(str(model.get("model_name") or model.get("title")) for model in models))
            raise UnavailableError(f"{self.base_url} has no checkpoint {self.checkpoint!r}; it has: {known or 'none'}")

    def unload(self) -> None:
        """Close the connections; the next request opens new ones."""
        client = self.__dict__.pop("_client", None)
        self.__dict__.pop("_down", None)
        if client is not None:
            client.close()

    def image(self, endpoint: str, prompt: Prompt, like: Image, seed: int, **payload: Any) -> Image:
        """The image that "txt2img" or "img2img" makes of the prompt, `(H, W, 3)` uint8 RGB, in the aspect of `like`.

        `payload` is what the endpoint takes besides. Raises ItemFailed.
        """
        height, width = self._working_size(like)
        whole = {
            "prompt": prompt.text,
            "negative_prompt": prompt.negative,
            "sampler_name": self.sampler,
            "scheduler": self.scheduler,
            "steps": self.steps,
            "cfg_scale": self.guidance,
            "height": height,
            "width": width,
            "override_settings": {"sd_model_checkpoint": self.checkpoint} if self.checkpoint else {},
            "seed": seed & _SEED_BITS,
            "batch_size": 1,
            "n_iter": 1,
            "save_images": False,
            **payload,
        }
        reply = with_retries(partial(self._post, f"/sdapi/v1/{endpoint}", whole), self.retries, self._down)
        try:
            (data, *_) = reply.json()["images"]
            # Some servers put "data:image/png;base64," before it.
            return decode_image(base64.b64decode(data.rpartition(",")[2], validate=True))
        except (ValueError, TypeError, KeyError, AttributeError, binascii.Error, CorruptEntry) as error:
            raise ItemFailed(f"{self.base_url}: {endpoint}: its reply holds no image: {_words(reply)}") from error

    def _working_size(self, image: Image) -> tuple[int, int]:
        """Height and width to work at: the image's aspect, the area of `size`²."""
        height, width = image.shape[:2]
        ideal = self.size * np.sqrt([height / width, width / height])
        rows, columns = (np.maximum(1, np.round(ideal / _MULTIPLE)) * _MULTIPLE).astype(int).tolist()
        return rows, columns

    def _post(self, path: str, payload: Mapping[str, Any]) -> httpx.Response:
        client = self._client
        import httpx

        try:
            reply = client.post(path, json=payload)
        except httpx.ReadTimeout as error:
            # The server is still at it: asking again would only put more work in its queue.
            raise ItemFailed(f"{self.base_url}: no image in {self.timeout:g} s; raise timeout") from error
        except httpx.ConnectError as error:
            raise NoServer(self._unreachable(error)) from error
        except httpx.TransportError as error:
            raise PassingFault(self._unreachable(error)) from error
        if reply.status_code == 200:
            return reply
        said = f"{self.base_url}: HTTP {reply.status_code}: {_words(reply)}"
        if reply.status_code in PASSING:
            raise PassingFault(said, pause_asked_for(reply.headers.get("Retry-After")))
        raise ItemFailed(said)

    @cached_property
    def _client(self) -> httpx.Client:
        check_libraries(["httpx", "tenacity"])
        import httpx

        login = os.environ.get(AUTH)
        if login is not None and ":" not in login:
            raise UnavailableError(f'{AUTH}: it must read "user:password", and has no colon')
        user, _, password = (login or "").partition(":")
        auth = httpx.BasicAuth(user, password) if login else None
        limits = httpx.Limits(max_connections=self.concurrency + 1)
        try:
            return httpx.Client(base_url=self.base_url, auth=auth, timeout=self.timeout, limits=limits)
        except httpx.InvalidURL as error:
            raise UnavailableError(f"base_url: {self.base_url!r} is not an address: {error}") from error

    @cached_property
    def _down(self) -> threading.Event:
        """Set while nothing answers there; see `with_retries`."""
        return threading.Event()

    def _unreachable(self, error: Exception) -> str:
        import httpx

        if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.DecodingError):
            return f"{self.base_url}: it broke off its reply ({error})"
        return f"{self.base_url}: no server answers there ({error or type(error).__name__})"


def to_base64(image: Image) -> str:
    """An image or mask as the API takes it: a PNG in base64."""
    return base64.b64encode(encode_image(image, "png")).decode()


def _words(reply: httpx.Response) -> str:
    """What a reply says, in at most one line."""
    try:
        content = reply.json()
    except ValueError:
        content = reply.text
    if isinstance(content, dict):
        # {"error": kind, "errors": text} for faults inside the server, {"detail": text} for wrong requests.
        content = content.get("errors") or content.get("detail") or content.get("error") or content
    return " ".join(str(content).split())[:200] or "an empty reply"
