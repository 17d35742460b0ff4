"""From an image to its composite: what all transforms share. No model code is loaded here."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import cv2
import numpy as np

from augment.artifacts import BACKGROUND, MATTE, PLATE, SCENE, Artifact, Image, Matte
from augment.errors import MissError, StoreError
from augment.imaging.composite import Blend, object_layer
from augment.imaging.fit import cover
from augment.keys import image_key
from augment.sampling.channels import BGR, flipped, is_bgr
from augment.sampling.counts import Counts
from augment.sampling.fitting import fitted, was_resized
from augment.sampling.labels import Labels, explained, on_object, protected
from augment.sampling.outcomes import Drawn, Outcome, Replacement
from augment.sampling.placement import Placement, PlacementDraws, place
from augment.sampling.process import set_up
from augment.sampling.sources import Source
from augment.sampling.watch import HIT, UNMOVED, Watch
from augment.sampling.weights import Weighted
from augment.store.pool import Pool, Relation
from augment.store.reader import Reader
from augment.store.records import Record, Store
from augment.store.scenes import SceneIndex

if TYPE_CHECKING:
    from augment.sampling.compute import OnTheFly

logger = logging.getLogger(__name__)

OnMiss: TypeAlias = Literal["keep", "pool", "compute", "raise"]
_Found: TypeAlias = tuple[Image, str, int | None]  # a background or a plate, the key of its image, its variant

_ORDER_CHECKS = 16  # misses and keyed lookups of each process: whether images come as BGR
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

    @property
    def blend(self) -> float:
        """The lower half of the bits of `flip`, which are as random as the upper half. A draw of its own would change
        all numbers that are drawn after it."""
        return self.flip * 2**26 % 1


DRAWS = len(Draws._fields) - 1 + len(PlacementDraws._fields)


class _Kept(Exception):
    """An image must stay unchanged: what this is counted as, and more about it."""

    def __init__(self, outcome: str, detail: str = "") -> None:
        super().__init__(outcome, detail)
        self.outcome, self.detail = outcome, detail


class _Miss(_Kept):
    """The store lacks something of the image with that key or path."""

    def __init__(self, name: str = "", detail: str = "") -> None:
        super().__init__("misses", detail)
        self.name = name


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
        blend: Blend | Mapping[Blend, float],
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
        self._blends: Weighted[Blend] = Weighted({blend: 1.0} if isinstance(blend, str) else blend)
        self.harmonize = harmonize
        self.protect_labels = protect_labels
        self.counts = Counts(
            *(HIT, "misses", "unusable", "mismatched", "doubtful", "no image"),
            *("protected: mask", "protected: box", "protected: keypoint", UNMOVED),
        )
        self._watch = Watch(self.counts, str(store))
        self._order_checks = _ORDER_CHECKS
        self._compute = compute
        self._reader = Reader(store, record)
        needs_pool = source.draws_from_others or on_miss == "pool"
        self._pool = Pool(store.pool(record), source.max_coverage) if needs_pool else None
        self._scenes = (store.scenes() or None) if source.draws_scenes or on_miss == "pool" else None
        if source.needs_scenes and not self._scenes:
            raise StoreError(
                f"source={str(source)!r} needs scenes, and {store} has none: make some with `augment scenes PROMPTS "
                f"--cache {store.location}`"
            )
        self._set_up_in = 0
        self._warn_of_groups()
        others = source.draws_from_others and compute is None and not self._scenes
        if others and self._pool is not None and len(self._pool.index) < 2:
            logger.warning(
                "source=%r takes the backgrounds of other images, and %s holds those of %d: prewarm more images, or "
                "more variants of each",
                str(source),
                store,
                len(self._pool.index),
            )

    def _warn_of_groups(self) -> None:
        """Say so if backgrounds of the same or of another group are asked for, and there are no groups."""
        related = [
            name for name, weight in self.source.table().items() if weight and name.endswith((":same", ":other"))
        ]
        if related and self._pool is not None and len(self._pool.groups) < 2:
            logger.warning(
                "source: %r needs images of two groups or more, and %s knows %s: prewarm a folder whose first level "
                "are the classes, a Dataset that returns classes, or pass `groups` to prewarm; or use source=%r",
                related[0],
                self.store,
                "only " + repr(self._pool.groups[0]) if any(self._pool.groups) else "none",
                related[0].rpartition(":")[0],
            )

    def replace(
        self,
        images: Sequence[Image],
        draws: Sequence[Draws],
        labels: Sequence[Labels],
        keys: Sequence[str | None],
        *,
        attached: Sequence[Labels] = (),
        movable: bool = True,
    ) -> Outcome:
        """New backgrounds for the images `(H, W, 3)` uint8 of a sample; none if the sample must stay unchanged.

        `keys` are the images' keys or paths, if their pixels are a resized version of those that were prewarmed.
        `attached` is what belongs to an image and forbids only to move another object; `movable` says whether all
        labels are known to belong to this image. Several images are replaced together, or none of them: an image that
        the store lacks may be a mask or a depth map of another one. Raises MissError with `on_miss="raise"`.
        """
        self._set_up()
        labels = [label for label in (label.present() for label in labels) if label]
        compute = self._compute if len(images) == 1 else None
        found: list[Replacement] = []
        kept: list[_Kept] = []
        for image, numbers, key in zip(images, draws, keys, strict=True):
            try:
                found.append(self._replaced(image, numbers, labels, key, compute, attached, movable))
            except _Kept as outcome:
                kept.append(outcome)
        misses = [reason for reason in kept if isinstance(reason, _Miss)]
        if kept and (found or 0 < len(misses) < len(kept)):
            return self.doubt(
                f"{len(images)} images of which not every one can be replaced, such as a mask beside its image"
            )
        for reason in kept:
            self._watch.add(reason.outcome, reason.detail)
            if isinstance(reason, _Miss):
                self._note_miss(reason.name)
        for replacement in found:
            self._watch.add(HIT)
            if self.placement is not None and not replacement.movable:
                self.counts.add(UNMOVED)
        return Outcome(found, HIT) if found else Outcome([], kept[0].outcome, kept[0].detail)

    def look_up(
        self, image: Image, draws: Draws, labels: Sequence[Labels] = (), attached: Sequence[Labels] = ()
    ) -> Outcome:
        """As `replace`, of one image, but not counted: for callers that count for themselves."""
        self._set_up()
        labels = [label for label in (label.present() for label in labels) if label]
        try:
            return Outcome([self._replaced(image, draws, labels, None, self._compute, attached, True)], HIT)
        except _Kept as kept:
            return Outcome([], kept.outcome, kept.detail)

    def doubt(self, detail: str) -> Outcome:
        """Count a sample that stays unchanged because of something that is not understood."""
        return self._keep("doubtful", detail)

    def no_image(self, detail: str) -> Outcome:
        """Count a sample without an image."""
        return self._keep("no image", detail)

    def _set_up(self) -> None:
        if self._set_up_in != os.getpid():  # not in this process yet
            self._set_up_in = os.getpid()
            set_up()

    def _keep(self, outcome: str, detail: str) -> Outcome:
        self._watch.add(outcome, detail)
        return Outcome([], outcome, detail)

    def _replaced(
        self,
        image: Image,
        draws: Draws,
        labels: Sequence[Labels],
        key: str | None,
        compute: OnTheFly | None,
        attached: Sequence[Labels],
        movable: bool,
    ) -> Replacement:
        """A new background for one image. Raises _Kept."""
        keys = [image_key(image)] if key is None else self._keys(key)
        compute = compute if key is None else None
        original = getattr(key, "size", None)
        name, matte = self._matte(keys, key, image, compute, original)
        if matte.unusable:
            raise _Kept("unusable", matte.unusable)
        size = image.shape[:2]
        matte_here = fitted(matte, size) if was_resized(matte, size, original) else None
        if matte_here is None:
            raise _Kept("mismatched", f"an image of {size}, a matte of {matte.size}")
        if key is not None and self._order_checks:
            self._check_order(image, name, matte_here)
        widened = protected(matte_here, labels, image) if labels and self.protect_labels else matte_here
        if isinstance(widened, str):
            raise _Kept(f"protected: {widened}", explained(widened, labels, size))
        try:
            background, drawn = self._background(name, image, draws, compute)
        except _Miss:
            raise _Miss(name, "it has their mattes, but no background that they may have") from None
        move = None
        movable = movable and self.placement is not None and on_object(matte_here, [*labels, *attached])
        if movable and self.placement is not None:
            move = place(self.placement, widened, draws.placement)
        # Labelled pixels stay, byte for byte: neither a faded edge nor moved colors.
        exact = bool(labels) and self.protect_labels
        layer = object_layer(
            image,
            widened,
            background,
            blend="alpha" if exact else self._pick_blend(draws),
            harmonize=0.0 if exact else self.harmonize,
            matrix=None if move is None else move.matrix,
        )
        return Replacement(background, layer, move, movable, drawn)

    def _pick_blend(self, draws: Draws) -> Blend:
        return self.blend if isinstance(self.blend, str) else self._blends.pick(draws.blend)

    def _keys(self, key: str) -> list[str]:
        """The keys of a sample that carries its key or path."""
        return [key] if _KEY.fullmatch(key) else self.store.keys_at(key)

    def _matte(
        self, keys: list[str], key: str | None, image: Image, compute: OnTheFly | None, original: tuple[int, int] | None
    ) -> tuple[str, Matte]:
        """The matte of the key whose image had this one's shape. Raises _Miss."""
        found = self._mattes(keys)
        if not found and key is None and self._order_checks:
            self._check_order_of_miss(image, keys[0])
        if not found and compute is not None:
            compute.compute(image, keys[0])
            found = self._mattes(keys)
        if not found:
            raise _Miss(keys[0] if keys else os.path.abspath(str(key)))
        return next((pair for pair in found if was_resized(pair[1], image.shape[:2], original)), found[0])

    def _check_order(self, image: Image, key: str, matte: Matte) -> None:
        """Raise _Kept for an image under a key or path whose channels are in the order BGR."""
        if is_bgr(image, key, matte, self._reader):
            self._watch.say(BGR)
            raise _Kept("doubtful", BGR)
        self._order_checks -= 1

    def _check_order_of_miss(self, image: Image, key: str) -> None:
        """Raise _Miss, which says so, for an image that is found with its channels in the opposite order."""
        other = flipped(image)
        found = image_key(other)
        if found != key and self._mattes([found]):
            self._watch.say(BGR)
            raise _Miss(key, BGR)
        self._order_checks -= 1

    def _mattes(self, keys: list[str]) -> list[tuple[str, Matte]]:
        return [(key, matte) for key in keys if (matte := self._reader.get(MATTE, key)) is not None]

    def _background(self, key: str, image: Image, draws: Draws, compute: OnTheFly | None) -> tuple[Image, Drawn]:
        """A background of the image's size, in memory of its own, and which one it is. Raises _Miss."""
        source, artifact, relation = self.source.pick(draws.source)
        size = height, width = image.shape[:2]
        found = None if relation is None else self._other(artifact, relation, key, draws, size)
        # Its own are among those of any image.
        own = relation is None or (relation == "any" and found is None and artifact is not SCENE)
        if own:
            found = self._read(artifact, key, self.record.variants, draws, size)
            if found is None and compute is not None:
                compute.compute(image, key)
                found = self._read(artifact, key, self.record.variants, draws, size)
        if found is None and self.on_miss == "pool":
            own, found = False, self._other(artifact, "any", key, draws, size)
        if found is None:
            raise _Miss
        background, whose, variant = found
        if background.shape[:2] != (height, width):
            background = cover(background, height, width, draws.x, draws.y)
        if not own and draws.flip < self.source.flip:
            background = np.asarray(cv2.flip(background, 1))
        drawn = Drawn(source, whose, variant)
        return background if background.flags.writeable else background.copy(), drawn

    def _other(
        self, artifact: Artifact[Image], relation: Relation, key: str, draws: Draws, size: tuple[int, int]
    ) -> _Found | None:
        """The background or plate of another image, or a scene."""
        uniform, pool = draws.image, None if artifact is SCENE else self._pool
        if self._scenes and relation == "any" and artifact is not PLATE:
            share = len(self._scenes) / (len(self._scenes) + (0 if pool is None else len(pool)))
            if uniform >= share:
                uniform = (uniform - share) / (1 - share)
            elif (scene := self._scene(self._scenes, uniform / share, size)) is not None:
                return scene
        if pool is None:
            return None
        group = None if relation == "any" else self._reader.group(key)
        for other, variants in pool.draw(relation, group, uniform):
            found = self._read(artifact, other, variants, draws, size)
            if found is not None:
                return found
        return None

    def _scene(self, scenes: SceneIndex, uniform: float, size: tuple[int, int]) -> _Found | None:
        for fingerprint, key, variant in scenes.draw(uniform):
            found = self._reader.get(SCENE, key, variant, fingerprint=fingerprint, at_least=size)
            if found is not None:
                return found, key, variant
        return None

    def _read(
        self, artifact: Artifact[Image], key: str, variants: int, draws: Draws, size: tuple[int, int]
    ) -> _Found | None:
        """The image's plate, or one of its backgrounds."""
        if artifact is BACKGROUND:
            found = self._reader.any_variant(artifact, key, variants, draws.variant, at_least=size)
            return None if found is None else (found[0], key, found[1])
        plate = self._reader.get(artifact, key, at_least=size)
        return None if plate is None else (plate, key, None)

    def _note_miss(self, name: str) -> None:
        """Note an image, by its key or path, that the store lacks."""
        self.store.note_miss(self.record, name)
        if self.on_miss == "raise":
            raise MissError(
                f"{self.store} has no background for the image {name} with the recipe {self.record.name!r}: prewarm "
                "it, or check that no other transform runs before ReplaceBackground"
            )
