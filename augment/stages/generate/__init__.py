"""Make a new background: prompt, plate and matte to background."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from augment.artifacts import BACKGROUND, Image, Matte, Prompt, Rejected
from augment.errors import ItemFailed
from augment.stages.base import IMAGE, SEED, Kind, Stage
from augment.stages.inpaint import Inpainter
from augment.stages.refine import Refiner
from augment.stages.remove import Remover


class Generator(Stage):
    """Base class of generators."""

    kind: ClassVar[Kind[Image]] = Kind(
        "generate",
        makes=BACKGROUND,
        needs={
            "images": IMAGE,
            "prompts": Refiner.kind,
            "plates": Inpainter.kind,
            "mattes": Remover.kind,
            "seeds": SEED,
        },
        per_variant=True,
        drawn=True,
    )
    backends: ClassVar[Mapping[str, str]] = {
        "resynthesis": "augment.stages.generate.resynthesis:Resynthesis",
        "diffusers": "augment.stages.generate.diffusers:Diffusers",
        "img2img": "augment.stages.generate.img2img:ImageToImage",
        "around": "augment.stages.generate.around:Around",
        "folder": "augment.stages.generate.folder:Folder",
        "webui": "augment.stages.generate.webui:WebUi",
        "comfyui": "augment.stages.generate.comfyui:ComfyUi",
        "openai": "augment.stages.generate.openai:OpenAi",
    }

    uses_plate: ClassVar[bool] = False  # the pixels of the plate; otherwise, only its size

    @abstractmethod
    def __call__(
        self,
        *,
        images: Sequence[Image],
        prompts: Sequence[Prompt],
        plates: Sequence[Image],
        mattes: Sequence[Matte],
        seeds: Sequence[int],
    ) -> Sequence[Image | Rejected | ItemFailed]:
        """Prompts with plates `(H, W, 3)` uint8 RGB, mattes and 63-bit seeds to backgrounds of the plates' shapes.

        `images` are the images themselves; they are decoded again only for a generator that names them.

        The same prompt, plate, matte and seed give the same background in any batch. `Rejected` asks for another seed.
        """

    def finish(self, result: Any, given: Mapping[str, Any]) -> Image | Rejected:
        """The background, unless it cannot serve as one."""
        like = given.get("plates", result)  # a generator that does not ask for the plate may have a size of its own
        reason = flaw(result, np.shape(like))
        return result if reason is None else Rejected(reason)


def flaw(background: Any, shape: tuple[int, ...]) -> str | None:
    """Why a generated image cannot serve as a background of that `(H, W)` or `(H, W, 3)`; None if it can."""
    wanted = (*shape[:2], 3)
    if not isinstance(background, np.ndarray):
        return f"{type(background).__name__} and not an array"
    if background.shape != wanted or background.dtype != np.uint8:
        return f"{background.shape} {background.dtype} and not {wanted} uint8"
    # Safety checkers and half-precision overflows both leave black; a diffusion model's failures are nearly flat.
    if int(background.max()) < 16:
        return "black"
    if float(background.std(axis=(0, 1)).max()) < 1.0:
        return "of one color"
    return None
