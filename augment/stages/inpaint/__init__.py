"""Paint the object out: image and matte to plate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from augment.artifacts import Image, Matte
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.inpaint.exemplar import Exemplar
from augment.stages.inpaint.opencv import NavierStokes, Telea


class Inpainter(Protocol):
    """`(H, W, 3)` uint8 RGB images and their mattes to plates of the same shapes; pixels outside the hole stay."""

    def __call__(self, images: Sequence[Image], mattes: Sequence[Matte]) -> Sequence[Image | ItemFailed]: ...


BACKENDS: dict[str, type[Stage]] = {backend.backend: backend for backend in (Exemplar, Telea, NavierStokes)}
