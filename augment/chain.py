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
from augment.stages.base import Item, Stage
from augment.stages.enrich import Enriched
from augment.stages.guard import ShowsClass
from augment.store import FilledRecipe

logger = logging.getLogger(__name__)

ARTIFACTS = {
    "remove": "matte",
    "inpaint": "plate",
    "caption": "caption",
    "refine": "prompt",
    "generate": "background",
    "enrich": "background",  # a later one, under a fingerprint of its own
}
NEEDS_IMAGE = ("remove", "inpaint")
PER_VARIANT = ("refine", "generate", "enrich")
GUARDED = ("generate", "enrich")

# Where a stage's arguments hold the prompt, and an image of the size that its result must have.
_PROMPT = {"generate": 0, "enrich": 1}
_SCENE = {"generate": 1, "enrich": 0}

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
    """The stages of a recipe over one cache. Computes only what is missing; a stage's failure stays with its item.

    `final` is the kind of stage whose backgrounds are the ones to use: "enrich" where the recipe has it.
    """

    def __init__(self, recipe: Recipe, cache: Cache) -> None:
        self.recipe = recipe
        self.cache = cache
        self.fingerprints = recipe.fingerprints()
        self.final = list(self.fingerprints)[-1]

    def check(self) -> None:
        """Raise WeightsError where a library, weights or a server that this recipe needs is missing; loads no model."""
        for stage in self.recipe.everything.values():
            stage.check()

    def parallel(self, kind: str) -> bool:
        """Whether batches of that stage may run in several threads at once."""
        return self.recipe.stages[kind].parallel and not (self.recipe.guard and kind in GUARDED)

    def unload(self, kind: str) -> None:
        """Drop the models that `run` has loaded for that stage."""
        self.recipe.stages[kind].unload()
        if self.recipe.guard and kind in GUARDED:
            self.recipe.guard.unload()

    def remember(self, variants: int) -> None:
        """Note in the cache that it is being filled with this recipe."""
        self.cache.remember(self.filled(variants))

    def filled(self, variants: int) -> FilledRecipe:
        """This recipe as a store remembers it."""
        fingerprints = self.fingerprints | {"generate": self.recipe.background}
        return FilledRecipe(self.recipe.name, self.recipe.to_toml(), fingerprints, variants)

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

    def steps(self, key: str, variant: int) -> list[tuple[str, Image]]:
        """The image after each object that the enrichment repainted, by round and label ("1-person-2"), in order.

        Empty where there was no enrichment, or it did not keep its steps.
        """
        if self.final != "enrich":
            return []
        name = self.name("enrich", key, variant)
        records = (self.cache.provenance(name) or {}).get("enrich", [])
        found = [(record["step"], self.cache.get(_step_name(name, record["step"]))) for record in records]
        return [(step, decode_image(data)) for step, data in found if data is not None]

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
            "enrich": lambda work: (
                self._needed("generate", work),
                self._needed("refine", work),
                work.group if work.group is not None else getattr(self.recipe.guard, "group", None),
            ),
        }
        units: list[Unit] = []
        for work in batch:
            try:
                units.append((work, steps[kind](work)))
            except ItemFailed as error:
                outcome.failed.append((work, str(error)))
        if kind in GUARDED:
            self._draw(kind, units, outcome)
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
        for kind in self.recipe.stages:
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

    def _draw(self, kind: str, units: Sequence[Unit], outcome: Outcome) -> None:
        """Make with the next seed whatever is rejected, at most `retries` times (invariant 3)."""
        pending: list[tuple[Unit, list[str]]] = [(unit, []) for unit in units]  # and why it was rejected so far
        for attempt in range(self.recipe.retries + 1):
            if not pending:
                return
            seeded = [(work, (*arguments, self._seed(kind, work, attempt))) for (work, arguments), _ in pending]
            started = time.perf_counter()
            results = _call(self.recipe.stages[kind], seeded)
            verdicts = self._verdicts(kind, seeded, results)
            seconds = (time.perf_counter() - started) / len(seeded)
            again = []
            for (work, arguments), (_, reasons), result, verdict in zip(
                seeded, pending, results, verdicts, strict=True
            ):
                if isinstance(verdict, ItemFailed):
                    outcome.failed.append((work, str(verdict)))
                elif verdict is None:
                    account = {"seconds": seconds, "seed": arguments[-1], "attempt": attempt, "rejected": reasons}
                    self._keep_drawn(kind, work, arguments[_PROMPT[kind]], result, account, outcome)
                else:
                    outcome.rejected[verdict.reason] += 1
                    again.append(((work, _avoiding(kind, arguments[:-1], verdict)), [*reasons, verdict.reason]))
            pending = again
        for (work, _), reasons in pending:
            outcome.failed.append((work, f"rejected {len(reasons)} times, at last because it is {reasons[-1]}"))

    def _verdicts(self, kind: str, units: Sequence[Unit], results: Sequence[Any]) -> list[Rejected | ItemFailed | None]:
        """Why each result cannot serve as a background; None where it can. The guard sees what is else in order."""
        verdicts: list[Rejected | ItemFailed | None] = []
        for (_, arguments), result in zip(units, results, strict=True):
            if isinstance(result, Rejected | ItemFailed):
                verdicts.append(result)
            else:
                reason = flaw(_image(result), arguments[_SCENE[kind]].shape)
                verdicts.append(None if reason is None else Rejected(reason))
        if self.recipe.guard:
            good = [n for n, verdict in enumerate(verdicts) if verdict is None]
            seen: list[Unit] = [(units[n][0], (_image(results[n]), units[n][0].group)) for n in good]
            for n, verdict in zip(good, _call(self.recipe.guard, seen), strict=True):
                verdicts[n] = verdict
        return verdicts

    def _keep_drawn(
        self, kind: str, work: Work, prompt: Prompt, result: Any, account: Provenance, outcome: Outcome
    ) -> None:
        """Keep a background with its prompt, what the guard looked for, and what the enrichment did."""
        account |= {"prompt": {"prompt": prompt.text, "negative": prompt.negative, "origin": prompt.origin}}
        if self.recipe.guard:
            guard: Any = self.recipe.guard
            account |= {"guard": guard.labels(work.group)}
        if isinstance(result, Enriched):
            account |= {"enrich": [step.record() for step in result.steps]}
            for step in result.steps:
                if step.image is not None:
                    name = _step_name(self.name(kind, work.key, work.variant), step.name)
                    outcome.nbytes += self.cache.put(name, encode_image(step.image, "jpeg", _PLATE_QUALITY), {})
        self._keep(kind, work, _image(result), account, outcome)

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


def _image(result: Any) -> Any:
    return result.image if isinstance(result, Enriched) else result


def _avoiding(kind: str, arguments: tuple[Any, ...], verdict: Rejected) -> tuple[Any, ...]:
    """The arguments for another try; where the guard saw the object's class, with that in the negative prompt."""
    if not isinstance(verdict, ShowsClass):
        return arguments
    changed = list(arguments)
    prompt: Prompt = changed[_PROMPT[kind]]
    named = [part.strip() for part in prompt.negative.split(",")]
    new = [label for label in verdict.labels if label not in named]
    changed[_PROMPT[kind]] = replace(prompt, negative=", ".join(filter(None, [*new, prompt.negative])))
    return tuple(changed)


def _step_name(background: str, step: str) -> str:
    """Where the image after one step of an enrichment is stored, by its background's name and its own."""
    return f"step/{background.partition('/')[2]}/{step}"


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
    "enrich": lambda background, cache: encode_image(background, cache.codec, cache.quality),
}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "remove": Matte.from_bytes,
    "inpaint": decode_image,
    "caption": _decode_text,
    "refine": Prompt.from_bytes,
    "generate": decode_image,
    "enrich": decode_image,
}
