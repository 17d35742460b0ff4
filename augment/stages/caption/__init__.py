"""Say what the plate shows: plate to caption."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from augment.artifacts import CAPTION, Image
from augment.errors import ItemFailed
from augment.stages.base import Kind, Stage
from augment.stages.inpaint import Inpainter
from augment.stages.text import usable_text


class Captioner(Stage):
    """Base class of captioners."""

    kind: ClassVar[Kind[str]] = Kind("caption", makes=CAPTION, needs={"plates": Inpainter.kind})
    backends: ClassVar[Mapping[str, str]] = {
        "measured": "augment.stages.caption.measured:Measured",
        "fixed": "augment.stages.caption.fixed:Fixed",
        "transformers": "augment.stages.caption.transformers:Transformers",
        "openai": "augment.stages.caption.openai:OpenAi",
    }

    @abstractmethod
    def __call__(self, *, plates: Sequence[Image]) -> Sequence[str | ItemFailed]:
        """`(H, W, 3)` uint8 RGB plates to one caption each."""

    def finish(self, result: Any, given: Mapping[str, Any]) -> str:
        """The caption, if it says anything."""
        return usable_text(result, type(self).__name__)
