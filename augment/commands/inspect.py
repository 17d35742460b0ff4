"""`augment inspect`: what a store holds, in numbers; and how everything of one image was made."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import PIL.Image
from rich.markup import escape
from rich.table import Column, Table

from augment.artifacts import BACKGROUND, MATTE, PROMPT, Matte, Prompt
from augment.commands.recipes import models_of
from augment.commands.shown import kinds_of, show
from augment.errors import InputError, RecipeError
from augment.keys import image_key
from augment.models.known import known
from augment.prewarming.progress import bar
from augment.recipe import Recipe
from augment.store.cache import Cache
from augment.store.open import open_store
from augment.store.reader import Reader
from augment.store.records import Record, Store, find_record


@dataclass
class RecipeTotals:
    """What a store holds of one recipe.

    `images` have a matte; `complete` ones have all their backgrounds too; `unusable` counts refused mattes by reason.
    `nbytes` and `counts` are per artifact. `misses` is how many images training looked for and did not find; None if
    the store notes none. `licenses` maps each model to its license and whether it allows commercial use.
    """

    name: str
    updated: str
    variants: int
    images: int = 0
    complete: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    nbytes: Counter[str] = field(default_factory=Counter)
    misses: int | None = None
    licenses: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class Totals:
    """What a store holds: its bytes on disk (None for a pack), its size limit, and each recipe."""

    store: str
    nbytes: int | None
    size_limit: float | None
    recipes: list[RecipeTotals]


def inspect_store(store: Store | str | Path, progress: bool = True) -> Totals:
    """Count what a store holds. Raises StoreError if there is none."""
    store = open_store(store)
    records = store.recipes() or [find_record(store)]
    limit = store.size_limit if isinstance(store, Cache) else None
    return Totals(
        store.location,
        store.nbytes() if isinstance(store, Cache) else None,
        None if limit is None or math.isinf(limit) else limit,
        [_totals(store, record, progress) for record in records],
    )


def inspect_image(store: Store | str | Path, image: str, recipe: str | None = None) -> dict[str, Any]:
    """How everything of one image was made; `image` is its path or its key.

    Raises InputError if the store has nothing of it.
    """
    store = open_store(store)
    reader = Reader(store, find_record(store, recipe))
    kinds = kinds_of(reader.record)
    keys = [image] if len(image) == 32 and not os.path.exists(image) else _keys(store, image)
    found = [shown for key in keys if (shown := show(reader, kinds, key, pixels=False)).made]
    if not found:
        raise InputError(f"{store} has nothing of {image} with the recipe {reader.record.name!r}: prewarm it first")
    return {
        one.key: {
            made.kind.name if made.variant is None else f"{made.kind.name} {made.variant}": _plain(made.artifact)
            | {name: value for name, value in made.provenance.items() if value not in (None, "", [], {})}
            | {"bytes": made.nbytes}
            for made in one.made
        }
        for one in found
    }


def _totals(store: Store, record: Record, progress: bool) -> RecipeTotals:
    updated = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.updated)) if record.updated else ""
    totals = RecipeTotals(record.name, updated, record.variants, licenses=_licenses(record))
    reader, kinds = Reader(store, record), kinds_of(record)
    keys = reader.keys(MATTE)
    with bar(record.name, len(keys), progress) as done:
        for key in keys:
            one = show(reader, kinds, key, pixels=False)
            done.advance(1)
            if (matte := one.matte) is None:
                continue
            totals.images += 1
            totals.groups[one.group or ""] += 1
            if matte.unusable:
                totals.unusable[matte.unusable.split(":")[0]] += 1
            elif len(one.of(BACKGROUND.name)) == record.variants:
                totals.complete += 1
            for made in one.made:
                artifact = made.name.split("/")[0]
                totals.counts[artifact] += 1
                totals.nbytes[artifact] += made.nbytes
    if isinstance(store, Cache):
        totals.misses = len(store.misses(record).read())
    return totals


def _licenses(record: Record) -> dict[str, tuple[str, str]]:
    try:
        models = models_of(Recipe.from_toml(record.toml))
    except RecipeError:  # a backend that is not installed here, or a setting of another version
        return {}
    entries = {model: known(model) for model in models}
    return {
        model: (one.license, one.commercial) if one else ("unknown", "look it up") for model, one in entries.items()
    }


def _keys(store: Store, image: str) -> list[str]:
    """The keys of the image at a path: noted in the store, or else of its pixels."""
    if keys := store.keys_at(image):
        return keys
    try:
        with PIL.Image.open(image) as file:
            return [image_key(file)]
    except FileNotFoundError as error:
        raise InputError(f"{image}: there is no such file, and it is no key of 32 hex digits") from error
    except OSError as error:
        raise InputError(f"{image}: cannot be read as an image ({error})") from error


def _plain(artifact: Any) -> dict[str, Any]:
    """An artifact as a few words."""
    if isinstance(artifact, Matte):
        told = {"confidence": round(artifact.confidence, 3), "coverage": round(artifact.coverage, 3)}
        return told | {"box": list(artifact.box), "unusable": artifact.unusable}
    if isinstance(artifact, Prompt):
        return {PROMPT.name: artifact.text, "negative": artifact.negative, "origin": artifact.origin}
    if isinstance(artifact, str):
        return {"text": artifact}
    return {"size": list(artifact.shape[:2])}


def to_json(found: Totals | dict[str, Any]) -> str:
    """What `inspect_store` or `inspect_image` found, as JSON."""
    return json.dumps(found, indent=1, default=lambda value: vars(value) if is_dataclass(value) else str(value))


def as_tables(found: Totals | dict[str, Any]) -> Iterator[Table]:
    """What `inspect_store` or `inspect_image` found, for a terminal."""
    if isinstance(found, Totals):
        limit = f", limit {found.size_limit / 1e6:.1f} MB" if found.size_limit is not None else ""
        size = f": {found.nbytes / 1e6:.1f} MB on disk{limit}" if found.nbytes is not None else ""
        yield Table(Column(f"{found.store}{size}"), box=None, pad_edge=False)
        for recipe in found.recipes:
            yield _recipe_table(recipe)
        return
    for key, stages in found.items():
        table = Table(
            "stage", Column("", overflow="fold"), Column("", overflow="fold"), title=key, title_justify="left"
        )
        for stage, told in stages.items():
            for n, (name, value) in enumerate(told.items()):
                table.add_row(stage if n == 0 else "", name, escape(str(value)))
            table.add_section()
        yield table


def _recipe_table(recipe: RecipeTotals) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, title_justify="left")
    table.title = escape(f"{recipe.name}, last prewarmed {recipe.updated}, {recipe.variants} variants")
    rows = [("images", recipe.images), ("complete", recipe.complete)]
    rows += [(f"unusable: {reason}", count) for reason, count in recipe.unusable.most_common()]
    rows += [("training did not find", recipe.misses)] if recipe.misses is not None else []
    for name, count in rows:
        table.add_row(escape(name), str(count), "")
    for artifact, count in recipe.counts.items():
        table.add_row(f"{artifact}s", str(count), f"{recipe.nbytes[artifact] / 1e6:.1f} MB")
    for group, count in sorted(recipe.groups.items()):
        table.add_row(escape(f"group {group}" if group else "without a group"), str(count), "")
    for model, (license, commercial) in recipe.licenses.items():
        table.add_row(f"model {model}", "", f"{license}; commercial use: {commercial}")
    return table
