"""Captions by a vision model behind an OpenAI-compatible server."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Image, encode_image
from augment.errors import ItemFailed
from augment.stages.chat import EndpointStage
from augment.stages.refine.answers import clean_answer

_SYSTEM = "You caption photographs. Answer with the caption alone: one plain sentence of at most 25 words."
_QUESTION = "What place is this? Say what the ground, the surroundings and the light are like."


@dataclass(frozen=True)
class Endpoint(EndpointStage):
    """Asks a served vision model what a plate shows; the plate goes to the server as a JPEG.

    Settings are those of `EndpointStage`, and

    side: pixels of the longer side of what is sent.
    """

    side: Annotated[int, Field(ge=64)] = 768

    backend: ClassVar[str] = "openai"

    def __call__(self, plates: Sequence[Image]) -> list[str | ItemFailed]:
        """`(H, W, 3)` uint8 RGB plates to a caption each. Raises WeightsError where the server cannot be used."""
        return self._at_once(self._caption, plates)

    def _caption(self, plate: Image) -> str:
        scale = self.side / max(plate.shape[:2])
        if scale < 1:
            plate = np.asarray(cv2.resize(plate, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        data = base64.b64encode(encode_image(plate, "jpeg")).decode()
        picture = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
        question = {"role": "user", "content": [{"type": "text", "text": _QUESTION}, picture]}
        caption = clean_answer(self.chat([{"role": "system", "content": _SYSTEM}, question]))
        if caption is None:
            raise ItemFailed(f"{self.model} at {self.base_url}: no caption in its answer")
        return caption
