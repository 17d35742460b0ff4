"""SAM 2, "Segment Anything in Images and Videos" (Ravi et al. 2024): the objects in given boxes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from augment.artifacts import Image
from augment.models.batches import free_memory
from augment.models.transformers import TransformersWeights
from augment.models.weights import DtypeName, pick_device


@dataclass(frozen=True)
class Sam2Settings:
    """Which SAM 2 model, and where it runs.

    - `model`: its name on the hub, or a folder; `revision` (branch, tag or commit) of its files, None for main.
    - `device`: as torch names it, or "auto"; `dtype`: "auto" is half precision on CUDA and float32 elsewhere.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"device", "dtype"})

    model: str = "facebook/sam2.1-hiera-small"
    revision: str | None = None
    device: str = "auto"
    dtype: DtypeName = "auto"

    def weights(self) -> TransformersWeights:
        return TransformersWeights(self.model, self.revision)

    def target(self) -> str:
        return pick_device(self.device)

    def check(self) -> None:
        """Raise UnavailableError if transformers, the model or the device is missing; loads nothing."""
        self.target()
        self.weights().check()

    def unload(self) -> None:
        self.__dict__.pop("_loaded", None)
        free_memory()

    def segment(self, image: Image, boxes: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """For each box (left, top, right, bottom in pixels) of an `(H, W, 3)` uint8 RGB image, the chance that a pixel
        belongs to the object in it, `(n, H, W)`, and the model's own estimate of its mask's IoU, `(n,)`; both 0 to 1.

        Raises UnavailableError if the model cannot be loaded.
        """
        import torch

        processor, model = self._loaded
        inputs = processor(images=PILImage.fromarray(image), input_boxes=[boxes.tolist()], return_tensors="pt")
        moved = {name: inputs[name].to(model.device, model.dtype) for name in ("pixel_values", "input_boxes")}
        with torch.inference_mode():
            found = model(**moved, multimask_output=False)
            (logits,) = processor.post_process_masks(found.pred_masks.float(), inputs["original_sizes"], binarize=False)
        chances = torch.sigmoid(logits[:, 0]).cpu().numpy()
        return np.asarray(chances, np.float32), found.iou_scores[0, :, 0].float().clamp(0, 1).cpu().numpy()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The processor and the model, on its device."""
        return self.weights().load("Sam2Processor", "Sam2Model", self.target(), self.dtype)
