"""New backgrounds pieced together from what is visible around the object, then relit as the prompt says; no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Image, Matte, Prompt
from augment.errors import ItemFailed
from augment.imaging import quilting
from augment.imaging.aperture import round_field, smoothed, turned
from augment.imaging.light import Grade, relight
from augment.imaging.patches import PatchCosts
from augment.stages.generate import Generator


@dataclass(frozen=True)
class Resynthesis(Generator):
    """Uses only pixels outside the object, never inpainted ones. If what is visible lies in a round field on black, as
    in fundus cameras and endoscopes, rearranging would give it away: then the plate is mirrored and tilted instead.

    - `patch`: side of the largest patch, as a share of the shorter side of the image.
    - `margin`: how much wider than the matte the unused part is, as a share of the image's diagonal.
    """

    backend: ClassVar[str] = "resynthesis"
    parallel: ClassVar[bool] = True
    version: ClassVar[int] = 2  # relights instruments in their own way, and leaves grayscale images gray

    patch: Annotated[float, Field(ge=0.05, le=1.0)] = 0.5
    margin: Annotated[float, Field(ge=0.0, le=0.1)] = 0.015

    def __call__(
        self,
        *,
        prompts: Sequence[Prompt],
        plates: Sequence[Image],
        mattes: Sequence[Matte],
        seeds: Sequence[int],
        **_: Any,
    ) -> list[Image | ItemFailed]:
        return [self._make(*item) for item in zip(prompts, plates, mattes, seeds, strict=True)]

    def _make(self, prompt: Prompt, plate: Image, matte: Matte, seed: int) -> Image | ItemFailed:
        visible = ~matte.hole(self.margin)
        if not visible.any():
            return ItemFailed(
                f"no visible pixel is left to make a background from: the matte, grown by {self.margin:g} of the "
                "diagonal, covers the image; lower generate.margin or leave this image out"
            )
        rng = np.random.default_rng(seed)
        field = round_field(plate)
        if field is not None:
            return relight(turned(smoothed(plate, ~visible, field), field, rng), prompt.text, seed, _grade(prompt))
        costs = PatchCosts(window=self.patch, gap=50.0, noise=25.0, stay=60.0, turn=5.0, repeat=5.0)
        background = quilting.resynthesize(plate, visible, costs, rng)
        return relight(background, prompt.text, seed, _grade(prompt))


def _grade(prompt: Prompt) -> Grade | None:
    """The grade that comes with the prompt, if one does."""
    if prompt.grade is None:
        return None
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in prompt.grade.items()
    }
    return Grade(**values)
