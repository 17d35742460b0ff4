"""A client of Stable Diffusion WebUI's API (AUTOMATIC1111's, and those that kept it, such as Forge and SD.Next)."""

from __future__ import annotations

import base64
import binascii
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Image, Prompt, encode_image
from augment.errors import CorruptEntry, ItemFailed, UnavailableError
from augment.models.calling import NoServer, with_retries
from augment.models.http import MEGABYTE, Reply, Server, check_address
from augment.models.pictures import decode_bounded
from augment.models.weights import PROBE_SECONDS

AUTH = "AUGMENT_WEBUI_AUTH"

_MULTIPLE = 8  # WebUI works in latents of an eighth of the size
_SEED_BITS = 0xFFFFFFFF  # WebUI draws its own seeds from 32 bits, and its NumPy and PyTorch take no larger ones
_MOST_PIXELS = 8192 * 4096  # of an image in a reply
_LARGEST_REPLY = 96 * MEGABYTE
_HASH = re.compile(r"\s*\[[0-9a-fA-F]{6,64}\]\s*$")
_EXTENSION = re.compile(r"\.(?:safetensors|ckpt|gguf|sft|pth|pt|bin)$", re.IGNORECASE)


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
    base_url: str = "http://127.0.0.1:7860"
    timeout: Annotated[float, Field(gt=0)] = 300.0
    retries: Annotated[int, Field(ge=0)] = 3
    concurrency: Annotated[int, Field(ge=1)] = 2

    def target(self) -> str:
        return self.base_url

    def __post_init__(self) -> None:
        check_address("base_url", self.base_url)

    def check(self) -> None:
        """Raise UnavailableError, with the way out, if the server cannot be used, or lacks what the settings name.

        WebUI uses what it has loaded instead of a checkpoint that it does not know, Forge "Automatic" instead of a
        scheduler, and neither says so.
        """
        models = self._listed("sd-models")
        if models is None:
            raise UnavailableError(
                f"{self.base_url} has no WebUI API (HTTP 404): start WebUI with --api, or correct base_url"
            )
        if self.checkpoint and not knows_checkpoint(models, self.checkpoint):
            known = sorted(str(model.get("model_name") or model.get("title")) for model in models)
            raise UnavailableError(
                f"{self.base_url} has no checkpoint {self.checkpoint!r}; it has: {', '.join(known) or 'none'}"
            )
        schedulers = [name for one in self._listed("schedulers") or () for name in _names(one, "label", "name")]
        samplers = [name for one in self._listed("samplers") or () for name in _names(one, "name")]
        # "DPM++ 2M Karras" is a sampler with its scheduler, as older versions of WebUI had it.
        plain = [self.sampler.removesuffix(f" {name}") for name in schedulers]
        if samplers and not {self.sampler, *plain} & set(samplers):
            raise UnavailableError(self._lacks("sampler", self.sampler, samplers))
        if schedulers and self.scheduler not in schedulers:
            raise UnavailableError(self._lacks("scheduler", self.scheduler, schedulers))

    def check_upscaler(self, name: str) -> None:
        """Raise UnavailableError if the server lists upscalers, and this is none of them."""
        lists = [self._listed(what) for what in ("upscalers", "latent-upscale-modes")]
        known = [one for listed in lists for model in listed or () for one in _names(model, "name")]
        if lists[0] and name not in known:
            raise UnavailableError(self._lacks("upscaler", name, known))

    def _lacks(self, setting: str, name: str, known: Sequence[str]) -> str:
        same = [one for one in known if _plain(one) == _plain(name)]
        way_out = f"write {same[0]!r}" if same else f"it has: {', '.join(known)}"
        return f"{self.base_url} has no {setting} {name!r}; {way_out}"

    def _listed(self, what: str) -> list[dict[str, Any]] | None:
        """What the server lists under that name; None if it has no such list. Raises UnavailableError."""
        try:
            reply = self._server.get(f"/sdapi/v1/{what}", PROBE_SECONDS)
        except NoServer as error:
            raise UnavailableError(f"{error}; start it with --api, or correct base_url") from error
        except ItemFailed as error:
            raise UnavailableError(str(error)) from error
        if reply.status in (401, 403):
            raise UnavailableError(
                f'{self.base_url} refuses the login (HTTP {reply.status}): set {AUTH} to "user:password", as in '
                "its --api-auth"
            )
        if reply.status in (404, 405):
            return None
        if reply.status != 200:
            raise UnavailableError(str(self._server.fault(reply)))
        try:
            return [dict(one) for one in reply.json()]
        except (ValueError, TypeError) as error:
            why = f": it sent {error}" if reply.is_page else ""
            raise UnavailableError(
                f"{self.base_url}: what answers there is not a WebUI{why}; correct base_url"
            ) from error

    def unload(self) -> None:
        """Close the connections; the next request opens new ones."""
        server = self.__dict__.pop("_server", None)
        self.__dict__.pop("_down", None)
        if server is not None:
            server.close()

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
            return decode_bounded(base64.b64decode(data.rpartition(",")[2], validate=True), _MOST_PIXELS)
        except (ValueError, TypeError, KeyError, AttributeError, binascii.Error, CorruptEntry) as error:
            raise ItemFailed(
                f"{self.base_url}: {endpoint}: its reply holds no image: {_short(error, reply)}"
            ) from error

    def _working_size(self, image: Image) -> tuple[int, int]:
        """Height and width to work at: the image's aspect, the area of `size`²."""
        height, width = image.shape[:2]
        ideal = self.size * np.sqrt([height / width, width / height])
        rows, columns = (np.maximum(1, np.round(ideal / _MULTIPLE)) * _MULTIPLE).astype(int).tolist()
        return rows, columns

    def _post(self, path: str, payload: Mapping[str, Any]) -> Reply:
        reply = self._server.post(path, payload, self.timeout, _LARGEST_REPLY)
        if reply.status == 200:
            return reply
        raise self._server.fault(reply)

    @cached_property
    def _server(self) -> Server:
        login = os.environ.get(AUTH, "").strip()
        if login and ":" not in login:
            raise UnavailableError(f'{AUTH}: it must read "user:password", and has no colon')
        if not login.isprintable():
            raise UnavailableError(f"{AUTH}: it holds a character that no login has, such as a line break inside")
        headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
        return Server(self.base_url, headers, self.concurrency)

    @cached_property
    def _down(self) -> threading.Event:
        """Set while nothing answers there; see `with_retries`."""
        return threading.Event()


def knows_checkpoint(models: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether WebUI's list of checkpoints has one that WebUI takes for this name: its title ("sd/v1-5.safetensors
    [6ce0161689]"), model name or hash, or the title or file name without hash, folder or extension."""
    known: set[str] = set()
    for model in models:
        file = _HASH.sub("", str(model.get("title") or ""))
        base = re.split(r"[/\\]", file)[-1]
        known |= {file, base, _EXTENSION.sub("", file), _EXTENSION.sub("", base)}
        known |= set(_names(model, "title", "model_name", "hash", "sha256", "filename"))
    return name in known or _HASH.sub("", name) in known


def to_base64(image: Image) -> str:
    """An image or mask as the API takes it: a PNG in base64."""
    return base64.b64encode(encode_image(image, "png")).decode()


def _names(listed: Mapping[str, Any], *fields: str) -> list[str]:
    return [str(listed[field]) for field in fields if listed.get(field)]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower().replace("+", "p"))


def _short(error: Exception, reply: Reply) -> str:
    """Why there is no image, or what there is instead."""
    return str(error) if isinstance(error, CorruptEntry) else reply.words
