"""Prompts from the user's own list or file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from augment.artifacts import Prompt
from augment.errors import RecipeError
from augment.imaging.light import Light, find_lights
from augment.stages.refine.domains import Domain
from augment.stages.refine.templates import said
from augment.stages.refine.worded import Worded


@dataclass(frozen=True)
class Prompts(Worded):
    """One of the user's prompts for each variant. Every image walks through all of them, in an order that its seed
    draws, before one is repeated.

    `{caption}` in a prompt becomes what the caption says, without the object's class. The domain is the one that the
    prompt tells, else the one that the caption tells. Settings are those of `Worded`, except that `surroundings` and
    `lights` are not used, and

    - `prompts`: the prompts.
    - `file`: a text file with one prompt a line; empty lines and lines that begin with "#" are skipped.
    """

    backend: ClassVar[str] = "prompts"
    parallel: ClassVar[bool] = True
    reads_files: ClassVar[tuple[str, ...]] = ("domains", "file")

    prompts: tuple[str, ...] = ()
    file: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.file is None) == (not self.prompts):
            raise RecipeError("prompts: give either a list `prompts` or a `file`")
        if unused := [name for name in ("surroundings", "lights") if getattr(self, name) is not None]:
            raise RecipeError(f"{unused[0]}: not used by the refiner prompts; write it into the prompts")

    def __call__(
        self,
        *,
        captions: Sequence[str],
        groups: Sequence[str | None],
        variants: Sequence[int],
        seeds: Sequence[int],
        **_: Any,
    ) -> list[Prompt]:
        """One prompt for each caption; see `Refiner`."""
        return [self._prompt(*entry) for entry in zip(captions, groups, variants, seeds, strict=True)]

    def check_files(self) -> None:
        super().check_files()
        _ = self.lines

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The prompts. Raises RecipeError if there are none."""
        given = self.prompts if self.file is None else self._files["file"].splitlines()
        lines = tuple(line.strip() for line in given if line.strip() and not line.lstrip().startswith("#"))
        if not lines:
            raise RecipeError(f"refine: {self.file or 'prompts'}: holds no prompt")
        return lines

    def _prompt(self, caption: str, group: str | None, variant: int, seed: int) -> Prompt:
        order = np.random.default_rng(seed).permutation(len(self.lines))
        line = self.lines[order[variant % len(order)]]
        domain = self.chosen_domain(line, caption)
        text = line.replace("{caption}", said(caption, group, domain)) if "{caption}" in line else line
        return self.prompt(text, group, domain, self._lights(text, domain))

    def _lights(self, text: str, domain: Domain) -> list[Light]:
        own = [self.table.lights[name] for name in sorted(self.table.own_lights)]
        return find_lights(text, own)
