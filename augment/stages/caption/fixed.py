"""The same caption for every plate, given by the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from augment.artifacts import Image
from augment.stages.caption import Captioner


@dataclass(frozen=True)
class Fixed(Captioner):
    """For images that are all of one place or one instrument, which no captioner need tell apart.

    - `caption`: what every plate is said to show.
    """

    backend: ClassVar[str] = "fixed"
    parallel: ClassVar[bool] = True

    caption: Annotated[str, Field(pattern=r"\S")]

    def __call__(self, *, plates: Sequence[Image], **_: Any) -> list[str]:
        """See `Captioner`."""
        return [self.caption] * len(plates)
