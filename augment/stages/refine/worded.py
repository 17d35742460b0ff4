"""What the user can say about prompts: the settings that all refiners share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

from augment.artifacts import Prompt
from augment.errors import RecipeError
from augment.imaging.light import Grade, Light
from augment.models.weights import read_text
from augment.stages.refine import Refiner
from augment.stages.refine import domains as table
from augment.stages.refine.domains import Domain, Table
from augment.stages.text import class_words, clip_tokens

MOST_TOKENS = 59  # of CLIP's 75, because the count is an estimate and nothing of the light may be lost
_NOTHING = Grade()


@dataclass(frozen=True, kw_only=True)
class Worded(Refiner):
    """Base class of refiners whose prompts follow the kind of picture (its domain) and the user's own words.

    - `domain`: the kind of picture, such as "microscopy" or "aerial"; None: as the caption tells.
    - `domains`: a TOML file that extends the table of domains; domains.toml says how.
    - `prefix`, `suffix`: words before and after each prompt.
    - `negative`: instead of the domain's negative prompt; the object's class still comes first.
    - `surroundings`: what may be around the object, instead of the domain's.
    - `lights`: names of lights, or phrases of your own, instead of the domain's; an empty list: none.
    """

    reads_files: ClassVar[tuple[str, ...]] = ("domains",)  # settings that name a file of the user's

    domain: str | None = None
    domains: str | None = None
    prefix: str = ""
    suffix: str = ""
    negative: str | None = None
    surroundings: tuple[str, ...] | None = None
    lights: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        known = table.load().domains
        if self.domain is not None and self.domains is None and self.domain not in known:
            raise RecipeError(f"domain: {self.domain!r} is not one of {', '.join(known)}")
        if self.surroundings is not None and not self.surroundings:
            raise RecipeError("surroundings: an empty list; leave it out for the domain's own")

    def check_files(self) -> None:
        """Raise UnavailableError or RecipeError if a file of the user's cannot be used."""
        _ = self._files, self.chosen_domain("")

    def check(self) -> None:
        """See `check_files`."""
        self.check_files()
        super().check()

    def files(self) -> dict[str, str]:
        return self._files

    @cached_property
    def table(self) -> Table:
        """The domains and lights, with the user's."""
        return table.load() if self.domains is None else table.parse(self._files["domains"], self.domains)

    @cached_property
    def _files(self) -> dict[str, str]:
        """The text of each file that a setting names."""
        named = {name: getattr(self, name) for name in self.reads_files}
        return {name: read_text(path) for name, path in named.items() if path is not None}

    def chosen_domain(self, *texts: str) -> Domain:
        """The domain that is set, else the one that the first of the texts tells, or else the next one."""
        if self.domain is None:
            return self.table.find(*texts)
        if self.domain not in self.table.domains:
            raise RecipeError(
                f"{self.domains}: refine.domain: {self.domain!r} is not one of {', '.join(self.table.domains)}"
            )
        return self.table.domains[self.domain]

    @property
    def room(self) -> int:
        """How many tokens a prompt may have between prefix and suffix."""
        return max(8, MOST_TOKENS - clip_tokens(f"{self.prefix} {self.suffix}"))

    def prompt(
        self, text: str, group: str | None, domain: Domain, lights: Sequence[Light] = (), origin: str = ""
    ) -> Prompt:
        """The text as a prompt, with prefix, suffix, the negative prompt, and the grade of the first light."""
        name = class_words(group)
        negative = domain.negative if self.negative is None else self.negative
        return Prompt(
            text=joined(self.prefix, text, self.suffix),
            negative=joined(name or "", negative),
            origin=origin,
            domain=domain.name,
            grade=self._grade(domain, lights[0] if lights else None),
        )

    def _grade(self, domain: Domain, light: Light | None) -> dict[str, Any] | None:
        """How the light changes a picture; None: as lights of photographs do, by their names in the text."""
        if not domain.closed and (light is None or light.name not in self.table.own_lights):
            return None
        if light is None:
            return {}
        values = {one.name: getattr(light.grade, one.name) for one in fields(Grade)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != getattr(_NOTHING, name)
        }


def joined(*parts: str) -> str:
    """The parts that say something, with commas between them."""
    return ", ".join(part for part in (re.sub(r"\s+", " ", part).strip(" ,") for part in parts) if part)
