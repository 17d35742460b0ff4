"""Recipes: which backend fills each kind, with its settings; presets, TOML and fingerprints."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
import xxhash
from pydantic import TypeAdapter, ValidationError

from augment.artifacts import BACKGROUND
from augment.errors import RecipeError
from augment.files import check_file
from augment.stages.base import Kind, Stage, given_by_kind
from augment.stages.guard import Guard
from augment.stages.kinds import BASES, KINDS, backend_names, base_class, find_backend
from augment.store.records import Record

PRESETS = Path(__file__).parent / "recipes"


@dataclass(frozen=True, init=False)
class Recipe:
    """The stages of a chain: `Recipe("mine", remove=GrabCut(), inpaint=Exemplar(), …)`.

    Any instance of a subclass of a kind's base class fills that kind; `dataclasses.replace(recipe, remove=Mine())`
    puts another in its place, and None takes an optional one out. `recipe.remove` is the stage of that kind, None if
    the recipe has none.

    Args:
        name: what it is called in stores and reports.
        stages: the stages by the names of their kinds, also as keyword arguments.
        retries: how often a background that is rejected is made again with the next seed.

    Raises RecipeError, naming the field, if a stage is missing or of the wrong kind, or a setting is not allowed.
    """

    name: str
    stages: Mapping[str, Stage]
    retries: int

    def __init__(
        self,
        name: str,
        stages: Mapping[str, Stage | None] | None = None,
        retries: int = 3,
        **by_kind: Stage | None,
    ) -> None:
        if not isinstance(retries, int) or retries < 0:
            raise RecipeError(f"recipe {name!r}: retries: {retries!r} is not a number of times, 0 or more")
        given = {kind: stage for kind, stage in {**(stages or {}), **by_kind}.items() if stage is not None}
        for kind, stage in given.items():
            _check_stage(name, kind, stage)
        for base in BASES:
            if base.kind.name not in given and not base.kind.optional:
                raise RecipeError(_lacks(name, base))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "retries", retries)
        object.__setattr__(self, "stages", _in_order(name, given))

    def __getattr__(self, name: str) -> Stage | None:
        stages: Mapping[str, Stage] = self.__dict__.get("stages", {})
        if name not in stages and name not in KINDS:
            raise AttributeError(f"a recipe has no {name!r}")
        return stages.get(name)

    def __hash__(self) -> int:
        return hash((self.name, self.retries, *self.fingerprints().items()))

    @property
    def makers(self) -> dict[str, Stage]:
        """The stages that make an artifact, by kind, in the order in which they run."""
        return {kind: stage for kind, stage in self.stages.items() if stage.kind.makes is not None}

    @property
    def judges(self) -> dict[str, Guard]:
        """The stages that judge what is drawn, by kind."""
        return {kind: stage for kind, stage in self.stages.items() if isinstance(stage, Guard)}

    @property
    def all_stages(self) -> dict[str, Stage]:
        """Every stage and the stages inside them, by the name of their table: "enrich.detector"."""
        found = dict(self.stages)
        for kind, stage in self.stages.items():
            found |= {f"{kind}.{name}": inner for name, inner in stage.inner_stages().items()}
        return found

    @property
    def final(self) -> Kind[Any]:
        """The kind whose backgrounds are the ones to use: the last that makes some."""
        return [stage.kind for stage in self.stages.values() if stage.kind.makes is BACKGROUND][-1]

    def fingerprints(self, instead: Mapping[str, str] | None = None) -> dict[str, str]:
        """For each kind, a hash (16 hex digits) of its stage's settings and of every stage whose artifacts it is given.

        Only settings that differ from their default count. Those of the judges count for what they judge. `instead`
        says of kinds what is given in place of what their stages would make.
        """
        found = dict(instead or {})
        judged = [_identity(stage) for stage in self.judges.values()]
        for kind, stage in self.makers.items():
            if kind in found:
                continue
            needed = [need.name for need in given_by_kind(type(stage)).values() if isinstance(need, Kind)]
            identity = [_identity(stage), *(judged if stage.kind.drawn else []), *(found[name] for name in needed)]
            found[kind] = xxhash.xxh3_64_hexdigest(json.dumps(identity, sort_keys=True).encode())
        return found

    def record(self, variants: int) -> Record:
        """This recipe as a store keeps it."""
        found = self.fingerprints()
        made = {stage.kind.makes: kind for kind, stage in self.makers.items()}  # the last one, if several make it
        artifacts = {artifact.name: found[kind] for artifact, kind in made.items() if artifact is not None}
        return Record(self.name, self.to_toml(), found, artifacts, variants)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as TOML has it: plain values; settings that are None are left out."""
        return {"name": self.name, "retries": self.retries} | {k: to_table(stage) for k, stage in self.stages.items()}

    def to_toml(self) -> str:
        """The recipe with every setting written out; `Recipe.from_toml` reads it back equal."""
        return tomli_w.dumps(self.to_dict())

    def changed(self, settings: Mapping[str, Any]) -> Recipe:
        """A copy with `"stage.field"` (or `"retries"`, `"stage.table.field"`, or `"stage"` with a stage) set; a new
        backend starts from its defaults."""
        stages: dict[str, Stage | None] = dict(self.stages)
        tables: dict[str, dict[str, Any]] = {}  # of the stages that change
        top: dict[str, Any] = {"name": self.name, "retries": self.retries}
        for path, value in settings.items():
            kind, *inner = path.split(".")
            if not inner and (isinstance(value, Stage) or (value is None and kind in stages)):
                stages[kind] = value
            elif not inner and kind in top:
                top[kind] = value
            elif not inner and isinstance(value, Mapping):
                tables[kind] = dict(value)
            elif kind not in stages and base_class(kind) is None:
                raise RecipeError(f"{path}: no such stage: {kind!r}; stages are {', '.join(KINDS)}")
            else:
                before = stages.get(kind)
                table = tables.setdefault(kind, {} if before is None else to_table(before))
                _set(table, path, inner, value)
        for kind, table in tables.items():
            before = stages.get(kind)
            known = None if before is None or table.get("backend", before.backend) != before.backend else type(before)
            stages[kind] = _build(self.name, kind, _base(self.name, kind), table, known)
        return Recipe(top["name"], stages, top["retries"])

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Raises RecipeError naming the field that is missing, unknown or not allowed."""
        name = data.get("name", "unnamed")
        tables = {field: value for field, value in data.items() if field not in ("name", "retries")}
        for base in BASES:
            if base.kind.name not in tables and not base.kind.optional:
                raise RecipeError(_lacks(name, base))
        for field, table in tables.items():
            base_of_field = _base(name, field)
            if not isinstance(table, Mapping):
                raise RecipeError(_lacks(name, base_of_field))
        stages = {kind: _build(name, kind, _base(name, kind), table) for kind, table in tables.items()}
        return cls(name, stages, data.get("retries", 3))

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
            check_file(path)
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RecipeError(f"the recipe {path} is not text in UTF-8: {error}") from error
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
    """A setting's value as typed on a command line: TOML if it is TOML, else text (`steps=30`, `model=u2net`)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def to_table(stage: Stage) -> dict[str, Any]:
    """A stage as a recipe's table, with a table inside for each stage inside, or an array of tables for several."""
    inner = {name: _each(getattr(stage, name), to_table) for name in stage.substages}
    return {"backend": stage.backend} | _plain(stage) | inner


