"""Make a prompt of the caption: one for each variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from augment.artifacts import Prompt
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.refine.endpoint import Endpoint
from augment.stages.refine.gpt4all import Gpt4All
from augment.stages.refine.templates import Templates


class Refiner(Protocol):
    """Captions to prompts, one for each entry: `groups` names the object's class where it is known (it must not be
    painted into the background), `variants` is 0, 1, … of the entry's image, `seeds` feeds whatever is drawn and is the
    same for all variants of an image, so that a refiner can give them different prompts without knowing the others."""

    def __call__(
        self,
        captions: Sequence[str],
        groups: Sequence[str | None],
        variants: Sequence[int],
        seeds: Sequence[int],
    ) -> Sequence[Prompt | ItemFailed]: ...


BACKENDS: dict[str, type[Stage]] = {backend.backend: backend for backend in (Templates, Gpt4All, Endpoint)}
