"""Fill the hole with patches of what is visible around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image
from augment.imaging import quilting
from augment.imaging.patches import PatchCosts
from augment.stages.inpaint.hole import HoleInpainter

# Large patches, but none that fits badly only because it fills much.
_COSTS = PatchCosts(window=0.6, gap=20.0, repairs=12)


@dataclass(frozen=True)
class Exemplar(HoleInpainter):
    """Patches moved into the hole from near their own height, and cut where they agree with the rest.

    Keeps texture in a hole as large as an object, which OpenCV's two methods smear. Sources: `imaging/patches.py`.
    Settings are those of `HoleInpainter`.
    """

    backend: ClassVar[str] = "exemplar"

    def paint(self, image: Image, hole: NDArray[np.bool_]) -> Image:
        return quilting.fill(image, hole, _COSTS, np.random.default_rng(0))
