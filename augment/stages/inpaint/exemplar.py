"""Fill the hole with patches of what is visible around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.errors import ItemFailed
from augment.stages import quilting
from augment.stages.base import Stage
from augment.stages.inpaint.hole import per_hole
from augment.stages.patches import Look

# Large patches, but none that fits badly only because it fills much.
_LOOK = Look(window=0.6, gap=20.0, repairs=12)


@dataclass(frozen=True)
class Exemplar(Stage):
    """Backend "exemplar": patches moved into the hole from near their own height, cut where they agree with the rest.

    Keeps texture where a hole is as large as an object, which OpenCV's two methods smear. Sources: `stages/patches.py`.

    grow: how much wider than the matte the hole is, as a share of the image's diagonal.
    """

    backend: ClassVar[str] = "exemplar"
    parallel: ClassVar[bool] = True

    grow: Annotated[float, Field(ge=0.0, le=0.1)] = 0.012

    def __call__(self, images: Sequence[Image], mattes: Sequence[Matte]) -> Sequence[Image | ItemFailed]:
        return per_hole(
            images, mattes, self.grow, lambda image, hole: quilting.fill(image, hole, _LOOK, np.random.default_rng(0))
        )
