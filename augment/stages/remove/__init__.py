"""Find the object: image to matte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from augment.artifacts import Matte
from augment.errors import ItemFailed
from augment.stages.base import Item, Stage
from augment.stages.remove.grabcut import GrabCut
from augment.stages.remove.mask_rcnn import MaskRcnn
from augment.stages.remove.masks import Masks
from augment.stages.remove.rembg import Rembg


class Remover(Protocol):
    """Items with `(H, W, 3)` uint8 RGB images to their mattes, each of its image's own size."""

    def __call__(self, items: Sequence[Item]) -> Sequence[Matte | ItemFailed]: ...


BACKENDS: dict[str, type[Stage]] = {backend.backend: backend for backend in (GrabCut, Masks, Rembg, MaskRcnn)}
