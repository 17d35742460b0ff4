"""Backgrounds that are made around the object: diffusers inpainting with the matte as what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field, InstanceOf

from augment.artifacts import Image, Matte, Prompt, Rejected
from augment.errors import ItemFailed
from augment.imaging.composite import composite
from augment.imaging.fit import stretch
from augment.models.diffusers import DiffusersModel, painting
from augment.stages.base import Stage
from augment.stages.generate import Generator
from augment.stages.inpaint import Inpainter
from augment.stages.inpaint.exemplar import Exemplar
from augment.stages.remove import Remover
from augment.stages.remove.grabcut import GrabCut

_RIM = 0.012  # of the image's diagonal: within this of the matte, an object has not grown


@dataclass(frozen=True)
class Around(DiffusersModel, Generator):
    """Paints everything but the object, so that light, ground and contact shadow fit it.

    The object's own pixels are laid over what was painted, as every composite does it, and the remover looks at the
    result: if the object has grown, for example by a limb or a base, the background is rejected. Then the object is
    painted out, because a background is without its object: in its own image it comes back over the same place, and
    another image can use the background too. Meant for `source="own"` without `Placement`, where the shadow fits.

    Loaded through `diffusers.AutoPipelineForInpainting`. Settings are those of `DiffusersModel`, and

    - `strength`: how much of the old background is made anew; at 1 nothing of it is left.
    - `max_growth`: by how much the object may grow, as a share of the image's area; 1 does without the check.
    - `remover`: the remover of the check, a table with a `backend`; best the recipe's own. A result that it has doubts
      about passes.
    - `inpainter`: what paints the object out, a table with a `backend`.
    """

    backend: ClassVar[str] = "around"
    auto_class: ClassVar[str] = "AutoPipelineForInpainting"
    table: ClassVar[str] = "generate"
    substages: ClassVar[Mapping[str, type[Stage]]] = {"remover": Remover, "inpainter": Inpainter}

    model: str = "stable-diffusion-v1-5/stable-diffusion-inpainting"
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_growth: Annotated[float, Field(gt=0, le=1)] = 0.02
    remover: InstanceOf[Remover] = field(default_factory=GrabCut)
    inpainter: InstanceOf[Inpainter] = field(default_factory=lambda: Exemplar(grow=0.0))

    def __call__(
        self,
        *,
        images: Sequence[Image],
        prompts: Sequence[Prompt],
        mattes: Sequence[Matte],
        seeds: Sequence[int],
        **_: Any,
    ) -> list[Image | Rejected | ItemFailed]:
        """See `Generator`; any number of items. Raises UnavailableError if the pipeline cannot be had or loaded."""
        around = [255 - matte.uncropped() for matte in mattes]
        drawn = self.draw(prompts, seeds, images, painting(images, around, self.strength))
        results: list[Image | Rejected | ItemFailed] = []
        for image, matte, result in zip(images, mattes, drawn, strict=True):
            if isinstance(result, np.ndarray):
                result = self._finished(image, matte, stretch(result, *image.shape[:2]))
            results.append(result)
        return results

    def check(self) -> None:
        super().check()
        self.remover.check()
        self.inpainter.check()

    def unload(self) -> None:
        super().unload()
        self.remover.unload()
        self.inpainter.unload()

    def _finished(self, image: Image, matte: Matte, painted: Image) -> Image | Rejected | ItemFailed:
        whole = composite(image, matte, painted)
        if self.max_growth < 1:
            (found,) = self.remover(images=[whole], **_nothing(self.remover))
            if isinstance(found, Matte) and found.unusable is None:
                grown = growth(matte, found)
                if grown > self.max_growth:
                    return Rejected(f"grown around: the object takes up {grown:.1%} more of the image than before")
        (plate,) = self.inpainter(images=[whole], mattes=[matte])
        return plate


def growth(before: Matte, after: Matte) -> float:
    """The share of the image that is object in `after`, not in `before` or at its rim, and hangs together with it."""
    old, near = before.uncropped() >= 128, before.hole(_RIM)
    _, parts = cv2.connectedComponents(((after.uncropped() >= 128) | old).astype(np.uint8))
    touching = np.isin(parts, np.unique(parts[old]))
    return float((touching & ~near).mean())


def _nothing(remover: Remover) -> dict[str, list[None]]:
    """None for each thing besides the image that a remover may be given."""
    return {name: [None] for name in remover.kind.needs if name != "images"}
