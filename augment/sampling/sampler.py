"""From an image to its composite: what all transforms share. No model code is loaded here."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
from torch.utils.data import get_worker_info

from augment.artifacts import BACKGROUND, MATTE, Artifact, Image, Matte
from augment.errors import MissError
from augment.imaging.composite import Blend, Layer, lay, object_layer
from augment.imaging.fit import cover
from augment.keys import image_key
from augment.sampling.counts import Counts
from augment.sampling.labels import Labels, on_object, protected
from augment.sampling.placement import Move, Placement, PlacementDraws, place
from augment.sampling.sources import Source
from augment.store.pool import Pool, Relation
from augment.store.reader import Reader
from augment.store.records import Record, Store

if TYPE_CHECKING:
    from augment.sampling.compute import OnTheFly

logger = logging.getLogger(__name__)

OnMiss: TypeAlias = Literal["keep", "pool", "compute", "raise"]

_LOOKUPS_BEFORE_WARNING = 100
_SAME_ASPECT = 0.02  # a resize to whole pixels changes the aspect ratio by less, a crop usually by more
_KEY = re.compile(r"[0-9a-f]{32}")


class Draws(NamedTuple):
    """All random numbers of one composite, each in [0, 1). Their count does not depend on what the store holds."""

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
    """A background `(H, W, 3)` uint8, what goes over it, and how the object moved; None if it stayed in place."""

    background: Image
    layer: Layer
    move: Move | None

    @cached_property
    def composite(self) -> Image:
        """The layer over the background, in the background's memory."""
        return lay(self.layer, self.background)


class _Miss(Exception):
    """The store lacks something."""


