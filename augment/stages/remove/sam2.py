"""Mattes of the labelled objects, by SAM 2 with their boxes as prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.errors import ItemFailed
from augment.models.saliency import HAZE, doubt_reason
from augment.models.sam2 import Sam2Settings
from augment.stages.remove import Remover


@dataclass(frozen=True)
class Sam2(Sam2Settings, Remover):
    """The union of the objects in the item's boxes. An item without boxes fails.

    The confidence is the model's own estimate of its mask's IoU with the true one, of the object that it is least
    certain of. Settings are those of `Sam2Settings`, and

    - `doubt`: a matte whose confidence, 0 to 1, is below it is marked unusable.
    """

    backend: ClassVar[str] = "sam2"

    doubt: Annotated[float, Field(ge=0, le=1)] = 0.7

    def __call__(
        self,
        *,
        images: Sequence[Image],
        boxes: Sequence[NDArray[np.float64] | None],
        sources: Sequence[str | None],
        **_: Any,
    ) -> list[Matte | ItemFailed]:
        """See `Remover`. Raises UnavailableError if transformers or the model cannot be had."""
        return [self._matte(*item) for item in zip(images, boxes, sources, strict=True)]

    def _matte(self, image: Image, boxes: NDArray[np.float64] | None, source: str | None) -> Matte | ItemFailed:
        if boxes is None or not len(boxes):
            return ItemFailed(f"{source or 'an image'}: it has no boxes, and sam2 cuts out what is in them")
        chances, scores = self.segment(image, boxes)
        alpha = (chances.max(0) * 255).round().astype(np.uint8)
        alpha[alpha < HAZE] = 0
        confidence = float(scores.min())
        return Matte.from_full(alpha, confidence, doubt_reason(confidence, self.doubt))
