"""Which of the wanted scenes are missing from a cache, and the results of making them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from augment.artifacts import BACKGROUND, PLATE, PROMPT, Prompt
from augment.chain import Chain, Outcome
from augment.errors import RecipeError
from augment.keys import scene_key
from augment.prewarming.plan import Plan
from augment.prewarming.report import Report
from augment.prewarming.source import Source
from augment.prewarming.trial import TRIES
from augment.recipe import Recipe
from augment.stages.base import GROUP, SEED, VARIANT, Item, Kind, Stage, digest, given_by_kind
from augment.stages.calling import Work
from augment.stages.generate import Generator
from augment.stages.refine.worded import Worded, joined
from augment.store.cache import Cache
from augment.store.entries import Provenance
from augment.store.reader import SceneReader, step_name
from augment.store.scenes import SceneName

NEGATIVE = "text, watermark, blurry, low quality"  # unless the recipe's refiner has one; a scene may show people


class SceneChain(Chain):
    """Those stages of a recipe that make backgrounds. They are given the user's prompts, and a blank plate of `size`
    (height, width).

    Raises RecipeError if one of them needs an image.
    """

    def __init__(self, recipe: Recipe, cache: Cache, size: tuple[int, int]) -> None:
        super().__init__(recipe, cache)
        self.plate = np.full((*size, 3), 127, np.uint8)
        self.kinds = [kind for kind in self.kinds if kind.makes is BACKGROUND]
        given = {}
        for name, stage in recipe.makers.items():
            if stage.kind not in self.kinds:
                given[name] = f"blank {self.plate.shape}" if stage.kind.makes is PLATE else ""
            elif reason := _unfit(stage):
                raise RecipeError(
                    f"recipe {recipe.name!r}: {name}.backend: {stage.backend!r} {reason}, and a scene is made from its "
                    "prompt alone: name a text-to-image generator, such as diffusers or webui"
                )
        self.fingerprints = recipe.fingerprints(given)
        self.reader = SceneReader(cache, recipe.record(variants=1), self.fingerprints[self.final.name])

    def check(self) -> None:
        """Raise UnavailableError if a library, weights or a server that these stages need is missing; loads no
        model."""
        used = {kind.name for kind in self.kinds} | self.recipe.judges.keys()
        for name, stage in self.recipe.all_stages.items():
            if name.partition(".")[0] in used:
                stage.check()

    def has(self, kind: Kind[Any], work: Work, inputs: str) -> bool:
        """Whether the cache has what the stage of that kind makes, made from these inputs."""
        return self._is_there(self.name(kind, work.item.key, work.variant), inputs)

    def account(self, kind: Kind[Any], work: Work) -> Provenance:
        """How the stage of that kind made a scene or its draft; empty if it did not."""
        return self.cache.provenance(self.name(kind, work.item.key, work.variant)) or {}

    def _prompt(self, item: Item) -> Prompt:
        """The item's prompt with the prefix, suffix and negative prompt of the recipe's refiner."""
        refiner, text = self.recipe.stages["refine"], item.source or ""
        if not isinstance(refiner, Worded):
            return Prompt(text, NEGATIVE)
        negative = NEGATIVE if refiner.negative is None else refiner.negative
        return Prompt(joined(refiner.prefix, text, refiner.suffix), negative)

    def _inputs_given(self, item: Item) -> dict[str, str]:
        prompt = digest({"prompt": self._prompt(item).to_bytes()})
        others = {name: stage.kind for name, stage in self.recipe.makers.items() if stage.kind not in self.kinds}
        return {name: prompt if kind.makes is PROMPT else "" for name, kind in others.items()}

    def _needed(self, kind: Kind[Any], work: Work) -> tuple[Any, str]:
        if kind in self.kinds:
            return super()._needed(kind, work)
        return (
            self._prompt(work.item) if kind.makes is PROMPT else self.plate,
            self._inputs_given(work.item)[kind.name],
        )


class ScenePlan(Plan):
    """`count` scenes, spread over the prompts: the first of each prompt, then the second, and so on.

    `keep_steps` says that the pictures on the way to a scene are wanted too.
    """

    chain: SceneChain

    def __init__(self, chain: SceneChain, prompts: Sequence[str], count: int, keep_steps: bool) -> None:
        super().__init__(Source((), None), chain, variants=1, workers=1)
        self.report = Report(what="scenes", images=count)
        items = [chain.read(Item(None, scene_key(prompt), prompt)) for prompt in prompts]
        self.wanted_works = [Work(items[n % len(items)], n // len(items)) for n in range(count)]
        self._inputs = {item.key: chain.inputs(item) for item in items}
        self._keep_steps = keep_steps
        self._limited = _Room(self.wanted_works, self._names, self.is_made)

    def kinds(self) -> Iterator[Kind[Any]]:
        """The kinds in the order in which to run them."""
        self.chain.cache.mend()
        self.chain.cache.keeping = self._limited
        try:
            yield from self.chain.kinds
        finally:
            self.chain.cache.keeping = None

    def scans(self, kind: Kind[Any]) -> bool:
        """There are no files to pass over."""
        return False

    def works(self, kind: Kind[Any], advance: Callable[[int], None]) -> tuple[Iterator[Work], int]:
        """The scenes that are missing, of those the ones that lack this kind's artifact, and their number."""
        missing = [
            work
            for work in self.wanted_works
            if not self.is_made(work)
            and (work.item.key, work.variant) not in self._failed
            and (kind is self.chain.final or not self._has(kind, work))
        ]
        self.report.stages[kind.name].found = len(self.wanted_works) - len(missing)
        return self._until_full(kind, missing), len(missing)

    def note(self, kind: Kind[Any], outcome: Outcome) -> int:
        """Record the outcome of a batch; what the cache has no room for has not failed."""
        done = outcome.computed + len(outcome.failed)
        if self._limited.is_full:
            self._limited.given_up.update(work for work, _ in outcome.failed)
        outcome.failed = [one for one in outcome.failed if one[0] not in self._limited.given_up]
        super().note(kind, outcome)
        return done

    def finish(self, whole: bool) -> Report:
        """Count the scenes that are there, and put them into the cache's index."""
        made = [work for work in self.wanted_works if self.is_made(work)]
        self.report.complete = len(made)
        self.report.unfit = len(self._limited.given_up.difference(made))
        fingerprint = self.chain.fingerprints[self.chain.final.name]
        if self._limited.given_up:
            self.chain.cache.checkpoint()
        if made:
            self.chain.cache.add_scenes(SceneName(fingerprint, work.item.key, work.variant or 0) for work in made)
        return self.report

    def is_made(self, work: Work) -> bool:
        """Whether the scene is there, with the pictures on the way to it if they are wanted."""
        final = self.chain.final
        if not self._has(final, work):
            return False
        account = self.chain.account(final, work) if self._keep_steps else {}
        return bool(account.get("pictures")) or not account.get("steps")

    def _has(self, kind: Kind[Any], work: Work) -> bool:
        return self.chain.has(kind, work, self._inputs[work.item.key][kind.name])

    def _until_full(self, kind: Kind[Any], works: Sequence[Work]) -> Iterator[Work]:
        for n, work in enumerate(works):
            if work not in self._limited.given_up:
                yield self._trials[kind.name].call(work) if n < TRIES else work

    def _names(self, work: Work) -> Iterator[str]:
        """The entries of a scene."""
        for kind in self.chain.kinds:
            name = self.chain.name(kind, work.item.key, work.variant)
            pictures = self.chain.account(kind, work).get("pictures")
            yield from (step_name(name, str(step)) for step in (pictures if isinstance(pictures, list) else []))
            yield name


