"""Recipes: which backend fills each stage, with its settings; presets, TOML and fingerprints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
import xxhash
from pydantic import TypeAdapter, ValidationError

from augment.errors import RecipeError
from augment.stages import BACKENDS, KINDS, OPTIONAL
from augment.stages.base import Stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """The five stages of a chain. `retries` is how often a rejected background is generated again with the next seed.

    `enrich` repaints what the generated backgrounds show; `guard` rejects those that show the object's own class.

    Raises RecipeError, naming the field, where a stage is of the wrong kind or a setting is not allowed.
    """

    name: str
    remove: Stage
    inpaint: Stage
    caption: Stage
    refine: Stage
    generate: Stage
    retries: int = 3
    enrich: Stage | None = None
    guard: Stage | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.retries, int) or self.retries < 0:
            raise RecipeError(f"recipe {self.name!r}: retries: {self.retries!r} is not a number of times, 0 or more")
        for kind in (*KINDS, *OPTIONAL):
            stage = getattr(self, kind)
            if stage is None and kind in OPTIONAL:
                continue
            if type(stage) not in BACKENDS[kind].values():
                raise RecipeError(
                    f"recipe {self.name!r}: {kind}: {stage!r} is not one of its backends: {', '.join(BACKENDS[kind])}"
                )
            _build(self.name, kind, BACKENDS[kind], stage.settings() | {"backend": stage.backend})

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages by kind, in the order in which they run; the guard is none of them, it looks at their results."""
        stages = {kind: getattr(self, kind) for kind in KINDS}
        return stages | ({"enrich": self.enrich} if self.enrich else {})

    @property
    def everything(self) -> dict[str, Stage]:
        """Every stage, the guard and the stages inside them, by the name of their table: "enrich.detector"."""
        found = self.stages | ({"guard": self.guard} if self.guard else {})
        for kind, stage in list(found.items()):
            found |= {f"{kind}.{part}": getattr(stage, part) for part in stage.parts}
        return found

    def fingerprints(self) -> dict[str, str]:
        """For each kind, a hash (16 hex digits) of its stage's settings and of every stage before it; from "generate"
        on, of the guard's too."""
        found: dict[str, str] = {}
        before = ""
        for kind, stage in self.stages.items():
            guarded = [_identity(self.guard)] if self.guard and kind == "generate" else []
            text = json.dumps([before, *_identity(stage), *guarded], sort_keys=True)
            before = found[kind] = xxhash.xxh3_64_hexdigest(text.encode())
        return found

    @property
    def background(self) -> str:
        """The fingerprint of the backgrounds to use: the last stage's."""
        return list(self.fingerprints().values())[-1]

    def to_dict(self) -> dict[str, Any]:
        """The recipe as TOML has it: plain values, settings that are None left out."""
        stages = self.stages | ({"guard": self.guard} if self.guard else {})
        return {"name": self.name, "retries": self.retries} | {kind: _table(stage) for kind, stage in stages.items()}

    def to_toml(self) -> str:
        """The recipe with every setting written out; `Recipe.from_toml` reads it back equal."""
        return tomli_w.dumps(self.to_dict())

    def changed(self, settings: Mapping[str, Any]) -> Recipe:
        """A copy with `"stage.field"` (or `"retries"`, `"stage.table.field"`) set; a new backend starts from its
        defaults."""
        data = self.to_dict()
        for path, value in settings.items():
            *tables, name = path.split(".")
            if tables and tables[0] not in BACKENDS:
                raise RecipeError(f"{path}: no such stage: {tables[0]!r}; stages are {', '.join(BACKENDS)}")
            target = data
            for depth, table in enumerate(tables, 1):
                if name == "backend" and depth == len(tables):
                    target[table] = {}
                target = target.setdefault(table, {})
                if not isinstance(target, dict):
                    raise RecipeError(f"{path}: {table!r} is a setting, not a table")
            target[name] = value
        return self.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Raises RecipeError naming the field that is missing, unknown or not allowed."""
        name = data.get("name", "unnamed")
        known = {field.name for field in fields(cls)}
        for field in data:
            if field not in known:
                raise RecipeError(f"recipe {name!r}: no such field: {field!r}; fields are {', '.join(sorted(known))}")
        kinds = [*KINDS, *(kind for kind in OPTIONAL if data.get(kind) is not None)]
        for kind in kinds:
            if not isinstance(data.get(kind), Mapping):
                raise RecipeError(
                    f"recipe {name!r}: it lacks the table [{kind}], with a `backend` of {', '.join(BACKENDS[kind])}"
                )
        stages = {kind: _build(name, kind, BACKENDS[kind], data[kind]) for kind in kinds}
        return cls(name=name, retries=data.get("retries", 3), **stages)

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """Raises RecipeError, naming the line or the field."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"the recipe is not TOML: {error}") from error
        return cls.from_dict(data)

    @classmethod
    def load(cls, name: str | Path) -> Recipe:
        """A preset by name, or a TOML file by path. Raises RecipeError."""
        path = Path(name)
        if str(name) in presets():
            path = PRESETS / f"{name}.toml"
        elif path.suffix != ".toml":
            raise RecipeError(
                f"no recipe is called {str(name)!r}: presets are {', '.join(presets())}; or give a .toml file"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
        try:
            return cls.from_toml(text)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error


@cache
def presets() -> tuple[str, ...]:
    """The names of the recipes that come with the library."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.toml")))


def as_recipe(recipe: str | Path | Recipe) -> Recipe:
    """A recipe from itself, a preset's name or a path."""
    return recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)


