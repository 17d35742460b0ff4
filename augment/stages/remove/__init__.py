"""Find the object: image to matte."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from augment.artifacts import MATTE, Image, Matte
from augment.errors import ItemFailed
from augment.imaging.composite import with_edge_colors
from augment.stages.base import BOXES, IMAGE, MASK, SOURCE, Kind, Stage


class Remover(Stage):
    """Base class of removers."""

    kind: ClassVar[Kind[Matte]] = Kind(
        "remove", makes=MATTE, needs={"images": IMAGE, "masks": MASK, "boxes": BOXES, "sources": SOURCE}
    )
    backends: ClassVar[Mapping[str, str]] = {
        "grabcut": "augment.stages.remove.grabcut:GrabCut",
        "masks": "augment.stages.remove.masks:Masks",
        "rembg": "augment.stages.remove.rembg:Rembg",
        "mask-rcnn": "augment.stages.remove.mask_rcnn:MaskRcnn",
        "onnx": "augment.stages.remove.onnx:Onnx",
        "consensus": "augment.stages.remove.consensus:Consensus",
        "sam2": "augment.stages.remove.sam2:Sam2",
    }

    @abstractmethod
    def __call__(
        self,
        *,
        images: Sequence[Image],
        masks: Sequence[NDArray[np.uint8] | None],
        boxes: Sequence[NDArray[np.float64] | None],
        sources: Sequence[str | None],
    ) -> Sequence[Matte | ItemFailed]:
        """`(H, W, 3)` uint8 RGB images to their mattes, each of its image's size.

        `masks` are the dataset's own, `(H, W)`, non-zero is object; `boxes` are those of the labelled objects, `(n, 4)`
        left, top, right, bottom in pixels; `sources` are the images' paths.
        """

    def finish(self, result: Any, given: Mapping[str, Any]) -> Matte:
        """The matte with the object's own colours at its edge."""
        image = given["images"]
        if not isinstance(result, Matte) or result.size != image.shape[:2]:
            what = f"a matte of {result.size}" if isinstance(result, Matte) else type(result).__name__
            raise ItemFailed(f"{type(self).__name__} gave {what} for an image of {image.shape[:2]}")
        return with_edge_colors(result, image)
