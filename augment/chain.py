"""Compute what the cache lacks, stage by stage, and keep it there with its provenance."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import xxhash

from augment.artifacts import Image, Matte, Prompt, Rejected, decode_image, encode_image
from augment.cache import Cache
from augment.composite import with_edge_colors
from augment.entries import Provenance, entry_name
from augment.errors import CorruptEntry, InputError, ItemFailed, RecipeError, StoreError, WeightsError
from augment.recipe import Recipe
from augment.stages import KINDS
from augment.stages.base import Item, Stage
from augment.store import FilledRecipe

logger = logging.getLogger(__name__)

ARTIFACTS = {"remove": "matte", "inpaint": "plate", "caption": "caption", "refine": "prompt", "generate": "background"}
NEEDS_IMAGE = ("remove", "inpaint")
PER_VARIANT = ("refine", "generate")

_PLATE_QUALITY = 95  # captioners and `plates` sources read it: a little above what backgrounds are kept at


@dataclass(frozen=True)
class Work:
    """One artifact to compute: of the image `key`, and for prompts and backgrounds of one `variant`.

    `item` holds the pixels where the stage needs them (see NEEDS_IMAGE).
    """

    key: str
    variant: int | None = None
    group: str | None = None
    source: str | None = None
    item: Item | None = None


@dataclass
class Outcome:
    """What came of a batch: how many artifacts, their bytes, what failed and why, how many seeds were rejected and
    why."""

    computed: int = 0
    nbytes: int = 0
    failed: list[tuple[Work, str]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)


Unit: TypeAlias = tuple[Work, tuple[Any, ...]]  # work, and the arguments that its stage takes for it


class Chain:
    """The five stages of a recipe over one cache. Computes only what is missing; a stage's failure stays with its
    item."""

    def __init__(self, recipe: Recipe, cache: Cache) -> None:
        self.recipe = recipe
        self.cache = cache
        self.fingerprints = recipe.fingerprints()

    def remember(self, variants: int) -> None:
        """Note in the cache that it is being filled with this recipe."""
        self.cache.remember(FilledRecipe(self.recipe.name, self.recipe.to_toml(), self.fingerprints, variants))

    def name(self, kind: str, key: str, variant: int | None = None) -> str:
        """The name under which the artifact of `kind` is stored."""
        return entry_name(ARTIFACTS[kind], self.fingerprints[kind], key, variant)

    def missing(self, kind: str, key: str, variants: int) -> list[int | None]:
        """The variants (`[None]` for a stage without variants) whose artifact is not in the cache, whole."""
        wanted: Sequence[int | None] = range(variants) if kind in PER_VARIANT else [None]
        return [variant for variant in wanted if self.cache.get(self.name(kind, key, variant)) is None]

    def artifact(self, kind: str, key: str, variant: int | None = None) -> Any:
        """What the stage of that kind made of an image, decoded, or None where it is not there (see ARTIFACTS)."""
        data = self.cache.get(self.name(kind, key, variant))
        try:
            return None if data is None else _DECODERS[kind](data)
        except CorruptEntry as error:  # whole by its checksum, and yet not of this format: written by other code
            logger.warning("%s: %s cannot be read: %s", self.cache, self.name(kind, key, variant), error)
            return None

    def run(self, kind: str, batch: Sequence[Work]) -> Outcome:
        """Run one stage over a batch that lacks its artifact, and keep what it makes.

        Raises RecipeError, WeightsError and StoreError, which no later item would escape; everything else is an item's
        failure.
        """
        outcome = Outcome()
        steps: dict[str, Callable[[Work], tuple[Any, ...]]] = {
            "remove": lambda work: (_item(work),),
            "inpaint": lambda work: (_item(work).image, self._needed("remove", work)),
            "caption": lambda work: (self._needed("inpaint", work),),
            "refine": lambda work: (
                self._needed("caption", work),
                work.group,
                work.variant,
                self._seed("refine", replace(work, variant=None)),  # the image's: refiners tell its variants apart
            ),
            "generate": lambda work: (
                self._needed("refine", work),
                self._needed("inpaint", work),
                self._needed("remove", work),
            ),
        }
        units: list[Unit] = []
        for work in batch:
            try:
                units.append((work, steps[kind](work)))
            except ItemFailed as error:
                outcome.failed.append((work, str(error)))
        if kind == "generate":
            self._generate(units, outcome)
            return outcome
        started = time.perf_counter()
        results = _call(self.recipe.stages[kind], units)
        seconds = (time.perf_counter() - started) / max(1, len(units))
        for (work, arguments), result in zip(units, results, strict=True):
            if isinstance(result, ItemFailed):
                outcome.failed.append((work, str(result)))
                continue
            provenance: Provenance = {"seconds": seconds}
            if kind == "refine":
                provenance |= {"caption": arguments[0], "seed": arguments[3]}
            if kind == "remove":
                result = with_edge_colors(result, _item(work).image)
            self._keep(kind, work, result, provenance, outcome)
        return outcome

    def complete(self, item: Item, variants: int = 1) -> Outcome:
        """Run every stage that one image lacks; an unusable matte or a failure ends it there."""
        total = Outcome()
        for kind in KINDS:
            batch = [
                Work(item.key, variant, item.group, item.source, item)
                for variant in self.missing(kind, item.key, variants)
            ]
            outcome = self.run(kind, batch)
            total.computed += outcome.computed
            total.nbytes += outcome.nbytes
            total.failed += outcome.failed
            total.rejected += outcome.rejected
            matte = self.artifact("remove", item.key)
            if outcome.failed or matte is None or matte.unusable:
                break
        return total

    def _generate(self, units: Sequence[Unit], outcome: Outcome) -> None:
        """Generate with the next seed whatever is rejected, at most `retries` times (invariant 3)."""
        pending = list(units)
        for attempt in range(self.recipe.retries + 1):
            if not pending:
                return
            seeded = [(work, (*arguments, self._seed("generate", work, attempt))) for work, arguments in pending]
            started = time.perf_counter()
            results = _call(self.recipe.generate, seeded)
            seconds = (time.perf_counter() - started) / len(seeded)
            again = []
            for unit, (work, arguments), result in zip(pending, seeded, results, strict=True):
                if isinstance(result, ItemFailed):
                    outcome.failed.append((work, str(result)))
                    continue
                prompt, plate, _, seed = arguments
                reason = result.reason if isinstance(result, Rejected) else flaw(result, plate.shape)
                if reason is None:
                    texts = {"prompt": prompt.text, "negative": prompt.negative, "origin": prompt.origin}
                    provenance = {"seconds": seconds, "seed": seed, "attempt": attempt, "prompt": texts}
                    self._keep("generate", work, result, provenance, outcome)
                    continue
                outcome.rejected[reason] += 1
                if attempt < self.recipe.retries:
                    again.append(unit)
                else:
                    outcome.failed.append((work, f"rejected {attempt + 1} times, at last because it is {reason}"))
            pending = again

    def _keep(self, kind: str, work: Work, artifact: Any, provenance: Provenance, outcome: Outcome) -> None:
        stage = self.recipe.stages[kind]
        provenance = provenance | {
            "recipe": self.recipe.name,
            "backend": stage.backend,
            "version": stage.version,
            "settings": self.recipe.to_dict()[kind],
            "source": work.source,
            "group": work.group,
        }
        data = _ENCODERS[kind](artifact, self.cache)
        outcome.nbytes += self.cache.put(self.name(kind, work.key, work.variant), data, provenance)
        outcome.computed += 1

    def _seed(self, kind: str, work: Work, attempt: int = 0) -> int:
        """63 bits from (key, fingerprint, variant): the same on any machine, in any batch."""
        text = f"{work.key}/{self.fingerprints[kind]}/{work.variant}/{attempt}"
        return xxhash.xxh3_64_intdigest(text.encode()) >> 1

    def _needed(self, kind: str, work: Work) -> Any:
        """What an earlier stage made of this image. Raises ItemFailed where it made nothing."""
        variant = work.variant if kind in PER_VARIANT else None
        artifact = self.artifact(kind, work.key, variant)
        if artifact is None:
            raise ItemFailed(f"its {ARTIFACTS[kind]} is not in the cache")
        return artifact


def flaw(background: Image, shape: tuple[int, ...]) -> str | None:
    """Why a generated image cannot serve as a background, in a few words; None where it can."""
    if background.shape != shape or background.dtype != np.uint8:
        return f"{background.shape} {background.dtype} and not {shape} uint8"
    # Safety checkers and half-precision overflows both leave black; a diffusion model's failures are nearly flat.
    if int(background.max()) < 16:
        return "black"
    if float(background.std(axis=(0, 1)).max()) < 1.0:
        return "of one colour"
    return None


def _item(work: Work) -> Item:
    if work.item is None:
        raise InputError(f"the image {work.key} was handed to a stage without its pixels")
    return work.item


def _call(stage: Stage, units: Sequence[Unit]) -> list[Any]:
    """The stage's results, one a unit; where a batch breaks, each of its items is tried alone."""
    if not units:
        return []
    try:
        results = list(stage(*map(list, zip(*(arguments for _, arguments in units), strict=True))))  # type: ignore[operator]
    except (RecipeError, WeightsError, StoreError):
        raise
    except Exception as error:
        if len(units) == 1:
            logger.debug("%s failed", stage.backend, exc_info=True)
            return [error if isinstance(error, ItemFailed) else ItemFailed(f"{type(error).__name__}: {error}")]
        return [result for unit in units for result in _call(stage, [unit])]
    if len(results) != len(units):
        raise InputError(f"{type(stage).__name__} returned {len(results)} artifacts for {len(units)} items")
    return results


def _decode_text(data: memoryview) -> str:
    return bytes(data).decode()


_ENCODERS: dict[str, Callable[[Any, Cache], bytes]] = {
    "remove": lambda matte, _: matte.to_bytes(),
    "inpaint": lambda plate, _: encode_image(plate, "jpeg", _PLATE_QUALITY),
    "caption": lambda caption, _: caption.encode(),
    "refine": lambda prompt, _: prompt.to_bytes(),
    "generate": lambda background, cache: encode_image(background, cache.codec, cache.quality),
}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "remove": Matte.from_bytes,
    "inpaint": decode_image,
    "caption": _decode_text,
    "refine": Prompt.from_bytes,
    "generate": decode_image,
}
