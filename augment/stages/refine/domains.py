"""Kinds of picture ("domains"): how a caption tells them, and what their prompts may say. The table is domains.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from augment.errors import RecipeError
from augment.imaging.light import LIGHTS, Grade, Light, find_lights
from augment.models.weights import read_text

PHOTOGRAPH = "photograph"  # what a picture is of which nothing else is known
_TABLES = tuple(Path(__file__).parent / name for name in ("domains.toml", "lights.toml"))
_STRICT = {"extra": "forbid"}


@dataclass(frozen=True)
class Place:
    """A variant of a domain: patterns of things in a caption, or of colors, that suggest it, and what it has of its
    own."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    things: tuple[str, ...] = ()
    colors: str = ""
    surroundings: tuple[str, ...] = ()
    lights: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    light: Literal["any", "outdoor", "indoor"] = "any"

    def is_named(self, caption: str) -> bool:
        """Whether the caption speaks of its things."""
        return bool(self.things) and _pattern(self.things).search(caption) is not None


@dataclass(frozen=True)
class Domain:
    """A kind of picture. The fields are described at the head of domains.toml; `never` holds patterns here."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: str
    surroundings: tuple[str, ...]
    endings: tuple[str, ...]
    instructions: str
    question: str
    negative: str
    words: tuple[str, ...] = ()
    closed: bool = False
    never: tuple[str, ...] = ()
    lights: tuple[str, ...] = ()
    medium: str = ""
    places: tuple[Place, ...] = ()

    def is_named(self, caption: str) -> bool:
        """Whether the caption tells that the picture is of this kind."""
        return bool(self.words) and _pattern(self.words).search(caption) is not None

    def forbids(self, text: str) -> bool:
        """Whether the text speaks of something that such a picture cannot show."""
        return bool(self.never) and _pattern(self.never).search(text) is not None


@dataclass(frozen=True)
class Table:
    """Domains in the order in which they are tried, and the lights of all of them by name."""

    domains: Mapping[str, Domain]
    lights: Mapping[str, Light]
    own_lights: frozenset[str] = field(default_factory=frozenset)  # those that are no photograph's

    def find(self, *texts: str) -> Domain:
        """The domain that the first of the texts tells, or else the next one; photographs if none does."""
        for text in texts:
            for domain in self.domains.values():
                if domain.is_named(text):
                    return domain
        return self.domains[PHOTOGRAPH]

    def light(self, name: str) -> Light:
        """The light of that name; any other text is the phrase of a light, with the grade of those that it names."""
        if name in self.lights:
            return self.lights[name]
        named = find_lights(name)
        return Light(name, name, re.escape(name), named[0].grade if named else Grade())


def load(path: str | None = None) -> Table:
    """The library's table, extended by the user's file if there is one.

    Raises UnavailableError if it cannot be read, RecipeError if it says something that cannot be used.
    """
    return _built_in() if path is None else parse(read_text(path), path)


@cache
def parse(text: str, path: str) -> Table:
    """The library's table, extended by a TOML text. `path` is what errors call it. Raises RecipeError."""
    tables = _raw()
    try:
        own = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML: {error}") from error
    if unknown := [name for name in own if name not in tables]:
        raise RecipeError(f"{path}: no such table: {unknown[0]!r}; tables are {', '.join(tables)}")
    for name, table in own.items():
        if not isinstance(table, dict):
            raise RecipeError(f"{path}: {name}: {table!r} is not a table")
        if name == "domains":
            # The user's come first, and so are looked for first.
            known = tables[name]
            merged = {key: known.get(key, {}) | _table(path, f"domains.{key}", one) for key, one in table.items()}
            tables[name] = merged | {key: one for key, one in known.items() if key not in merged}
        else:
            tables[name] = tables[name] | table
    return _build(tables, path)


@cache
def _built_in() -> Table:
    return _build(_raw(), "domains.toml")


def _raw() -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for path in _TABLES:
        merged |= tomllib.loads(path.read_text(encoding="utf-8"))
    return merged


def _build(tables: Mapping[str, dict[str, Any]], path: str) -> Table:
    lights = {light.name: light for light in LIGHTS}
    for name, table in tables["lights"].items():
        lights[name] = _light(path, name, _table(path, f"lights.{name}", table))
    domains = {}
    for name, table in tables["domains"].items():
        topics = table.get("never", [])
        if unknown := [topic for topic in topics if topic not in tables["topics"]]:
            raise RecipeError(
                f"{path}: domains.{name}.never: no such topic: {unknown[0]!r}; topics are {', '.join(tables['topics'])}"
            )
        never = [pattern for topic in topics for pattern in _listed(tables["topics"][topic])]
        values = table | {"name": name, "never": never} | _as_list(table, "words")
        values["places"] = [place | _as_list(place, "things") for place in table.get("places", [])]
        domain: Domain = _checked(Domain, values, path, f"domains.{name}")
        for listed in (domain.lights, *(place.lights for place in domain.places)):
            if unknown := [light for light in listed if light not in lights]:
                raise RecipeError(f"{path}: domains.{name}.lights: no such light: {unknown[0]!r}")
        if not (domain.surroundings and domain.endings):
            raise RecipeError(f"{path}: domains.{name}: surroundings and endings must not be empty")
        things = (place.things for place in domain.places)
        for patterns in (domain.words, domain.never, *things, *((place.colors,) for place in domain.places)):
            try:
                _pattern(patterns)
            except re.error as error:
                raise RecipeError(f"{path}: domains.{name}: {error.pattern!r} is not a pattern: {error}") from error
        domains[name] = domain
    return Table(domains, lights, frozenset(tables["lights"]))


def _light(path: str, name: str, table: dict[str, Any]) -> Light:
    named = {key: value for key, value in table.items() if key not in ("phrase", "words")}
    grade: Grade = _checked(Grade, named, path, f"lights.{name}")
    phrase = str(table.get("phrase", name))
    words = str(table.get("words", re.escape(phrase)))
    try:
        re.compile(words)
    except re.error as error:
        raise RecipeError(f"{path}: lights.{name}.words: {words!r} is not a pattern: {error}") from error
    return Light(name, phrase, words, grade)


def _checked(form: type[Any], values: Mapping[str, Any], path: str, where: str) -> Any:
    """The values as an instance of a dataclass. Raises RecipeError naming the field."""
    known = {one.name for one in fields(form)}
    if unknown := [name for name in values if name not in known]:
        takes = ", ".join(sorted(known - {"name"}))
        raise RecipeError(f"{path}: {where}: no such field: {unknown[0]!r}; fields are {takes}")
    try:
        return TypeAdapter(form).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        field_path = ".".join(str(part) for part in (where, *first["loc"]))
        raise RecipeError(f"{path}: {field_path}: {first['msg'].lower()} (got {first['input']!r})") from error


def _table(path: str, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: {where}: {value!r} is not a table")
    return value


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _as_list(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A pattern may stand alone instead of in a list."""
    return {name: _listed(table[name])} if name in table else {}


@cache
def _pattern(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Finds whole words: any of the patterns."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", re.IGNORECASE)