class _Room:
    """What goes if a cache has no room for all scenes: nothing that it held before, and the last ones first."""

    def __init__(
        self, works: Sequence[Work], names: Callable[[Work], Iterable[str]], is_made: Callable[[Work], bool]
    ) -> None:
        self.given_up: set[Work] = set()
        self._last, self._names, self._is_made = list(works), names, is_made

    @property
    def is_full(self) -> bool:
        """Whether every scene that is not made has been given up."""
        return not self._last

    def keeps(self, fingerprint: str, key: str) -> bool:
        return True

    def has_given_up(self, key: str) -> bool:
        return False

    def give_up(self, own: str) -> Iterable[str]:
        """The entries of the last scene that is not made; none if all are."""
        while self._last:
            work = self._last.pop()
            if not self._is_made(work):
                self.given_up.add(work)
                return list(self._names(work))
        return []


def _unfit(stage: Stage) -> str | None:
    """Why a stage cannot make scenes; None if it can."""
    needs = given_by_kind(type(stage))
    known = (BACKGROUND, PROMPT, PLATE)
    others = [
        name
        for name, need in needs.items()
        if (need.makes not in known if isinstance(need, Kind) else need not in (GROUP, SEED, VARIANT))
    ]
    if others:
        return f"needs {' and '.join(others)}"
    if isinstance(stage, Generator) and stage.uses_plate:
        return "starts from a plate"
    if isinstance(stage, Generator) and "prompts" not in needs:
        return "does not read prompts"
    return None