def _base(recipe: str, kind: str) -> type[Stage]:
    base = base_class(kind)
    if base is None:
        raise RecipeError(
            f"recipe {recipe!r}: no such field: {kind!r}; fields are {', '.join(sorted(['name', 'retries', *KINDS]))}"
        )
    return base


def _lacks(recipe: str, base: type[Stage]) -> str:
    return (
        f"recipe {recipe!r}: it lacks the table [{base.kind.name}], with a `backend` of "
        f"{', '.join(backend_names(base))}"
    )


def _check_stage(recipe: str, kind: str, stage: Stage) -> None:
    """Raise RecipeError unless the stage fills the kind and its settings are allowed."""
    base = base_class(kind)
    if not isinstance(stage, Stage) or getattr(getattr(stage, "kind", None), "name", None) != kind:
        what = f"a {base.__name__}" if base else f"a stage of the kind {kind}"
        known = f": {', '.join(backend_names(base))}, or a subclass of your own" if base else ""
        raise RecipeError(f"recipe {recipe!r}: {kind}: {stage!r} is not {what}{known}")
    if not isinstance(getattr(stage, "backend", None), str):
        raise RecipeError(f"recipe {recipe!r}: {kind}: {type(stage).__name__} has no `backend`, its name in recipes")
    _build(recipe, kind, type(stage), to_settings(stage), type(stage))


