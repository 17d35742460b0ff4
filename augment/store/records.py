"""What a store offers to those who read from it, and how one is opened."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from augment.entries import Provenance
from augment.errors import StoreError

SETTINGS_FILE = "store.json"
FORMAT = 1


@dataclass(frozen=True)
class FilledRecipe:
    """A recipe that a store was filled with: enough to find its entries, and to compute more of them.

    `fingerprints` maps a stage's kind to its fingerprint, "generate" to that of the backgrounds to use: the enriched
    ones, where the recipe enriches. `variants` is the most backgrounds any image was asked to have.
    """

    name: str
    toml: str
    fingerprints: dict[str, str]
    variants: int
    filled: float = field(default=0.0, compare=False)  # seconds since the epoch

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> FilledRecipe:
        return cls(**json.loads(text))


class Store(Protocol):
    """Reads by name (see `augment.entries.entry_name`); a damaged entry is a miss that is logged once."""

    def get(self, name: str) -> memoryview | None:
        """The artifact's bytes, checked, or None."""

    def provenance(self, name: str) -> Provenance | None:
        """Where an entry came from: recipe, backend, settings, seed, seconds, caption, prompt; None for a miss."""

    def recipes(self) -> list[FilledRecipe]:
        """The recipes it was filled with, the latest last."""

    def pool_file(self, recipe: FilledRecipe) -> Path:
        """The index of images whose backgrounds may serve others (see `augment.pools`)."""

    def paths_file(self) -> Path:
        """The index from paths to keys (see `augment.paths`); there may be no such file."""


def open_store(path: str | Path) -> Store:
    """Open the store at `path`, whatever its kind. Raises StoreError where there is none."""
    from augment.cache import Cache

    if not (Path(path) / SETTINGS_FILE).is_file():
        raise StoreError(
            f"{path} is not a store: it has no {SETTINGS_FILE}; make one with `augment prewarm IMAGES --cache {path}`"
        )
    return Cache(path)


def find_recipe(store: Store, wanted: str | None = None) -> FilledRecipe:
    """The recipe called `wanted`, or with the fingerprint `wanted`, or the latest one where it is None. Raises
    StoreError."""
    filled = store.recipes()
    if not filled:
        raise StoreError(f"{store} holds no recipe yet: fill it with `augment prewarm` or `augment.prewarm` first")
    matching = [recipe for recipe in filled if wanted in (None, recipe.name, recipe.fingerprints["generate"])]
    if not matching:
        names = ", ".join(sorted({recipe.name for recipe in filled}))
        raise StoreError(f"{store} was not filled with the recipe {wanted!r}; it holds: {names}")
    return matching[-1]
