"""Call a stage on a batch: item by item where the batch breaks, again with the next seed where a result is rejected."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import xxhash

from augment.artifacts import Image, Prompt, Rejected
from augment.errors import ItemFailed, RecipeError, StoreError, UnavailableError
from augment.stages.base import GROUP, RESULT, SEED, Detailed, Item, Stage, given_by_kind
from augment.stages.guard import Guard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """One artifact to compute: of an image and, for kinds that have them, of one of its variants."""

    item: Item
    variant: int | None = None


@dataclass(frozen=True, eq=False)
class Unit:
    """Work with the arguments that its stage is given for it, all but the seed.

    `inputs` is a digest of what decides on the result besides pixels and settings. `tried` is how many seeds have been
    tried before, whose results a person has rejected.
    """

    work: Work
    given: Mapping[str, Any]
    inputs: str = ""
    tried: int = 0


@dataclass(frozen=True, eq=False)
class Made:
    """What came of a unit: a result, or the reason why there is none; `rejected` are the reasons of its earlier tries.

    `notes` go into the result's provenance, `pictures` are images on the way to it.
    """

    unit: Unit
    result: Any = None
    failure: str | None = None
    rejected: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Image] = field(default_factory=dict)


@dataclass(frozen=True)
class StageCall:
    """A stage with everything that decides on its results. It knows no store, so an engine may run it anywhere.

    `judges` look at what a drawn kind makes, and what they reject is made again with the next seed, at most `retries`
    times. `fingerprint` is the stage's, of which seeds are made.
    """

    stage: Stage
    fingerprint: str
    judges: tuple[Guard, ...] = ()
    retries: int = 0

    @property
    def parallel(self) -> bool:
        """Whether batches may run in several threads at once."""
        return self.stage.parallel and not self.judges

    def unload(self) -> None:
        """Drop the models that calls have loaded."""
        for stage in (self.stage, *self.judges):
            stage.unload()

    def __call__(self, units: Sequence[Unit]) -> list[Made]:
        """One `Made` per unit, in order.

        Raises RecipeError, UnavailableError and StoreError, which would hit every item; any other error fails only its
        item.
        """
        made: dict[int, Made] = {}
        pending = dict(enumerate(units))
        rejected: dict[int, tuple[str, ...]] = dict.fromkeys(pending, ())
        for attempt in range(self.retries + 1):
            if not pending:
                break
            started = time.perf_counter()
            seeded = {n: self._seeded(unit, unit.tried + attempt) for n, unit in pending.items()}
            results = dict(zip(seeded, _call(self.stage, list(seeded.values())), strict=True))
            verdicts = self._verdicts(pending, seeded, results)
            seconds = (time.perf_counter() - started) / len(pending)
            for n, unit in list(pending.items()):
                verdict = verdicts[n]
                if isinstance(verdict, Rejected) and self.stage.kind.drawn:
                    rejected[n] += (verdict.reason,)
                    pending[n] = _avoiding(unit, verdict)
                    continue
                del pending[n]
                if isinstance(verdict, ItemFailed | Rejected):
                    reason = verdict.reason if isinstance(verdict, Rejected) else str(verdict)
                    made[n] = Made(units[n], failure=reason, rejected=rejected[n])
                else:
                    notes = {"seconds": seconds} | self._notes(unit.work, seeded[n], unit.tried + attempt, rejected[n])
                    detail = results[n]
                    pictures = dict(detail.pictures) if isinstance(detail, Detailed) else {}
                    notes |= detail.notes if isinstance(detail, Detailed) else {}
                    made[n] = Made(unit, verdict, rejected=rejected[n], notes=notes, pictures=pictures)
        for n in pending:
            reasons = rejected[n]
            why = f"rejected {len(reasons)} times, at last because it is {reasons[-1]}"
            made[n] = Made(units[n], failure=why, rejected=reasons)
        return [made[n] for n in range(len(units))]

    def _seeded(self, unit: Unit, attempt: int) -> dict[str, Any]:
        """The unit's arguments with its seed: 63 bits from (key, fingerprint, variant), the same on any machine."""
        variant = unit.work.variant if self.stage.kind.drawn else None
        text = f"{unit.work.item.key}/{self.fingerprint}/{variant}/{attempt}"
        seed = xxhash.xxh3_64_intdigest(text.encode()) >> 1
        seeds = {name: seed for name, need in given_by_kind(type(self.stage)).items() if need is SEED}
        return {**unit.given, **seeds}

    def _verdicts(
        self, units: Mapping[int, Unit], given: Mapping[int, Mapping[str, Any]], results: Mapping[int, Any]
    ) -> dict[int, Any]:
        """Each result as it can be kept, or why it cannot: Rejected or ItemFailed. Judges see what is fine so far."""
        finished = {n: _finished(self.stage, results[n], given[n]) for n in units}
        good = [n for n in units if not isinstance(finished[n], Rejected | ItemFailed)]
        for judge in self.judges:
            seen = [
                {
                    name: finished[n] if need is RESULT else units[n].work.item.group if need is GROUP else None
                    for name, need in given_by_kind(type(judge)).items()
                }
                for n in good
            ]
            for n, verdict in zip(good, _call(judge, seen), strict=True):
                if isinstance(verdict, Rejected | ItemFailed):
                    finished[n] = verdict
                elif verdict is not None:
                    what = type(verdict).__name__
                    finished[n] = ItemFailed(f"{type(judge).__name__} gave {what} and not None, Rejected or ItemFailed")
            good = [n for n in good if not isinstance(finished[n], Rejected | ItemFailed)]
        return finished

    def _notes(self, work: Work, given: Mapping[str, Any], attempt: int, rejected: tuple[str, ...]) -> dict[str, Any]:
        """What the provenance tells: the texts it was made from, the seed, and what the judges looked for."""
        notes: dict[str, Any] = {}
        for name, need in given_by_kind(type(self.stage)).items():
            if need is SEED:
                notes["seed"] = given[name]
            makes = getattr(need, "makes", None)
            if makes is not None and (text := makes.note(given[name])) is not None:
                notes[makes.name] = text
        if self.stage.kind.drawn:
            notes |= {"attempt": attempt, "rejected": list(rejected)}
        return notes | {judge.kind.name: judge.account(work.item.group) for judge in self.judges}


