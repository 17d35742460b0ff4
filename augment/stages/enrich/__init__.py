"""Repaint what is in a generated background, object by object: draft to background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from augment.artifacts import Image, Prompt, Rejected
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.enrich.contextual import Contextual
from augment.stages.enrich.steps import Enriched, Step

__all__ = ["BACKENDS", "Enriched", "Enricher", "Step"]


class Enricher(Protocol):
    """Generated backgrounds `(H, W, 3)` uint8 RGB, the prompts they were made from, their objects' classes and 63-bit
    seeds to backgrounds of the same shapes. `Rejected` asks for another seed."""

    def __call__(
        self, drafts: Sequence[Image], prompts: Sequence[Prompt], groups: Sequence[str | None], seeds: Sequence[int]
    ) -> Sequence[Enriched | Rejected | ItemFailed]: ...


BACKENDS: dict[str, type[Stage]] = {Contextual.backend: Contextual}
