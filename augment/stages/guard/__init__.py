"""Judge what was drawn: a background that makes the label wrong must not be used."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from augment.artifacts import Image, Rejected
from augment.errors import ItemFailed
from augment.stages.base import GROUP, RESULT, Kind, Stage


@dataclass(frozen=True)
class Guard(Stage):
    """Base class of guards."""

    kind: ClassVar[Kind[None]] = Kind(
        "guard", makes=None, needs={"backgrounds": RESULT, "groups": GROUP}, optional=True
    )
    backends: ClassVar[Mapping[str, str]] = {"own-class": "augment.stages.guard.own_class:OwnClass"}

    group: str | None = None  # the class of items that have none of their own

    @abstractmethod
    def __call__(
        self, *, backgrounds: Sequence[Image], groups: Sequence[str | None]
    ) -> Sequence[Rejected | ItemFailed | None]:
        """`(H, W, 3)` uint8 RGB backgrounds and their objects' classes to what is wrong with each; None is nothing."""

    def account(self, group: str | None) -> Any:
        """What it looks for in a background for an object of this class, as JSON, for the background's provenance."""
        return None
