"""Text to image by a Stable Diffusion WebUI, here or on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Image, Matte, Prompt
from augment.errors import ItemFailed
from augment.fit import cover
from augment.stages.base import Stage
from augment.webui import Client

_MULTIPLE = 8  # WebUI works in latents of an eighth of the size


@dataclass(frozen=True)
class Server(Stage):
    """Base of the stages that ask a Stable Diffusion WebUI, started with `--api`.

    User and password, where it wants them, are read from AUGMENT_WEBUI_AUTH ("user:password").

    - `checkpoint`: the model's name on that server; left out, the one that it has loaded, whichever that is.
    - `sampler`, `scheduler`: by the names that WebUI shows.
    - `steps`, `guidance`: denoising steps, and the weight of the prompt.
    - `size`: side in pixels of a square of the area to work at, in the image's own aspect.
    - `base_url`: the server's address; `timeout`: seconds for one image; `retries`: after a fault of the server or the
      line, with growing pauses; `concurrency`: requests in flight at once.
    """

    backend: ClassVar[str] = "webui"
    execution_only: ClassVar[frozenset[str]] = frozenset({"base_url", "timeout", "retries", "concurrency"})
    batch_size = 16  # enough to keep the requests in flight

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

    def check(self) -> None:
        """Raise WeightsError where the server cannot be used, or does not have the checkpoint."""
        self._client.check(self.checkpoint)

    def where(self) -> str:
        return self.base_url

    def unload(self) -> None:
        self._client.close()
        super().unload()

    @cached_property
    def _client(self) -> Client:
        return Client(self.base_url, self.timeout, self.retries, self.concurrency)

    def _payload(self, prompt: Prompt, size: tuple[int, int]) -> dict[str, Any]:
        """What both endpoints take, for an image of `size` (height, width)."""
        height, width = size
        chosen = {"sd_model_checkpoint": self.checkpoint} if self.checkpoint else {}
        return {
            "prompt": prompt.text,
            "negative_prompt": prompt.negative,
            "sampler_name": self.sampler,
            "scheduler": self.scheduler,
            "steps": self.steps,
            "cfg_scale": self.guidance,
            "height": height,
            "width": width,
            "override_settings": chosen,
        }

    def _working_size(self, image: Image) -> tuple[int, int]:
        """Height and width to work at: the image's aspect, the area of `size`²."""
        height, width = image.shape[:2]
        ideal = self.size * np.sqrt([height / width, width / height])
        rows, columns = (np.maximum(1, np.round(ideal / _MULTIPLE)) * _MULTIPLE).astype(int).tolist()
        return rows, columns


@dataclass(frozen=True)
class HiresFix:
    """WebUI's second pass at a larger size: `scale` times the first, by `upscaler`, then `steps` (0: as many as the
    first pass) that change the share `denoising` of it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    scale: Annotated[float, Field(gt=1, le=4)] = 2.0
    upscaler: str = "Latent"
    steps: Annotated[int, Field(ge=0)] = 0
    denoising: Annotated[float, Field(ge=0, le=1)] = 0.5


@dataclass(frozen=True)
class WebUi(Server):
    """Backgrounds from `/sdapi/v1/txt2img`; uses the prompt and the plate's size. Settings are those of `Server`, and

    - `hires`: the hires fix, where it is wanted; see `HiresFix`.
    """

    hires: HiresFix | None = field(default=None)

    def __call__(
        self, prompts: Sequence[Prompt], plates: Sequence[Image], mattes: Sequence[Matte], seeds: Sequence[int]
    ) -> list[Image | ItemFailed]:
        """See `Generator`. What the server cannot do is that item's failure."""
        return self._client.at_once(lambda item: self._generate(*item), list(zip(prompts, plates, seeds, strict=True)))

    def _generate(self, prompt: Prompt, plate: Image, seed: int) -> Image:
        payload = self._payload(prompt, self._working_size(plate))
        if self.hires is not None:
            payload |= {
                "enable_hr": True,
                "hr_scale": self.hires.scale,
                "hr_upscaler": self.hires.upscaler,
                "hr_second_pass_steps": self.hires.steps,
                "denoising_strength": self.hires.denoising,
            }
        return cover(self._client.image("txt2img", payload, seed), *plate.shape[:2])
