"""Make a new background: prompt, plate and matte to background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from augment.artifacts import Image, Matte, Prompt, Rejected
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.generate.diffusers import Diffusers
from augment.stages.generate.folder import Folder
from augment.stages.generate.resynthesis import Resynthesis
from augment.stages.generate.webui import WebUi


class Generator(Protocol):
    """Prompts with plates `(H, W, 3)` uint8 RGB, mattes and 63-bit seeds to backgrounds of the plates' shapes.

    The same prompt, plate, matte and seed give the same background in any batch. `Rejected` asks for another seed.
    """

    def __call__(
        self, prompts: Sequence[Prompt], plates: Sequence[Image], mattes: Sequence[Matte], seeds: Sequence[int]
    ) -> Sequence[Image | Rejected | ItemFailed]: ...


BACKENDS: dict[str, type[Stage]] = {backend.backend: backend for backend in (Resynthesis, Diffusers, Folder, WebUi)}
