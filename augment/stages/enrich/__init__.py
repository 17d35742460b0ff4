"""Repaint what is in a generated background, object by object: draft to background."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from augment.artifacts import BACKGROUND, Image, Prompt, Rejected
from augment.errors import ItemFailed
from augment.stages.base import GROUP, SEED, Detailed, Kind, Stage
from augment.stages.generate import Generator, flaw
from augment.stages.refine import Refiner


class Enricher(Stage):
    """Base class of enrichers."""

    kind: ClassVar[Kind[Image]] = Kind(
        "enrich",
        makes=BACKGROUND,
        needs={"drafts": Generator.kind, "prompts": Refiner.kind, "groups": GROUP, "seeds": SEED},
        per_variant=True,
        drawn=True,
        optional=True,
    )
    backends: ClassVar[Mapping[str, str]] = {"contextual": "augment.stages.enrich.contextual:Contextual"}

    @abstractmethod
    def __call__(
        self, *, drafts: Sequence[Image], prompts: Sequence[Prompt], groups: Sequence[str | None], seeds: Sequence[int]
    ) -> Sequence[Image | Detailed | Rejected | ItemFailed]:
        """Generated backgrounds `(H, W, 3)` uint8 RGB, their prompts, their objects' classes and 63-bit seeds to
        backgrounds of the same shapes. `Rejected` asks for another seed."""

    def finish(self, result: Any, given: Mapping[str, Any]) -> Image | Rejected:
        """The background, unless it cannot serve as one."""
        reason = flaw(result, given["drafts"].shape)
        return result if reason is None else Rejected(reason)
