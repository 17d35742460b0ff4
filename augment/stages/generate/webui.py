"""Text to image by a Stable Diffusion WebUI, here or on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from augment.artifacts import Image, Prompt
from augment.errors import ItemFailed
from augment.imaging.fit import cover
from augment.models.calling import map_concurrent
from augment.models.webui import WebUiModel
from augment.stages.generate import Generator


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
class WebUi(WebUiModel, Generator):
    """Backgrounds from `/sdapi/v1/txt2img`; uses the prompt and the plate's size. Settings are those of `WebUiModel`,
    and

    - `hires`: a second pass at a larger size, if wanted; see `HiresFix`.
    """

    backend: ClassVar[str] = "webui"

    hires: HiresFix | None = None

    def check(self) -> None:
        super().check()
        if self.hires is not None:
            self.check_upscaler(self.hires.upscaler)

    def __call__(
        self, *, prompts: Sequence[Prompt], plates: Sequence[Image], seeds: Sequence[int], **_: Any
    ) -> list[Image | ItemFailed]:
        """See `Generator`. What the server cannot do fails that item."""
        items = list(zip(prompts, plates, seeds, strict=True))
        return map_concurrent(lambda item: self._generate(*item), items, self.concurrency)

    def _generate(self, prompt: Prompt, plate: Image, seed: int) -> Image:
        second_pass = (
            {}
            if self.hires is None
            else {
                "enable_hr": True,
                "hr_scale": self.hires.scale,
                "hr_upscaler": self.hires.upscaler,
                "hr_second_pass_steps": self.hires.steps,
                "denoising_strength": self.hires.denoising,
            }
        )
        return cover(self.image("txt2img", prompt, plate, seed, **second_pass), *plate.shape[:2])
