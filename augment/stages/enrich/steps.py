"""What an enrichment returns: the image, and which object got which sub-prompt in which round."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from augment.artifacts import Image, Prompt
from augment.stages.base import Detailed


@dataclass(frozen=True, eq=False)
class Step:
    """One object repainted: in which `round` (from 1), its `label` (numbered if there are several), with what prompt.

    The prompt's origin says who wrote it, `score` and `area` (share of the image) are the detector's, `box` is (left,
    top, right, bottom) in pixels; `image` is the whole image after it, None if steps are not kept.
    """

    round: int
    label: str
    prompt: Prompt
    score: float
    area: float
    box: tuple[float, float, float, float]
    image: Image | None = None

    @property
    def name(self) -> str:
        """Round and label, fit for a file's name: "1-person-2"."""
        return f"{self.round}-{re.sub(r'[^a-z0-9]+', '-', self.label.lower()).strip('-') or 'object'}"

    def record(self) -> dict[str, Any]:
        """Everything except the image, as JSON."""
        return {
            "round": self.round,
            "label": self.label,
            "prompt": self.prompt.text,
            "negative": self.prompt.negative,
            "origin": self.prompt.origin,
            "score": round(self.score, 4),
            "area": round(self.area, 4),
            "box": [round(side, 1) for side in self.box],
            "step": self.name,
        }


@dataclass(frozen=True, eq=False)
class Enriched(Detailed):
    """A background with its objects repainted, and the steps in the order in which they were made."""

    image: Image
    steps: tuple[Step, ...] = ()

    @property
    def result(self) -> Image:
        return self.image

    @property
    def notes(self) -> Mapping[str, Any]:
        return {"steps": [step.record() for step in self.steps]}

    @property
    def pictures(self) -> Mapping[str, Image]:
        return {step.name: step.image for step in self.steps if step.image is not None}
