"""What came of a sample: which background was drawn, and what goes over it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from augment.artifacts import Image
from augment.imaging.composite import Layer, lay
from augment.sampling.placement import Move


class Drawn(NamedTuple):
    """Which background was drawn: the name of its source, the key of the image that it was made for, and its variant,
    which a plate has none of."""

    source: str
    key: str
    variant: int | None


@dataclass(frozen=True, eq=False)
class Replacement:
    """A background `(H, W, 3)` uint8, what goes over it, and how the object moved; None if it stayed in place.

    `movable` says whether the object was allowed to move, `drawn` which background it is.
    """

    background: Image
    layer: Layer
    move: Move | None
    movable: bool
    drawn: Drawn

    @cached_property
    def composite(self) -> Image:
        """The layer over the background, in the background's memory."""
        return lay(self.layer, self.background)


class Outcome(NamedTuple):
    """What came of the images of a sample: their replacements, none if it stays unchanged; what it is counted as, and
    more about it."""

    replacements: list[Replacement]
    name: str
    detail: str = ""
