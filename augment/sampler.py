"""From an image to its matte and one of its backgrounds: what both transforms share. No model code is loaded here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from augment.artifacts import Image, Matte, decode_image
from augment.cache import Cache
from augment.composite import BLENDS, Blend, composite
from augment.counts import Counts
from augment.entries import entry_name
from augment.errors import CorruptEntry, InputError, MissError, StoreError
from augment.keys import image_key
from augment.labels import Labels, protected
from augment.store import FilledRecipe, Store, find_recipe, open_store

if TYPE_CHECKING:
    from augment.chain import Chain
    from augment.recipe import Recipe

logger = logging.getLogger(__name__)

OnMiss: TypeAlias = Literal["keep", "raise", "compute"]

_LOOKUPS_BEFORE_WARNING = 100


@dataclass(frozen=True)
class Choice:
    """One image's matte with one of its backgrounds."""

    matte: Matte
    background: Image


class Sampler:
    """Looks images up in a store, picks a background and composites the object onto it; counts what came of it.

    `on_miss` says what happens to an image that the store lacks: it is kept as it is, a MissError is raised, or the
    chain computes it there and then. Raises StoreError or InputError at construction where that cannot work.
    """

    def __init__(
        self,
        store: Store | str | Path,
        *,
        on_miss: OnMiss = "keep",
        blend: Blend = "alpha",
        harmonize: float = 0.0,
        protect_labels: bool = True,
        recipe: str | Path | Recipe | None = None,
    ) -> None:
        for name, value, allowed in (("on_miss", on_miss, get_args(OnMiss)), ("blend", blend, BLENDS)):
            if value not in allowed:
                raise InputError(f"{name}: {value!r} is not one of {', '.join(allowed)}")
        if not 0 <= harmonize <= 1:
            raise InputError(f"harmonize: {harmonize!r} is not within 0 … 1")
        self.store: Store = open_store(store) if isinstance(store, str | Path) else store
        self.on_miss = on_miss
        self.blend = blend
        self.harmonize = harmonize
        self.protect_labels = protect_labels
        self.counts = Counts("hits", "misses", "unusable", "protected")
        self._chain: Chain | None = None
        self.filled = self._fill(recipe)

    def replace(self, image: Image, uniform: float, labels: Sequence[Labels] = ()) -> Image | None:
        """A composite of the image, or None where it must stay as it is. `uniform`, in [0, 1), picks the variant.

        Raises MissError with `on_miss="raise"`.
        """
        choice = self.choose(image, uniform)
        if choice is None:
            return None
        matte: Matte | None = choice.matte
        if labels and self.protect_labels:
            matte = protected(choice.matte, labels)
        if matte is None:
            self.counts.add("protected")
            return None
        self.counts.add("hits")
        return composite(image, matte, choice.background, blend=self.blend, harmonize=self.harmonize)

    def choose(self, image: Image, uniform: float) -> Choice | None:
        """The image's matte and one of its backgrounds, or None, counted, for a miss or an unusable matte."""
        key = image_key(image)
        choice = self._find(key, uniform)
        if choice is None and self.on_miss == "compute":
            self._compute(image, key)
            choice = self._find(key, uniform)
        if choice is None:
            self._miss(key)
            return None
        if choice.matte.unusable:
            self.counts.add("unusable")
            return None
        return choice

    def _find(self, key: str, uniform: float) -> Choice | None:
        data = self.store.get(entry_name("matte", self.filled.fingerprints["remove"], key))
        try:
            if data is None:
                return None
            matte = Matte.from_bytes(data)
            if matte.unusable:
                return Choice(matte, matte.edge_colors)
            count = self.filled.variants
            first = int(uniform * count)
            for step in range(count):  # a variant that failed to generate is not there: take the next one
                name = entry_name("background", self.filled.fingerprints["generate"], key, (first + step) % count)
                data = self.store.get(name)
                if data is not None:
                    return Choice(matte, decode_image(data))
        except CorruptEntry as error:
            logger.warning("%s: an entry of %s cannot be read (%s) and counts as missing", self.store, key, error)
        return None

    def _miss(self, key: str) -> None:
        self.counts.add("misses")
        if self.on_miss == "raise":
            raise MissError(
                f"{self.store} has no background for the image {key} with the recipe {self.filled.name!r}: prewarm it, "
                "or check that no other transform runs before ReplaceBackground"
            )
        totals = self.counts.totals()
        if totals["misses"] == _LOOKUPS_BEFORE_WARNING and sum(totals.values()) == _LOOKUPS_BEFORE_WARNING:
            logger.warning(
                "none of the first %d images was found in %s: likely another transform ran before ReplaceBackground, "
                "or the images are decoded in another way than `augment prewarm` did (put it first, or prewarm the "
                "Dataset itself)",
                _LOOKUPS_BEFORE_WARNING,
                self.store,
            )

    def _fill(self, recipe: str | Path | Recipe | None) -> FilledRecipe:
        """What the store is asked for: the recipe named, or else the latest it was filled with."""
        if self.on_miss == "compute":
            return self._prepare_chain(recipe)
        if recipe is None:
            return find_recipe(self.store)
        from augment.recipe import Recipe, as_recipe, presets

        if isinstance(recipe, Recipe) or Path(recipe).suffix == ".toml" or str(recipe) in presets():
            loaded = as_recipe(recipe)
            held = {filled.fingerprints["generate"] for filled in self.store.recipes()}
            fingerprint = loaded.fingerprints()["generate"]
            return find_recipe(self.store, fingerprint if fingerprint in held else loaded.name)
        return find_recipe(self.store, str(recipe))

    def _prepare_chain(self, recipe: str | Path | Recipe | None) -> FilledRecipe:
        from augment.chain import Chain
        from augment.recipe import Recipe, as_recipe

        if not isinstance(self.store, Cache):
            raise StoreError(f'on_miss="compute" needs a store that can be written; {self.store} cannot')
        held = self.store.recipes()
        if recipe is None:
            recipe = Recipe.from_toml(held[-1].toml) if held else "classic"
        self._chain = Chain(as_recipe(recipe), self.store)
        self._chain.remember(variants=1)
        return find_recipe(self.store, self._chain.fingerprints["generate"])

    def _compute(self, image: Image, key: str) -> None:
        from augment.stages.base import Item

        assert self._chain is not None  # made at construction with on_miss="compute"
        outcome = self._chain.complete(Item(image, key), self.filled.variants)
        for work, reason in outcome.failed:
            logger.warning("the image %s could not be computed: %s", work.key, reason)
