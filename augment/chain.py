"""Compute what a cache lacks of a recipe's artifacts, kind by kind, and keep it there with its provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from augment.artifacts import STEP
from augment.errors import CacheFullError, InputError, ItemFailed
from augment.recipe import Recipe, to_table
from augment.stages.base import GROUP, IMAGE, SEED, VARIANT, Fact, Item, Kind, digest, given_by_kind
from augment.stages.calling import Made, StageCall, Unit, Work
from augment.store.cache import Cache
from augment.store.entries import Provenance
from augment.store.reader import Reader, rejection_name, step_name

T = TypeVar("T")


@dataclass
class Outcome:
    """What came of a batch: how many artifacts, their bytes, what failed and why, how many seeds were rejected and
    why."""

    computed: int = 0
    nbytes: int = 0
    failed: list[tuple[Work, str]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)  # see `Artifact.remark`

    def add(self, other: Outcome) -> None:
        """Count what came of another batch too."""
        self.computed += other.computed
        self.nbytes += other.nbytes
        self.failed += other.failed
        self.rejected += other.rejected
        self.remarks += other.remarks


class Chain:
    """The stages of a recipe over one cache. Computes only what is missing; a stage's failure stays with its item.

    `kinds` are those that make an artifact, in the order in which they run; `final` is the last one that makes
    backgrounds: those are the ones to use.
    """

    def __init__(self, recipe: Recipe, cache: Cache) -> None:
        self.recipe = recipe
        self.cache = cache
        self.fingerprints = recipe.fingerprints()
        self.kinds: list[Kind[Any]] = [stage.kind for stage in recipe.makers.values()]
        self.final = recipe.final
        self.reader = Reader(cache, recipe.record(variants=1))

    def check(self) -> None:
        """Raise UnavailableError if a library, weights or a server that this recipe needs is missing; loads no
        model."""
        for stage in self.recipe.all_stages.values():
            stage.check()

    def call(self, kind: Kind[Any]) -> StageCall:
        """The stage of that kind, ready to be called on what `load` gives."""
        return self._calls[kind.name]

    def add_record(self, variants: int) -> None:
        """Note in the cache that it is being filled with this recipe."""
        self.cache.add_record(self.recipe.record(variants))

    def name(self, kind: Kind[Any], key: str, variant: int | None = None) -> str:
        """The name under which the artifact of that kind is stored."""
        assert kind.makes is not None
        return self.reader.name(kind.makes, key, variant, fingerprint=self.fingerprints[kind.name])

    def artifact(self, kind: Kind[T], key: str, variant: int | None = None) -> T | None:
        """What the stage of that kind made of an image, decoded, or None if it is not there."""
        assert kind.makes is not None
        return self.reader.get(kind.makes, key, variant, fingerprint=self.fingerprints[kind.name])

    def read(self, item: Item) -> Item:
        """The item with a digest of what each stage reads of it besides its pixels."""
        if item.group is None:  # then what an earlier prewarm was told still holds
            item = replace(item, group=self.reader.group(item.key))
        return replace(item, reads={kind.name: self._reads(kind, item) for kind in self.kinds})

    def inputs(self, item: Item) -> dict[str, str]:
        """For each kind, a digest of what its stage, and those whose artifacts it is given, read of the item."""
        assert item.reads is not None
        found = self._inputs_given(item)
        for kind in self.kinds:
            needed = [found[need.name] for need in self._given(kind).values() if isinstance(need, Kind)]
            found[kind.name] = _joined(item.reads[kind.name], needed)
        return found

    def missing(self, kind: Kind[Any], key: str, variants: int, inputs: str | None = None) -> list[int | None]:
        """The variants (`[None]` for a kind without variants) whose artifact the cache lacks.

        With `inputs`, an artifact that was made from other ones is missing too.
        """
        wanted: Sequence[int | None] = range(variants) if kind.per_variant else [None]
        return [variant for variant in wanted if not self._is_there(self.name(kind, key, variant), inputs)]

    def load(self, kind: Kind[Any], batch: Sequence[Work]) -> tuple[list[Unit], Outcome]:
        """The arguments of a stage for a batch, and what failed because an earlier artifact is not there."""
        units, outcome = [], Outcome()
        for work in batch:
            try:
                units.append(self._unit(kind, work))
            except ItemFailed as error:
                outcome.failed.append((work, str(error)))
        return units, outcome

    def keep(self, kind: Kind[Any], made: Sequence[Made]) -> Outcome:
        """Store what a stage made."""
        outcome = Outcome()
        for one in made:
            work = one.unit.work
            outcome.rejected.update(one.rejected)
            if one.failure is not None:
                outcome.failed.append((work, one.failure))
                continue
            assert kind.makes is not None
            try:
                data = kind.makes.encode(one.result, self.cache.image_format)
            except Exception as error:  # a result that its codec cannot take, such as an image of 70,000 pixels as JPEG
                outcome.failed.append((work, f"it cannot be kept: {type(error).__name__}: {error}"))
                continue
            try:
                outcome.nbytes += self._put(kind, one, data)
            except CacheFullError as error:
                outcome.failed.append((work, str(error)))
                continue
            outcome.computed += 1
            if remark := kind.makes.remark(one.result):
                outcome.remarks[remark] += 1
        return outcome

    def _put(self, kind: Kind[Any], made: Made, data: bytes) -> int:
        """Keep an artifact, and the pictures on the way to it; returns the bytes written."""
        work, stage, nbytes = made.unit.work, self.recipe.stages[kind.name], 0
        name = self.name(kind, work.item.key, work.variant)
        for step, picture in made.pictures.items():
            nbytes += self.cache.put(step_name(name, step), STEP.encode(picture, self.cache.image_format), {})
        provenance: Provenance = {
            **made.notes,
            "pictures": list(made.pictures),
            "inputs": made.unit.inputs,
            "recipe": self.recipe.name,
            "backend": stage.backend,
            "version": stage.version,
            "settings": to_table(stage),
            "source": work.item.source,
            "group": work.item.group,
        }
        return nbytes + self.cache.put(name, data, provenance)

    def run(
        self, kind: Kind[Any], batch: Sequence[Work], call: Callable[[Sequence[Unit]], list[Made]] | None = None
    ) -> Outcome:
        """Run one stage over a batch that lacks its artifact, and keep what it makes; `call` calls it, if given.

        Raises RecipeError, UnavailableError and StoreError, which would hit every item; any other error fails only its
        item.
        """
        units, outcome = self.load(kind, batch)
        outcome.add(self.keep(kind, (call or self.call(kind))(units)))
        return outcome

    def complete(self, item: Item, variants: int = 1) -> Outcome:
        """Run every stage that one image lacks; an unusable artifact or a failure ends it there."""
        total = Outcome()
        for kind in self.kinds:
            total.add(self.run(kind, [Work(item, variant) for variant in self.missing(kind, item.key, variants)]))
            if total.failed or (not kind.per_variant and self.verdict(kind, item.key)):
                break
        return total

    def verdict(self, kind: Kind[Any], key: str) -> str | None:
        """Why nothing may be made from the artifact of that kind; None if something may. An artifact that is not there
        has none."""
        assert kind.makes is not None
        artifact = self.artifact(kind, key)
        return None if artifact is None else kind.makes.verdict(artifact)

    @cached_property
    def _calls(self) -> dict[str, StageCall]:
        judges = tuple(self.recipe.judges.values())
        return {
            name: StageCall(stage, self.fingerprints[name], judges, self.recipe.retries)
            if stage.kind.drawn
            else StageCall(stage, self.fingerprints[name])
            for name, stage in self.recipe.makers.items()
        }

    def _given(self, kind: Kind[Any]) -> Mapping[str, Kind[Any] | Fact]:
        return given_by_kind(type(self.recipe.stages[kind.name]))

    def _reads(self, kind: Kind[Any], item: Item) -> str:
        return self.recipe.stages[kind.name].reads(replace(item, group=self._group(item)))

    def _inputs_given(self, item: Item) -> dict[str, str]:
        """What `inputs` knows before the first kind: of kinds that this chain does not run, whose artifacts it has from
        elsewhere."""
        return {}

    def _group(self, item: Item) -> str | None:
        """The item's group, or the one that its recipe's judges have for items without one."""
        groups = [item.group, *(judge.group for judge in self.recipe.judges.values())]
        return next((group for group in groups if group is not None), None)

    def _is_there(self, name: str, inputs: str | None) -> bool:
        if inputs is None:
            return self.cache.entry(name) is not None
        provenance = self.cache.provenance(name)
        return provenance is not None and provenance.get("inputs", "") == inputs

    def _unit(self, kind: Kind[Any], work: Work) -> Unit:
        given: dict[str, Any] = {}
        needed = []
        for name, need in self._given(kind).items():
            if isinstance(need, Kind):
                given[name], inputs = self._needed(need, work)
                needed.append(inputs)
            elif need is VARIANT:
                given[name] = work.variant
            elif need is GROUP:
                given[name] = self._group(work.item)
            elif need is not SEED:
                given[name] = getattr(work.item, need.name)
            if need is IMAGE and work.item.image is None:
                raise InputError(f"the image {work.item.key} was handed to a stage without its pixels")
        own = self._reads(kind, work.item) if work.item.reads is None else work.item.reads[kind.name]
        tried = self._tried(self.name(kind, work.item.key, work.variant)) if kind.drawn else 0
        return Unit(work, given, _joined(own, needed), tried)

    def _tried(self, name: str) -> int:
        """How many seeds a person has rejected for the artifact of that name."""
        note = self.cache.provenance(rejection_name(name)) or {}
        tried = note.get("tried")
        return tried if type(tried) is int and tried > 0 else 0

    def _needed(self, kind: Kind[T], work: Work) -> tuple[T, str]:
        """What an earlier stage made of this image, and what that was made from. Raises ItemFailed if it made
        nothing."""
        assert kind.makes is not None
        variant = work.variant if kind.per_variant else None
        fingerprint = self.fingerprints[kind.name]
        found = self.reader.find(kind.makes, work.item.key, variant, fingerprint=fingerprint)
        if found is None:
            raise ItemFailed(f"its {kind.makes.name} is not in the cache")
        return found[0], str(found[1].get("inputs", ""))


def _joined(own: str, needed: Sequence[str]) -> str:
    """A digest of what a stage reads itself and of what its arguments were made from; "" for nothing."""
    if not own and not any(needed):
        return ""
    return digest({"own": own} | {str(n): inputs for n, inputs in enumerate(needed)})
