"""Which of a recipe's artifacts are missing for the images of a source, and the results of computing them.

The plan runs nothing itself: an engine asks it for the works of each kind, runs them, and reports the results back.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from augment.artifacts import MATTE
from augment.chain import Chain, Outcome
from augment.errors import StoreError
from augment.prewarming.report import Failure, Report, StageReport
from augment.prewarming.room import Room
from augment.prewarming.source import Loaded, Source, load
from augment.prewarming.trial import TRIES, Trial, spread
from augment.stages.base import IMAGE, Item, Kind, given_by_kind
from augment.stages.calling import Work
from augment.store.pool import PoolEntry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Entry:
    """An image of the source: the index of its entry, the item without its pixels, and, by kind, the inputs that its
    artifacts depend on besides pixels and settings."""

    index: int
    item: Item
    inputs: dict[str, str]


class Plan:
    """One prewarm, kind by kind: each model is loaded once, run on every image that lacks its artifact, and freed.

    `wanted` holds keys and paths; if given, only those images are computed.
    """

    def __init__(
        self, source: Source, chain: Chain, variants: int, workers: int, wanted: Set[str] | None = None
    ) -> None:
        self.source, self.chain, self.variants, self.workers, self.wanted = source, chain, variants, workers, wanted
        self.report = Report()
        self._entries: dict[str, _Entry] = {}  # by key: the same image in two places is computed once
        self._sizes: dict[str, tuple[int, int]] = {}  # of the usable images
        self._coverage: dict[str, float] = {}
        self._unusable: set[str] = set()
        self._failed: set[tuple[str, int | None]] = set()  # later kinds skip these
        self._trials: dict[str, Trial] = {}
        self._room = Room(chain, variants, self._is_done)

    def kinds(self) -> Iterator[Kind[Any]]:
        """The kinds in the order in which to run them."""
        self.chain.add_record(self.variants)
        self.chain.cache.mend()
        self._room.open(self.source.names, self._keys)
        self.chain.cache.keeping = self._room
        try:
            yield from self.chain.kinds
        finally:
            self.chain.cache.keeping = None

    @contextmanager
    def stage(self, kind: Kind[Any]) -> Iterator[None]:
        """Wraps the work on a kind: times it, frees its model, and finds out which images can be used."""
        report = self.report.stages[kind.name] = StageReport()
        self._trials[kind.name] = Trial(kind.name)
        started = time.perf_counter()
        try:
            yield
            if not kind.per_variant:
                self._sort_out(kind)
        finally:
            self.chain.call(kind).unload()
            report.seconds = time.perf_counter() - started

    def scans(self, kind: Kind[Any]) -> bool:
        """Whether the works of that kind come from the pass over all files, which calls `advance` itself."""
        return kind is self.chain.kinds[0]

    def works(self, kind: Kind[Any], advance: Callable[[int], None]) -> tuple[Iterator[Work], int]:
        """The works that lack this kind's artifact, and the number of steps of `advance` that they take.

        The first kind runs during the one pass over all files, because every image's key is needed to know what is
        missing. It calls `advance` itself, once per entry of the source.
        """
        if self.scans(kind):
            return self._scan(kind, advance), len(self.source)
        trial = self._trials[kind.name]
        missing = self._missing(kind)
        if self._needs_image(kind):
            return self._with_images(missing, trial), len(missing)
        missing = spread(missing)
        return (trial.call(work) if n < TRIES else work for n, work in enumerate(missing)), len(missing)

    def batches(self, kind: Kind[Any], works: Iterable[Work], size: int) -> Iterator[list[Work]]:
        """The works in batches of `size`; the first ones are smaller, to find out whether the stage works at all."""
        return self._trials[kind.name].batches(works, size)

    def note(self, kind: Kind[Any], outcome: Outcome) -> int:
        """Record the outcome of a batch; returns how many works are done.

        Raises UnavailableError once it is certain that the stage fails for every item; see `Trial`.
        """
        report = self.report.stages[kind.name]
        report.computed += outcome.computed
        report.nbytes += outcome.nbytes
        report.rejected += outcome.rejected
        report.remarks += outcome.remarks
        for work, reason in outcome.failed:
            self._failed.add((work.item.key, work.variant))
            if self._room.has_given_up(work.item.key):
                continue
            name = work.item.source or work.item.key
            self.report.failures.append(
                Failure(name if work.variant is None else f"{name} (variant {work.variant})", kind.name, reason)
            )
        failed = [one for one in outcome.failed if not self._room.has_given_up(one[0].item.key)]
        self._trials[kind.name].note(outcome.computed, failed)
        return outcome.computed + len(outcome.failed)

    def finish(self, whole: bool) -> Report:
        """Count the complete images and add them to the pool; `whole` is False if the work was stopped."""
        self._failed |= {(key, None) for key in self._room.given_up}
        complete = {key for key in self._sizes if self._is_complete(key)}
        self.report.unfit = self._room.close()
        self.report.complete = len(complete)
        self._index(complete)
        broken = {key for key, _ in self._failed}
        if whole and (gone := self._sizes.keys() - complete - broken):
            logger.warning(
                "%d images lost their backgrounds again because %s reached its size limit: raise its size_limit",
                len(gone),
                self.chain.cache,
            )
        return self.report

    def _is_complete(self, key: str) -> bool:
        """Whether an image has its matte and all its backgrounds: eviction by others may have taken either."""
        inputs = self._entries[key].inputs
        first, final = self.chain.kinds[0], self.chain.final
        return not any(self.chain.missing(kind, key, self.variants, inputs[kind.name]) for kind in (first, final))

    def _keys(self) -> set[str]:
        """The keys of all images, which takes decoding them."""
        loaded = load(self.source, workers=self.workers, prepare=_without_pixels)
        return {item.key for one in loaded for item in one.items}

    def _is_done(self, key: str) -> bool:
        """Whether nothing is left to be made of an image: it is complete, or must not be used."""
        return self._is_complete(key) or bool(self.chain.verdict(self.chain.kinds[0], key))

    def _scan(self, kind: Kind[Any], advance: Callable[[int], None]) -> Iterator[Work]:
        report, trial = self.report.stages[kind.name], self._trials[kind.name]
        prepare = partial(_prepare, self.chain, kind)
        has_witnesses = False
        for loaded in load(self.source, workers=self.workers, prepare=prepare):
            if trial.is_suspicious and not has_witnesses:
                has_witnesses = True
                for witness in load(self.source, spread(range(len(self.source)))[:TRIES], prepare=prepare):
                    yield from self._called_early(witness, trial)
            if loaded.failure:
                self.report.failures.append(loaded.failure)
            self.report.notes.update(loaded.notes)
            for item in loaded.items:
                if not self._is_wanted(item):
                    continue
                if item.key in self._entries:
                    self._note_twice(item)
                    continue
                without = replace(item, image=None, mask=None)
                self._entries[item.key] = _Entry(loaded.index, without, self.chain.inputs(item))
                if not self._room.admit(item.key):
                    continue
                if item.image is not None:
                    yield Work(item)
                else:
                    report.found += 1
            advance(1)
        self.report.images = len(self._entries)
        self.report.passed_over = self.source.passed_over

    def _called_early(self, loaded: Loaded, trial: Trial) -> Iterator[Work]:
        """The works of an entry that is a witness, before its turn; those that have been tried already count too."""
        for item in loaded.items:
            if item.image is None or not self._is_wanted(item):
                continue
            work = trial.call(Work(item))
            if item.key in self._entries:
                continue
            without = replace(item, image=None, mask=None)
            self._entries[item.key] = _Entry(loaded.index, without, self.chain.inputs(item))
            if self._room.admit(item.key):
                yield work

    def _note_twice(self, item: Item) -> None:
        """The same picture again; in another group one of the two labels is wrong."""
        first = self._entries[item.key].item
        if first.group != item.group and item.group is not None:
            self.report.duplicates.append(
                f"{first.source} ({first.group}) and {item.source} ({item.group}) are the same picture; the first "
                "group counts"
            )

    def _is_wanted(self, item: Item) -> bool:
        if self.wanted is None or item.key in self.wanted:
            return True
        return item.source is not None and os.path.abspath(item.source) in self.wanted

    def _sort_out(self, kind: Kind[Any]) -> None:
        """Find the images that can be used: their artifact of this kind exists and has no verdict against it."""
        makes = kind.makes
        if makes is not MATTE:
            return
        for key, entry in self._entries.items():
            fingerprint = self.chain.fingerprints[kind.name]
            found = self.chain.reader.find(MATTE, key, fingerprint=fingerprint)
            if found is None:
                continue
            matte, provenance = found
            if provenance.get("group") != entry.item.group:
                # The group is stored with the matte. A new group does not require a new matte.
                name = self.chain.name(kind, key)
                payload = MATTE.encode(matte, self.chain.cache.image_format)
                self.chain.cache.put(name, payload, provenance | {"group": entry.item.group})
            if reason := MATTE.verdict(matte):
                # The details after the colon differ from image to image.
                self._unusable.add(key)
                self.report.unusable[reason.split(":")[0]] += 1
                self.report.refused.append(Failure(entry.item.source or key, kind.name, reason))
            else:
                self._sizes[key] = matte.size
                self._coverage[key] = matte.coverage

    def _missing(self, kind: Kind[Any]) -> list[Work]:
        report, works = self.report.stages[kind.name], []
        # Ordered by size, because all images of a model's batch have the same size.
        for key in sorted(self._sizes, key=lambda key: self._sizes[key]):
            if (key, None) in self._failed:
                continue
            entry = self._entries[key]
            variants = self.chain.missing(kind, key, self.variants, entry.inputs[kind.name])
            works += [Work(entry.item, variant) for variant in variants if (key, variant) not in self._failed]
            report.found += (self.variants if kind.per_variant else 1) - len(variants)
        return works

    def _with_images(self, works: list[Work], trial: Trial) -> Iterator[Work]:
        """The works with their images decoded again."""
        wanted: dict[str, list[Work]] = {}
        for work in works:
            wanted.setdefault(work.item.key, []).append(work)
        indices = spread(sorted({self._entries[key].index for key in wanted}))
        for n, loaded in enumerate(load(self.source, indices, self.workers)):
            if loaded.failure:
                self.report.failures.append(loaded.failure)
            for item in loaded.items:
                for work in wanted.pop(item.key, []):
                    whole = replace(work, item=replace(work.item, image=item.image, mask=item.mask))
                    yield trial.call(whole) if n < TRIES else whole
        self._failed |= {(key, None) for key in wanted}  # the file was changed or deleted after its key was computed

    def _needs_image(self, kind: Kind[Any]) -> bool:
        """Whether its stage is given the images themselves, which have to be decoded again for it."""
        return IMAGE in given_by_kind(type(self.chain.call(kind).stage)).values()

    def _index(self, complete: set[str]) -> None:
        """Add the complete images to the pool, and remove images that are no longer misses from the store's list."""
        cache, record = self.chain.cache, self.chain.recipe.record(self.variants)
        entries = {
            key: PoolEntry(self._entries[key].item.group, self._coverage[key], self.variants) for key in complete
        }
        cache.add_to_pool(record, entries)
        # A Dataset's item without a path is named by its number.
        items = [entry.item for entry in self._entries.values()]
        paths = [(item.source, item.key) for item in items if item.source and Path(item.source).suffix]
        cache.add_paths(paths)
        settled = complete | self._unusable
        cache.misses(record).remove(settled | {os.path.abspath(path) for path, key in paths if key in settled})


def _without_pixels(item: Item) -> Item:
    return replace(item, image=None, mask=None)


def _prepare(chain: Chain, kind: Kind[Any], item: Item) -> Item:
    """In a decoding process: digest what stages read from an item; keep its pixels only if that kind needs them.

    Passing pixels between processes takes longer than decoding them.
    """
    try:
        item = chain.read(item)
        lacks = bool(chain.missing(kind, item.key, 1, chain.inputs(item)[kind.name]))
    except StoreError:  # the main process will hit it too, and report it
        return replace(item, reads=dict.fromkeys((kind.name for kind in chain.kinds), ""))
    return item if lacks else replace(item, image=None, mask=None)
