"""Plates by an inpainting network in ONNX, run by OpenCV; nothing else has to be installed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from augment.artifacts import Image
from augment.imaging.fit import stretch
from augment.models.onnx import OnnxWeights
from augment.models.onnx_inpainting import InpaintingNetwork
from augment.stages.inpaint.hole import HoleInpainter


@dataclass(frozen=True)
class Onnx(HoleInpainter):
    """Fills the hole by a network with LaMa's inputs (Suvorov et al. 2022): "image" `(1, 3, size, size)`, 0 to 1, and
    "mask" `(1, 1, size, size)`, 1 in the hole.

    The network sees the hole with its surroundings, brought to `size`; so a small hole in a large image is filled at
    the image's own sharpness. Settings are those of `HoleInpainter`, and

    - `model`: the path of an ONNX file, such as LaMa's from OpenCV's model zoo.
    - `size`: the side in pixels of the square that it takes.
    - `context`: how much of the surroundings it sees, as a share of the hole's longer side.
    """

    backend: ClassVar[str] = "onnx"

    model: str = field(kw_only=True)
    size: Annotated[int, Field(ge=16)] = 512
    context: Annotated[float, Field(ge=0.1)] = 0.5

    def weights(self) -> OnnxWeights:
        return OnnxWeights(self.model)

    def check(self) -> None:
        self.weights().check()

    def paint(self, image: Image, hole: NDArray[np.bool_]) -> Image:
        rows, columns = window(hole, self.size, self.context)
        part, mask = image[rows, columns], hole[rows, columns]
        small = stretch(part, self.size, self.size)
        # Any pixel that is partly hole is hole, so that nothing of the object is seen.
        small_mask = stretch(mask.astype(np.uint8) * 255, self.size, self.size) > 0
        filled = self._network.fill(np.where(small_mask[..., None], 0, small).astype(np.uint8), small_mask)
        painted = image.copy()
        painted[rows, columns] = stretch(filled, *part.shape[:2])
        return painted

    @cached_property
    def _network(self) -> InpaintingNetwork:
        return InpaintingNetwork(self.weights().resolve(), self.size)


def window(hole: NDArray[np.bool_], size: int, context: float) -> tuple[slice, slice]:
    """The square around the hole, with its surroundings, that the network sees: at least `size` pixels, where the image
    has them."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = max(size, round(longer * (1 + 2 * context)))
    return (
        _span((rows[0] + rows[-1] + 1) // 2, side, hole.shape[0]),
        _span((columns[0] + columns[-1] + 1) // 2, side, hole.shape[1]),
    )


def _span(middle: int, side: int, length: int) -> slice:
    start = min(max(0, int(middle) - side // 2), max(0, length - side))
    return slice(start, min(length, start + side))
