"""Captions by a vision model behind an OpenAI-compatible server."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Image, encode_image
from augment.errors import ItemFailed
from augment.models.calling import map_concurrent
from augment.models.openai import OpenAiModel
from augment.stages.caption import Captioner
from augment.stages.text import clean_answer

_SYSTEM = "You caption images. Answer with the caption alone: one plain sentence of at most 25 words."
_QUESTION = (
    "What does this image show? If it is of an instrument (microscope, X-ray, ultrasound, satellite, thermal, …) "
    "or of a studio, say so; otherwise say what the ground, the surroundings and the light are like."
)


@dataclass(frozen=True)
class OpenAi(OpenAiModel, Captioner):
    """Asks a served vision model what a plate shows; the plate goes to the server as a JPEG.

    Settings are those of `OpenAiModel`, and

    - `side`: pixels of the longer side of what is sent.
    """

    backend: ClassVar[str] = "openai"
    version: ClassVar[int] = 2  # asks for the kind of picture

    side: Annotated[int, Field(ge=64)] = 768

    def __call__(self, *, plates: Sequence[Image], **_: Any) -> list[str | ItemFailed]:
        """See `Captioner`. Raises UnavailableError if the server refuses the key or has no such model."""
        return map_concurrent(self._caption, plates, self.concurrency)

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
