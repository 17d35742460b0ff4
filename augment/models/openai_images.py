"""An image model behind a server with OpenAI's API: OpenAI, LocalAI, stable-diffusion.cpp, vLLM-Omni."""

from __future__ import annotations

import base64
import binascii
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from augment.artifacts import Image
from augment.errors import CorruptEntry, ItemFailed, RecipeError, UnavailableError
from augment.models.calling import with_retries
from augment.models.completions import find_refusal
from augment.models.http import MEGABYTE, Reply, Server, is_loopback
from augment.models.openai_server import OpenAiServer
from augment.models.pictures import decode_bounded
from augment.models.weights import PROBE_SECONDS

logger = logging.getLogger(__name__)

_SQUARE = "1024x1024"
# What OpenAI's own models make, by the beginning of their names.
_SIZES: dict[str, tuple[str, ...]] = {
    "gpt-image": (_SQUARE, "1536x1024", "1024x1536"),
    "dall-e-3": (_SQUARE, "1792x1024", "1024x1792"),
    "dall-e-2": ("256x256", "512x512", _SQUARE),
}
_SIZE = re.compile(r"[1-9]\d{1,4}x[1-9]\d{1,4}")
_MULTIPLE = 64  # of pixels, which every model takes
_MOST_PIXELS = 8192 * 4096  # of an image in a reply
_LARGEST_REPLY = 96 * MEGABYTE


@dataclass(frozen=True)
class OpenAiImagesModel(OpenAiServer):
    """The settings of an image model: those of `OpenAiServer`, and

    - `quality`: in the model's own words, such as "low" or "high" (gpt-image-1); None is its default.
    - `sizes`: the sizes that the model makes, such as "1536x1024" (width and height in pixels); empty: those of
      OpenAI's own models by their names; others are asked for a picture in the image's aspect.
    - `size`: side in pixels of a square of the area of such a picture.
    """

    batch_size: ClassVar[int] = 16  # enough to keep the requests in flight

    concurrency: Annotated[int, Field(ge=1)] = 2
    timeout: Annotated[float, Field(gt=0)] = 300.0
    quality: str | None = None
    sizes: tuple[str, ...] = ()
    size: Annotated[int, Field(ge=64)] = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.sizes:
            if not _SIZE.fullmatch(size):
                raise RecipeError(f'sizes: {size!r} is not a size: write width and height, as in "1536x1024"')

    def image(self, prompt: str, like: Image) -> Image:
        """The model's picture of the prompt, `(H, W, 3)` uint8 RGB, of the size that suits `like` best; it may be any
        other that the server prefers.

        Raises ItemFailed, also if the server refuses the prompt, and UnavailableError for what every item would meet.
        """
        size = self._size_for(*like.shape[:2])
        reply = with_retries(partial(self._generate, prompt, size), self.retries, self._down)
        try:
            (first, *_) = reply.json()["data"]
            if first.get("b64_json"):
                # Some servers put "data:image/png;base64," before it.
                data = base64.b64decode(str(first["b64_json"]).rpartition(",")[2], validate=True)
            else:
                data = self._fetch(str(first["url"]))
            return decode_bounded(data, _MOST_PIXELS)
        except CorruptEntry as error:
            raise ItemFailed(f"{self.base_url}: it sent no picture: {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
            raise ItemFailed(f"{self.base_url}: its reply holds no picture: {reply.words}") from error

    def _size_for(self, height: int, width: int) -> str:
        known = (sizes for name, sizes in _SIZES.items() if self.model.startswith(name))
        sizes = self.sizes or next(known, ())
        return closest(sizes, height, width) if sizes else free_size(self.size, height, width)

    def _generate(self, prompt: str, size: str) -> Reply:
        """The server's reply, asked for once."""
        payload: dict[str, Any] = {"model": self.model, "prompt": prompt, "size": size}
        if self.quality is not None:
            payload["quality"] = self.quality
        while True:
            # OpenAI's newer models refuse it, because they send nothing else.
            options = self._manner.options({"response_format": "b64_json"}, {})
            reply = self._server.post("/images/generations", payload | options, self.timeout, _LARGEST_REPLY)
            if reply.status == 200:
                return reply
            self._raise_for_all(reply)
            refusal = find_refusal(reply, payload | options, has_system=False)
            if refusal in options:
                self._manner.learn(refusal)
                logger.info("%s does not take %s: left out from now on", self.base_url, refusal)
                continue
            fault = self._server.fault(reply)
            if refusal in ("size", "quality"):
                setting = "sizes" if refusal == "size" else refusal
                raise ItemFailed(f"{fault}; asked for {refusal} {payload[refusal]!r}: set generate.{setting}")
            raise fault

    def _fetch(self, url: str) -> bytes:
        """The picture at an address that the server named: its own, or another one over HTTPS, which gets no key."""
        parts, own = urlsplit(url), urlsplit(self.base_url)
        is_own = (parts.scheme, parts.netloc) == (own.scheme, own.netloc)
        host = parts.hostname or ""
        if not is_own and (parts.scheme != "https" or is_loopback(host) or "@" in parts.netloc or not host):
            raise ItemFailed(
                f"{self.base_url}: its picture is at an address that is not asked ({parts.scheme}://{host}): only its "
                'own, or one over HTTPS; start the server so that it sends pictures as "b64_json"'
            )
        server = self._server if is_own else Server(f"{parts.scheme}://{parts.netloc}")
        try:
            reply = server.request("GET", url, None, self.timeout, _LARGEST_REPLY)
        except UnavailableError as error:  # a redirect
            raise ItemFailed(f"{self.base_url}: its picture cannot be fetched: {error}") from error
        finally:
            if not is_own:
                server.close()
        if reply.status != 200:
            raise server.fault(reply)
        return reply.body

    def _look(self) -> None:
        """Ask for the list of models, and for a picture without a prompt, which every server refuses, but not before it
        has looked at the address and the key. So nothing is generated, and nothing costs."""
        names = self._listed_models()
        if names and not self._is_among(names):
            raise UnavailableError(f"{self.base_url}: it has no model {self.model!r}{self._hint()}")
        reply = self._server.post("/images/generations", {"model": self.model}, PROBE_SECONDS)
        self._raise_for_all(reply)
        try:
            reply.json()
        except ValueError as error:
            raise self._not_a_server(error) from error


def closest(sizes: Sequence[str], height: int, width: int) -> str:
    """The size whose aspect is closest to that of a picture of `height` by `width`; of several, the smallest one that
    is at least as large, or else the largest."""

    def rank(size: str) -> tuple[float, bool, int]:
        columns, rows = map(int, size.split("x"))
        area = rows * columns
        is_small = area < height * width
        return round(abs(math.log(columns / rows * height / width)), 6), is_small, -area if is_small else area

    return min(sizes, key=rank)


def free_size(side: int, height: int, width: int) -> str:
    """The area of `side`² pixels in the aspect of a picture of `height` by `width`, in steps that every model takes."""
    rows, columns = (
        max(1, round(side * math.sqrt(ratio) / _MULTIPLE)) * _MULTIPLE for ratio in (height / width, width / height)
    )
    return f"{columns}x{rows}"
