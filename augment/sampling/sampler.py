"""From an image to its composite: what both transforms share. No model code is loaded here."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import cv2
import numpy as np
import torch
from torch.utils.data import get_worker_info

from augment.artifacts import Image, Matte, decode_image
from augment.cache import Cache
from augment.composite import BLENDS, Blend, Layer, lay, object_layer
from augment.counts import Counts
from augment.entries import entry_name
from augment.errors import CorruptEntry, InputError, MissError, StoreError
from augment.fit import cover
from augment.keys import image_key
from augment.labels import Labels, on_object, protected
from augment.paths import PathIndex
from augment.placement import Move, Placement, PlacementDraws, as_placement, place
from augment.pools import Pool, Relation, Source, as_source
from augment.store import FilledRecipe, Store, find_recipe, open_store

if TYPE_CHECKING:
    from augment.chain import Chain
    from augment.recipe import Recipe

logger = logging.getLogger(__name__)

OnMiss: TypeAlias = Literal["keep", "pool", "compute", "raise"]

_LOOKUPS_BEFORE_WARNING = 100
_SAME_ASPECT = 0.02  # a resize to whole pixels changes the aspect by less, a crop mostly by more
_KEY = re.compile(r"[0-9a-f]{32}")


class Draws(NamedTuple):
    """All that is random in one composite, each in [0, 1). There are as many whatever the store holds."""

    source: float
    image: float
    variant: float
    x: float
    y: float
    flip: float
    placement: PlacementDraws

    @classmethod
    def of(cls, uniforms: Sequence[float]) -> Draws:
        """From DRAWS numbers in [0, 1)."""
        source, image, variant, x, y, flip, *rest = uniforms
        return cls(source, image, variant, x, y, flip, PlacementDraws(*rest))


DRAWS = len(Draws._fields) - 1 + len(PlacementDraws._fields)


@dataclass(frozen=True, eq=False)
class Replacement:
    """A background `(H, W, 3)` uint8, what goes over it, and how the object moved; None where it stayed."""

    background: Image
    layer: Layer
    move: Move | None

    def composite(self) -> Image:
        """The layer over the background, in the background's memory."""
        return lay(self.layer, self.background)


class _Miss(Exception):
    """The store lacks something."""