def parse_value(text: str) -> Any:
    """A setting's value as typed on a command line: TOML where it is TOML, else text (`steps=30`, `model=u2net`)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(recipe: str, path: str, backends: Mapping[str, type[Stage]], table: Mapping[str, Any]) -> Stage:
    """The stage that a TOML table describes, each setting checked against its type and bounds."""
    backend = table.get("backend", next(iter(backends)) if len(backends) == 1 else None)
    if backend not in backends:
        raise RecipeError(f"recipe {recipe!r}: {path}.backend: {backend!r} is not one of {', '.join(backends)}")
    chosen = backends[backend]
    settings = {name: value for name, value in table.items() if name != "backend"}
    for part, allowed in chosen.parts.items():
        inner = settings.get(part)
        if isinstance(inner, Stage):  # a stage that was built in Python, and not yet checked
            inner = inner.settings() | {"backend": inner.backend}
        if isinstance(inner, Mapping):
            settings[part] = _build(recipe, f"{path}.{part}", allowed, inner)
    try:
        return _adapter(chosen).validate_python(settings)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in (path, *first["loc"]))
        known = ", ".join(name for name in _field_names(chosen))
        hint = f"; {backend} takes: {known}" if first["type"] == "unexpected_keyword_argument" else ""
        raise RecipeError(
            f"recipe {recipe!r}: {field}: {first['msg'].lower()} (got {first['input']!r}){hint}"
        ) from error


@cache
def _adapter(backend: Any) -> TypeAdapter[Stage]:
    return TypeAdapter(backend)


def _field_names(backend: type[Stage]) -> list[str]:
    return [field.name for field in fields(backend)]  # type: ignore[arg-type]


def _plain(stage: Stage) -> dict[str, Any]:
    """A stage's own settings as TOML and JSON have them, those that are None left out."""
    adapter: Any = _adapter(type(stage))  # type: ignore[arg-type]
    settings: dict[str, Any] = adapter.dump_python(stage, mode="json", exclude_none=True, exclude=set(stage.parts))
    return settings


def _table(stage: Stage) -> dict[str, Any]:
    """A stage as a recipe's table, with a table inside for each stage inside."""
    inner = {part: _table(getattr(stage, part)) for part in stage.parts}
    return {"backend": stage.backend} | _plain(stage) | inner


def _identity(stage: Stage) -> list[Any]:
    """All that decides what comes out of a stage: backend, version and settings."""
    settings = {name: value for name, value in _plain(stage).items() if name not in stage.execution_only}
    inner = {part: _identity(getattr(stage, part)) for part in stage.parts}
    return [stage.backend, stage.version, settings | inner]