class Sampler:
    """Looks images up in a store, draws a background and finds out how the object goes over it; counts the outcomes.

    The arguments are those of `augment.sampling.replacing.Replacing`, already checked; `compute` is given with
    `on_miss="compute"`.
    """

    def __init__(
        self,
        store: Store,
        record: Record,
        *,
        source: Source,
        on_miss: OnMiss,
        placement: Placement | None,
        blend: Blend,
        harmonize: float,
        protect_labels: bool,
        compute: OnTheFly | None,
    ) -> None:
        self.store = store
        self.record = record
        self.source = source
        self.on_miss = on_miss
        self.placement = placement
        self.blend = blend
        self.harmonize = harmonize
        self.protect_labels = protect_labels
        self.counts = Counts(
            *("hits", "misses", "unusable", "mismatched"),
            *("protected: mask", "protected: box", "protected: keypoint", "unmoved"),
        )
        self._compute = compute
        self._reader = Reader(store, record)
        needs_pool = source.draws_from_others or on_miss == "pool"
        self._pool = Pool(store.pool(record), source.max_coverage) if needs_pool else None
        self._in_worker = False

    def replace(
        self,
        image: Image,
        draws: Draws,
        labels: Sequence[Labels] = (),
        key: str | None = None,
        movable: bool = True,
    ) -> Replacement | None:
        """A new background for the image `(H, W, 3)` uint8, or None, counted, if it must stay unchanged.

        `key` is the image's key or path, if its pixels are a resized version of those that were prewarmed. `movable`
        says whether all labels are known to belong to this image. Raises MissError with `on_miss="raise"`.
        """
        if not self._in_worker and get_worker_info() is not None:
            self._in_worker = True
            # One thread, as torch gives each of its workers: there are many, and OpenCV's pool does not survive a fork.
            cv2.setNumThreads(0)
        keys = [image_key(image)] if key is None else self._keys(key)
        compute = self._compute if key is None else None
        try:
            key, matte = self._matte(keys, image, compute)
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
            background = self._background(key, image, draws, compute)
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
        # Labelled pixels stay, byte for byte: neither a faded edge nor moved colors.
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
        return [key] if _KEY.fullmatch(key) else self.store.keys_at(key)

    def _matte(self, keys: list[str], image: Image, compute: OnTheFly | None) -> tuple[str, Matte]:
        """The matte of the key whose image had this one's shape. Raises _Miss."""
        found = self._mattes(keys)
        if not found and compute is not None:
            compute.compute(image, keys[0])
            found = self._mattes(keys)
        if not found:
            raise _Miss
        return next((pair for pair in found if _same_aspect(pair[1].size, image.shape[:2])), found[0])

    def _mattes(self, keys: list[str]) -> list[tuple[str, Matte]]:
        return [(key, matte) for key in keys if (matte := self._reader.get(MATTE, key)) is not None]

    def _background(self, key: str, image: Image, draws: Draws, compute: OnTheFly | None) -> Image:
        """A background of the image's size, in memory of its own. Raises _Miss."""
        artifact, relation = self.source.pick(draws.source)
        own = relation is None
        size = height, width = image.shape[:2]
        if relation is None:
            found = self._read(artifact, key, self.record.variants, draws, size)
            if found is None and compute is not None:
                compute.compute(image, key)
                found = self._read(artifact, key, self.record.variants, draws, size)
        else:
            found = self._other(artifact, relation, key, draws, size)
        if found is None and self.on_miss == "pool":
            own, found = False, self._other(artifact, "any", key, draws, size)
        if found is None:
            raise _Miss
        if found.shape[:2] != (height, width):
            found = cover(found, height, width, draws.x, draws.y)
        if not own and draws.flip < self.source.flip:
            found = np.asarray(cv2.flip(found, 1))
        return found if found.flags.writeable else found.copy()

    def _other(
        self, artifact: Artifact[Image], relation: Relation, key: str, draws: Draws, size: tuple[int, int]
    ) -> Image | None:
        """The background or plate of another image."""
        if self._pool is None:
            return None
        group = None if relation == "any" else self._reader.group(key)
        for other, variants in self._pool.draw(relation, group, draws.image):
            found = self._read(artifact, other, variants, draws, size)
            if found is not None:
                return found
        return None

    def _read(
        self, artifact: Artifact[Image], key: str, variants: int, draws: Draws, size: tuple[int, int]
    ) -> Image | None:
        """The image's plate, or one of its backgrounds."""
        if artifact is BACKGROUND:
            return self._reader.any_variant(artifact, key, variants, draws.variant, at_least=size)
        return self._reader.get(artifact, key, at_least=size)

    def _miss(self, name: str) -> None:
        """Count and note an image, by its key or path, that the store lacks."""
        self.counts.add("misses")
        self.store.note_miss(self.record, name)
        if self.on_miss == "raise":
            raise MissError(
                f"{self.store} has no background for the image {name} with the recipe {self.record.name!r}: prewarm "
                "it, or check that no other transform runs before ReplaceBackground"
            )
        totals = self.counts.totals()
        if totals["misses"] == _LOOKUPS_BEFORE_WARNING and sum(totals.values()) == _LOOKUPS_BEFORE_WARNING:
            logger.warning(
                "none of the first %d images was found in %s: likely another transform ran before ReplaceBackground, "
                "or the images are decoded differently than `augment prewarm` did (put it first, or prewarm the "
                "Dataset itself)",
                _LOOKUPS_BEFORE_WARNING,
                self.store,
            )


def _same_aspect(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two `(H, W)` are the same except for a resize."""
    if one == other:
        return True
    # Within a pixel too, which is more at small sizes.
    scale = (other[0] / one[0], other[1] / one[1])
    return abs(scale[0] / scale[1] - 1) < max(_SAME_ASPECT, 1 / min(*one, *other))


def _fitted(matte: Matte, size: tuple[int, ...]) -> Matte | None:
    """The matte at the image's size `(H, W)`; None if that is not a resize of its own size."""
    if matte.size == size:
        return matte
    if not _same_aspect(matte.size, size):
        return None
    method = cv2.INTER_AREA if size[0] < matte.size[0] else cv2.INTER_LINEAR
    alpha = np.asarray(cv2.resize(matte.uncropped(), (size[1], size[0]), interpolation=method), np.uint8)
    # Without edge colors: those of the soft pixels belonged to other pixels.
    fitted = Matte.from_full(alpha, matte.confidence)
    return None if fitted.unusable else fitted
