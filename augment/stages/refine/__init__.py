"""Make a prompt of the caption: one for each variant."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from augment.artifacts import PROMPT, Prompt
from augment.errors import ItemFailed
from augment.stages.base import GROUP, SEED, VARIANT, Kind, Stage
from augment.stages.caption import Captioner
from augment.stages.text import usable_text


class Refiner(Stage):
    """Base class of refiners."""

    kind: ClassVar[Kind[Prompt]] = Kind(
        "refine",
        makes=PROMPT,
        needs={"captions": Captioner.kind, "groups": GROUP, "variants": VARIANT, "seeds": SEED},
        per_variant=True,
    )
    backends: ClassVar[Mapping[str, str]] = {
        "templates": "augment.stages.refine.templates:Templates",
        "prompts": "augment.stages.refine.prompts:Prompts",
        "gpt4all": "augment.stages.refine.gpt4all:Gpt4All",
        "openai": "augment.stages.refine.openai:OpenAi",
    }

    @abstractmethod
    def __call__(
        self,
        *,
        captions: Sequence[str],
        groups: Sequence[str | None],
        variants: Sequence[int],
        seeds: Sequence[int],
    ) -> Sequence[Prompt | ItemFailed]:
        """Captions to prompts, one per entry.

        `groups` are the objects' classes, if known: they must not be painted into the background. `variants` is 0, 1,
        … of the entry's image. `seeds` feeds whatever is drawn; it is the same for all variants of an image, so that a
        refiner can give them different prompts without knowing the others.
        """

    def finish(self, result: Any, given: Mapping[str, Any]) -> Prompt:
        """The prompt, if it says anything."""
        if not isinstance(result, Prompt):
            raise ItemFailed(f"{type(self).__name__} gave {type(result).__name__} and not a Prompt")
        return replace(result, text=usable_text(result.text, type(self).__name__))
