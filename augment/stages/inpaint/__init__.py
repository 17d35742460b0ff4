"""Paint the object out: image and matte to plate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from augment.artifacts import PLATE, Image, Matte
from augment.errors import ItemFailed
from augment.stages.base import IMAGE, Kind, Stage
from augment.stages.remove import Remover


class Inpainter(Stage):
    """Base class of inpainters."""

    kind: ClassVar[Kind[Image]] = Kind("inpaint", makes=PLATE, needs={"images": IMAGE, "mattes": Remover.kind})
    backends: ClassVar[Mapping[str, str]] = {
        "exemplar": "augment.stages.inpaint.exemplar:Exemplar",
        "telea": "augment.stages.inpaint.opencv:Telea",
        "navier-stokes": "augment.stages.inpaint.opencv:NavierStokes",
        "onnx": "augment.stages.inpaint.onnx:Onnx",
        "diffusers": "augment.stages.inpaint.diffusers:Diffusers",
        "comfyui": "augment.stages.inpaint.comfyui:ComfyUi",
    }

    @abstractmethod
    def __call__(self, *, images: Sequence[Image], mattes: Sequence[Matte]) -> Sequence[Image | ItemFailed]:
        """`(H, W, 3)` uint8 RGB images and their mattes to plates of the same shapes; pixels outside the hole stay."""

    def finish(self, result: Any, given: Mapping[str, Any]) -> Image:
        """The plate, if it has the image's shape."""
        shape = given["images"].shape
        if not isinstance(result, np.ndarray) or result.shape != shape or result.dtype != np.uint8:
            what = f"{result.shape} {result.dtype}" if isinstance(result, np.ndarray) else type(result).__name__
            raise ItemFailed(f"{type(self).__name__} gave {what} for an image of {shape}")
        return result