def _each(value: Any, convert: Callable[[Any], Any]) -> Any:
    """What becomes of a stage, or a list of what becomes of each stage in a tuple."""
    return [convert(one) for one in value] if isinstance(value, tuple) else convert(value)


def to_settings(stage: Stage) -> dict[str, Any]:
    """A stage's settings with its backend, as `_build` takes them."""
    return stage.settings() | {"backend": stage.backend}


def _in_order(recipe: str, stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages so that each comes after those that it needs; judges last."""
    left = sorted(stages, key=lambda kind: [*KINDS, kind].index(kind))
    ordered: dict[str, Stage] = {}
    while left:
        for kind in left:
            needs = [need.name for need in stages[kind].kind.needs.values() if isinstance(need, Kind)]
            if missing := [need for need in needs if need not in stages]:
                raise RecipeError(f"recipe {recipe!r}: {kind} needs {missing[0]}, which it lacks")
            if all(need in ordered for need in needs):
                ordered[kind] = stages[kind]
                left.remove(kind)
                break
        else:
            raise RecipeError(f"recipe {recipe!r}: {' and '.join(left)} need each other")
    return ordered


def _set(table: dict[str, Any], path: str, names: list[str], value: Any) -> None:
    """Set a value in a table of tables; a new backend empties its table."""
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{path}: {name!r} is a setting, not a table")
    if names[-1:] == ["backend"]:
        table.clear()
    if not names:
        raise RecipeError(f"{path}: {value!r} is neither a stage nor a table")
    table[names[-1]] = value


def _build(
    recipe: str, path: str, base: type[Stage], table: Mapping[str, Any], known: type[Stage] | None = None
) -> Stage:
    """The stage that a table describes, each setting checked against its type and bounds; of the class `known` instead
    of the one that its `backend` names."""
    backend = table.get("backend", next(iter(base.backends)) if len(base.backends) == 1 else None)
    chosen = known or (find_backend(base, backend) if isinstance(backend, str) else None)
    if chosen is None:
        raise RecipeError(
            f"recipe {recipe!r}: {path}.backend: {backend!r} is not one of {', '.join(backend_names(base))}"
        )
    settings = {name: value for name, value in table.items() if name != "backend"}
    for name, inner_base in chosen.substages.items():
        inner = settings.get(name)
        if isinstance(inner, tuple | list) and inner:
            settings[name] = tuple(
                _build_inner(recipe, f"{path}.{name}.{n}", inner_base, one) for n, one in enumerate(inner)
            )
        elif inner is not None:
            settings[name] = _build_inner(recipe, f"{path}.{name}", inner_base, inner)
    try:
        return _adapter(chosen).validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in (path, *first["loc"]))
        takes = ", ".join(field.name for field in fields(chosen)) or "no settings"
        hint = f"; {chosen.backend} takes: {takes}" if first["type"] == "unexpected_keyword_argument" else ""
        raise RecipeError(
            f"recipe {recipe!r}: {field}: {first['msg'].lower()} (got {first['input']!r}){hint}"
        ) from error


def _build_inner(recipe: str, path: str, base: type[Stage], inner: Any) -> Stage:
    """A stage inside a stage, from its table or as it was built in Python."""
    if isinstance(inner, Mapping):
        return _build(recipe, path, base, inner)
    if not isinstance(inner, base):
        raise RecipeError(f"recipe {recipe!r}: {path}: {inner!r} is not a {base.__name__}, nor its table")
    return _build(recipe, path, base, to_settings(inner), type(inner))


@cache
def _adapter(backend: type[Stage]) -> TypeAdapter[Stage]:
    return TypeAdapter(backend)


def _plain(stage: Stage, defaults: bool = True) -> dict[str, Any]:
    """A stage's own settings as TOML and JSON have them; those that are None are left out."""
    settings: dict[str, Any] = _adapter(type(stage)).dump_python(
        stage, mode="json", exclude_none=defaults, exclude_defaults=not defaults, exclude=set(stage.substages)
    )
    return settings


def _identity(stage: Stage) -> list[Any]:
    """Everything that decides what comes out of a stage: backend, version, and settings that are not the default."""
    settings = {k: v for k, v in _plain(stage, defaults=False).items() if k not in stage.execution_only}
    inner = {name: _each(getattr(stage, name), _identity) for name in stage.substages}
    return [stage.backend, stage.version, settings | inner]
