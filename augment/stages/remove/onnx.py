"""Mattes by any saliency network in ONNX; nothing besides OpenCV is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.imaging.edges import find_edge
from augment.models.onnx import Channels, OnnxNetwork, OnnxWeights
from augment.models.saliency import FLAT, HAZE, doubt_reason
from augment.stages.remove import Remover

_Deviation = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Onnx(Remover):
    """A salient object's matte by a network that OpenCV runs on the CPU, at the image's own size.

    The confidence is the mean probability over the predicted object, each pixel weighted by its own.

    - `model`: "u2netp" (the small U²-Net, Qin et al. 2020; 4.6 MB, downloaded at first use) or the path of an ONNX file
      of a network that takes one RGB image and gives the object's map first. The next three describe its input; their
      defaults are U²-Net's.
    - `size`: the side in pixels of the square that the image is resized to.
    - `mean`, `deviation`: subtracted from red, green and blue (0 to 1), and what the rest is divided by.
    - `redraw_edge`: draw the edge by the image's own colors, within about two of the map's pixels; otherwise the map is
      only enlarged, and its edge with it.
    - `doubt`: a matte whose confidence, 0 to 1, is below it is marked unusable.
    """

    backend: ClassVar[str] = "onnx"

    model: str = "u2netp"
    size: Annotated[int, Field(ge=16)] = 320
    mean: Channels = (0.485, 0.456, 0.406)
    deviation: tuple[_Deviation, _Deviation, _Deviation] = (0.229, 0.224, 0.225)
    redraw_edge: bool = True
    doubt: Annotated[float, Field(ge=0, le=1)] = 0.7

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[Matte]:
        """See `Remover`. Raises UnavailableError if the model cannot be had or does not fit these settings."""
        return [self._matte(image) for image in images]

    def weights(self) -> OnnxWeights:
        return OnnxWeights(self.model)

    def check(self) -> None:
        self.weights().check()

    @cached_property
    def _network(self) -> OnnxNetwork:
        return OnnxNetwork(self.weights().resolve(), self.size, self.mean, self.deviation)

    def _matte(self, image: Image) -> Matte:
        found, confidence = self._network.predict(image)
        height, width = image.shape[:2]
        if confidence is None:
            return Matte.from_full(np.zeros((height, width), np.uint8), 0.0, FLAT)
        if self.redraw_edge:
            alpha = find_edge(image, found >= 0.5)
        else:
            full = cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
            alpha = (full * 255).round().astype(np.uint8)
            alpha[alpha < HAZE] = 0
        return Matte.from_full(alpha, confidence, doubt_reason(confidence, self.doubt))