def _avoiding(unit: Unit, verdict: Rejected) -> Unit:
    """The unit for another try, its prompt without what it was rejected for."""
    if not verdict.avoid:
        return unit
    given = {n: v.avoiding(verdict.avoid) if isinstance(v, Prompt) else v for n, v in unit.given.items()}
    return replace(unit, given=given)


def _finished(stage: Stage, result: Any, given: Mapping[str, Any]) -> Any:
    if isinstance(result, Rejected | ItemFailed):
        return result
    try:
        return stage.finish(result.result if isinstance(result, Detailed) else result, given)
    except ItemFailed as error:
        return error
    except Exception as error:
        logger.debug("%s: a result cannot be used", stage.backend, exc_info=True)
        return ItemFailed(f"{type(error).__name__}: {error}")


def _call(stage: Stage, batch: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The stage's results, one per item; if the batch breaks, each of its items is tried on its own."""
    if not batch:
        return []
    try:
        results = list(stage(**{name: [given[name] for given in batch] for name in batch[0]}))
        if len(results) != len(batch):
            raise ItemFailed(f"{type(stage).__name__} returned {len(results)} results for {len(batch)} items")
        return results
    except (RecipeError, UnavailableError, StoreError):
        raise
    except (Exception, SystemExit) as error:  # some libraries exit where they should raise
        if len(batch) == 1:
            logger.debug("%s failed", stage.backend, exc_info=True)
            return [error if isinstance(error, ItemFailed) else ItemFailed(f"{type(error).__name__}: {error}")]
        return [result for given in batch for result in _call(stage, [given])]
