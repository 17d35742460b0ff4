"""Inpainters of single objects: the enrichment gives them a part of an image, a mask and a sub-prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from augment.artifacts import Alpha, Image, Prompt, Rejected
from augment.errors import ItemFailed
from augment.stages.base import Stage


class ObjectInpainter(Stage):
    """Base class of inpainters of single objects."""

    backends: ClassVar[Mapping[str, str]] = {
        "diffusers": "augment.stages.enrich.inpainters.diffusers:Diffusers",
        "webui": "augment.stages.enrich.inpainters.webui:WebUi",
        "comfyui": "augment.stages.enrich.inpainters.comfyui:ComfyUi",
    }

    @abstractmethod
    def __call__(
        self, *, images: Sequence[Image], masks: Sequence[Alpha], prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> Sequence[Image | Rejected | ItemFailed]:
        """`(H, W, 3)` uint8 RGB images, masks `(H, W)` uint8 (0 stays, 255 is painted), sub-prompts and 63-bit seeds to
        images of the same shapes. It may change pixels outside the mask: the caller keeps those."""