class Sampler:
    """Looks images up in a store, draws a background and composites the object onto it; counts what came of it.

    The arguments are `ReplaceBackground`'s. Raises StoreError or InputError at construction where they cannot work.
    """

    def __init__(
        self,
        store: Store | str | Path,
        *,
        source: str | Mapping[str, float] | Source = "own",
        on_miss: OnMiss = "keep",
        placement: Placement | Mapping[str, Any] | None = None,
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
        self.source = as_source(source)
        self.on_miss = on_miss
        self.placement = as_placement(placement)
        self.blend = blend
        self.harmonize = harmonize
        self.protect_labels = protect_labels
        self.counts = Counts(
            *("hits", "misses", "unusable", "mismatched"),
            *("protected: mask", "protected: box", "protected: keypoint", "unmoved"),
        )
        self._chain: Chain | None = None
        self.filled = self._fill(recipe)
        self._pool = self._open_pool()
        self._paths = PathIndex(self.store.paths_file())
        self._misses = self.store.misses(self.filled) if isinstance(self.store, Cache) else None
        self._in_worker = False

    def replace(
        self,
        image: Image,
        draws: Draws,
        labels: Sequence[Labels] = (),
        key: str | None = None,
        movable: bool = True,
    ) -> Replacement | None:
        """A new background for the image `(H, W, 3)` uint8, or None, counted, where it must stay as it is.

        `key` is the image's key or path, where its pixels are not those that were prewarmed but a resized version of
        them; `movable` says whether all labels are known to go with this image. Raises MissError with
        `on_miss="raise"`.
        """
        if not self._in_worker and get_worker_info() is not None:
            self._in_worker = True
            # One thread, as torch gives each of its workers: they are many, and OpenCV's pool does not survive a fork.
            cv2.setNumThreads(0)
        keys = [image_key(image)] if key is None else self._keys(key)
        computable = key is None and self.on_miss == "compute"
        try:
            key, matte = self._matte(keys, image, computable)
            if matte.unusable:
                self.counts.add("unusable")
                return None
            fitted = _fitted(matte, image.shape[:2])
            if fitted is None:
                self.counts.add("mismatched")
                return None
            labels = [label for label in labels if label]
            widened = protected(fitted, labels, image) if labels and self.protect_labels else fitted
            if isinstance(widened, str):
                self.counts.add(f"protected: {widened}")
                return None
            background = self._background(key, image, draws, computable)
        except _Miss:
            self._miss(keys[0] if keys else os.path.abspath(str(key)))
            return None
        move = None
        if self.placement is not None:
            if movable and on_object(fitted, labels):
                move = place(self.placement, widened, draws.placement)
            else:
                self.counts.add("unmoved")
        self.counts.add("hits")
        # Neither a faded edge nor moved colours where pixels are labelled: those stay, byte for byte.
        exact = bool(labels) and self.protect_labels
        layer = object_layer(
            image,
            widened,
            background,
            blend="alpha" if exact else self.blend,
            harmonize=0.0 if exact else self.harmonize,
            matrix=None if move is None else move.matrix,
        )
        return Replacement(background, layer, move)

    def _keys(self, key: str) -> list[str]:
        """The keys of a sample that carries its key or path."""
        return [key] if _KEY.fullmatch(key) else self._paths.keys(key)

    def _matte(self, keys: list[str], image: Image, computable: bool) -> tuple[str, Matte]:
        """The matte of the key whose image had this one's shape. Raises _Miss."""
        found = [(key, matte) for key in keys if (matte := self._read_matte(key)) is not None]
        if not found and computable:
            self._compute(image, keys[0])
            found = [(key, matte) for key in keys if (matte := self._read_matte(key)) is not None]
        if not found:
            raise _Miss
        return next((pair for pair in found if _same_aspect(pair[1].size, image.shape[:2])), found[0])

    def _read_matte(self, key: str) -> Matte | None:
        data = self.store.get(entry_name("matte", self.filled.fingerprints["remove"], key))
        try:
            return None if data is None else Matte.from_bytes(data)
        except CorruptEntry as error:
            logger.warning("%s: the matte of %s cannot be read (%s) and counts as missing", self.store, key, error)
            return None

    def _background(self, key: str, image: Image, draws: Draws, computable: bool) -> Image:
        """A background of the image's size, in memory of its own. Raises _Miss."""
        kind, relation = self.source.pick(draws.source)
        own = relation is None
        size = height, width = image.shape[:2]
        found = self._other(kind, relation, key, draws, size) if relation else self._own(kind, key, draws, size)
        if found is None and own and computable:
            self._compute(image, key)
            found = self._own(kind, key, draws, size)
        if found is None and self.on_miss == "pool":
            own, found = False, self._other(kind, "any", key, draws, size)
        if found is None:
            raise _Miss
        if found.shape[:2] != (height, width):
            found = cover(found, height, width, draws.x, draws.y)
        if not own and draws.flip < self.source.flip:
            found = np.asarray(cv2.flip(found, 1))
        return found if found.flags.writeable else found.copy()

    def _own(self, kind: str, key: str, draws: Draws, size: tuple[int, int]) -> Image | None:
        return self._read_background(kind, key, self.filled.variants, draws.variant, size)

    def _other(self, kind: str, relation: Relation, key: str, draws: Draws, size: tuple[int, int]) -> Image | None:
        """The background or plate of another image."""
        if self._pool is None:
            return None
        group = None
        if relation != "any":
            provenance = self.store.provenance(entry_name("matte", self.filled.fingerprints["remove"], key))
            group = None if provenance is None else provenance.get("group")
        try:
            for other, variants in self._pool.draw(relation, group, draws.image):
                found = self._read_background(kind, other, variants, draws.variant, size)
                if found is not None:
                    return found
        except CorruptEntry as error:
            self._pool = None
            logger.warning("%s: %s; nothing is drawn from it: prewarm again to write it anew", self.store, error)
        return None

    def _read_background(
        self, kind: str, key: str, variants: int, uniform: float, size: tuple[int, int]
    ) -> Image | None:
        if kind == "plate":
            names = [entry_name("plate", self.filled.fingerprints["inpaint"], key)]
        else:
            first = int(uniform * variants)  # a variant that failed to generate is not there: take the next one
            fingerprint = self.filled.fingerprints["generate"]
            names = [entry_name("background", fingerprint, key, (first + n) % variants) for n in range(variants)]
        for name in names:
            data = self.store.get(name)
            try:
                if data is not None:
                    return decode_image(data, at_least=size)
            except CorruptEntry as error:
                logger.warning("%s: %s cannot be read (%s) and counts as missing", self.store, name, error)
        return None

    def _miss(self, key: str) -> None:
        self.counts.add("misses")
        if self._misses is not None:
            self._misses.add(key)
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

    def _open_pool(self) -> Pool | None:
        if not self.source.draws_from_others and self.on_miss != "pool":
            return None
        return Pool(self.store.pool_file(self.filled), self.source.max_coverage)

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
            fingerprint = loaded.background
            return find_recipe(self.store, fingerprint if fingerprint in held else loaded.name)
        return find_recipe(self.store, str(recipe))

    def _prepare_chain(self, recipe: str | Path | Recipe | None) -> FilledRecipe:
        from augment.chain import Chain
        from augment.recipe import Recipe, as_recipe

        if not isinstance(self.store, Cache):
            raise StoreError(f'on_miss="compute" needs a store that can be written; {self.store} cannot')
        held = self.store.recipes()
        for filled in held:  # in order: the latest one, where none is named
            if (recipe is None and filled is held[-1]) or recipe == filled.fingerprints["generate"]:
                recipe = Recipe.from_toml(filled.toml)
        recipe = "classic" if recipe is None else recipe
        self._chain = Chain(as_recipe(recipe), self.store)
        self._chain.remember(variants=1)
        return find_recipe(self.store, self._chain.recipe.background)

    def _compute(self, image: Image, key: str) -> None:
        from augment.stages.base import Item

        assert self._chain is not None  # made at construction with on_miss="compute"
        self._refuse_forked_cuda(self._chain)
        outcome = self._chain.complete(Item(image, key), self.filled.variants)
        for work, reason in outcome.failed:
            logger.warning("the image %s could not be computed: %s", work.key, reason)

    def _refuse_forked_cuda(self, chain: Chain) -> None:
        """CUDA does not survive a fork: once the main process has used it, no forked worker can."""
        if get_worker_info() is None or not torch.cuda._is_in_bad_fork():
            return
        for kind, stage in chain.recipe.stages.items():
            if stage.where().startswith("cuda"):
                raise InputError(
                    f'on_miss="compute": {kind} ({stage.backend}) needs CUDA, which a forked DataLoader worker cannot '
                    "use: run `augment prewarm` before training, or pass the DataLoader "
                    'multiprocessing_context="spawn", or set the device of that stage to "cpu" in the recipe'
                )


def _same_aspect(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two `(H, W)` are the same but for a resize."""
    if one == other:
        return True
    # Within a pixel too, which at small sizes is more.
    scale = (other[0] / one[0], other[1] / one[1])
    return abs(scale[0] / scale[1] - 1) < max(_SAME_ASPECT, 1 / min(*one, *other))


def _fitted(matte: Matte, size: tuple[int, ...]) -> Matte | None:
    """The matte at the image's size `(H, W)`; None where that is not a resize of its own."""
    if matte.size == size:
        return matte
    if not _same_aspect(matte.size, size):
        return None
    method = cv2.INTER_AREA if size[0] < matte.size[0] else cv2.INTER_LINEAR
    alpha = np.asarray(cv2.resize(matte.full(), (size[1], size[0]), interpolation=method), np.uint8)
    # The colours of soft pixels were those of other pixels.
    fitted = Matte.from_full(alpha, matte.confidence)
    return None if fitted.unusable else fitted
