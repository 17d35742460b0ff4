"""Painters of single objects: what the enrichment hands a part of an image, a mask and a sub-prompt to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from augment.artifacts import Alpha, Image, Prompt, Rejected
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.enrich.diffusers import Diffusers
from augment.stages.enrich.webui import WebUi


class Painter(Protocol):
    """`(H, W, 3)` uint8 RGB images, masks `(H, W)` uint8 (0 stays, 255 is painted), sub-prompts and 63-bit seeds to
    images of the same shapes. The caller keeps what is outside the mask, so a painter need not.
    """

    def __call__(
        self, images: Sequence[Image], masks: Sequence[Alpha], prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> Sequence[Image | Rejected | ItemFailed]: ...


INPAINTERS: dict[str, type[Stage]] = {backend.backend: backend for backend in (Diffusers, WebUi)}
