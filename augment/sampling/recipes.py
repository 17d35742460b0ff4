"""Which of the recipes that a store was filled with is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from augment.errors import InputError
from augment.store.records import Record, Store, find_record

if TYPE_CHECKING:
    from augment.recipe import Recipe


def record_for(store: Store, recipe: str | Path | Recipe | None) -> Record:
    """The store's record of a recipe: a Recipe, a preset's name, a TOML file, the name or the fingerprint of the
    backgrounds that the store knows it by, or None for the latest one.

    A recipe whose settings the store was never filled with is looked for by its name. Raises StoreError if there is
    none, RecipeError if the file cannot be read, InputError if `recipe` is none of these.
    """
    held = {record.background for record in store.recipes()}
    if recipe is None or (isinstance(recipe, str) and recipe in held):
        return find_record(store, recipe)
    loaded = _loaded(recipe)
    if loaded is None:
        return find_record(store, str(recipe))
    wanted = loaded.record(variants=1).background
    return find_record(store, wanted if wanted in held else loaded.name)


def recipe_for(store: Store, recipe: str | Path | Recipe | None) -> Recipe:
    """The recipe to compute with: as `record_for`, but the store need not have been filled with it.

    None is the latest recipe of the store, or "classic" if it has none.
    """
    from augment.recipe import Recipe, as_recipe

    records = store.recipes()
    if recipe is None:
        return Recipe.from_toml(records[-1].toml) if records else Recipe.load("classic")
    loaded = _loaded(recipe)
    if loaded is not None:
        return loaded
    known = [record for record in records if recipe in (record.name, record.background)]
    return Recipe.from_toml(known[-1].toml) if known else as_recipe(recipe)


def _loaded(recipe: str | Path | Recipe) -> Recipe | None:
    """The recipe that this is, or that a preset or a file holds; None for a name that only a store can know."""
    # Imported only here: a training worker needs no recipe, nor pydantic, which comes with it.
    from augment.recipe import Recipe, as_recipe, presets

    if not isinstance(recipe, Recipe | str | Path):
        raise InputError(f"recipe: {recipe!r} is not a name, a TOML file or a Recipe")
    if isinstance(recipe, Recipe) or Path(recipe).suffix == ".toml" or str(recipe) in presets():
        return as_recipe(recipe)
    return None
