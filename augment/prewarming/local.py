"""Run a chain over a source on this machine, one stage after the other."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType

from augment.chain import NEEDS_IMAGE, PER_VARIANT, Chain, Outcome, Work
from augment.errors import StoreError
from augment.pools import PoolEntry
from augment.prewarming.progress import bar
from augment.prewarming.report import Report, StageReport
from augment.prewarming.source import Failure, Source, load
from augment.stages.base import Item

logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a prewarm: what was in hand is finished and kept. `report` says what is done."""

    def __init__(self, report: Report) -> None:
        super().__init__("interrupted")
        self.report = report


@dataclass(frozen=True)
class _Entry:
    """Where an image came from, so that it can be decoded again."""

    index: int
    source: str | None
    group: str | None


class LocalRun:
    """One prewarm. Stage by stage: each model is loaded once, used over everything that lacks its artifact, and
    freed."""

    def __init__(
        self,
        source: Source,
        chain: Chain,
        variants: int,
        workers: int,
        shown: bool,
        wanted: Set[str] | None = None,
    ) -> None:
        self.source, self.chain, self.variants, self.workers, self.shown = source, chain, variants, workers, shown
        self.wanted = wanted  # keys and paths, of which alone the images are computed; None: of all
        self.report = Report()
        self.entries: dict[str, _Entry] = {}  # by key: the same image in two places is computed once
        self.usable: dict[str, tuple[int, int]] = {}  # key to size
        self.coverage: dict[str, float] = {}  # of the usable ones
        self.failed: set[tuple[str, int | None]] = set()  # later stages leave these alone
        self.stopped = threading.Event()

    def run(self) -> Report:
        """Raises Interrupted, WeightsError, StoreError; whatever was computed until then is kept."""
        self.chain.remember(self.variants)
        with _stop_on_interrupt(self.stopped):
            for kind in self.chain.recipe.stages:
                if not self.stopped.is_set():
                    self._stage(kind)
        self._count_complete()
        if self.stopped.is_set():
            raise Interrupted(self.report)
        return self.report

    def _stage(self, kind: str) -> None:
        report = self.report.stages[kind] = StageReport()
        started = time.perf_counter()
        try:
            if kind == "remove":
                # What is missing takes every image's key, so removing goes with the one pass over all files.
                with bar(kind, len(self.source), self.shown) as shown:
                    self._compute(kind, self._scan(report, shown.advance), lambda _: None)
                self._sort_out()
            else:
                missing = self._missing(kind, report)
                with bar(kind, len(missing), self.shown) as shown:
                    self._compute(kind, self._with_images(missing) if kind in NEEDS_IMAGE else missing, shown.advance)
        finally:
            self.chain.unload(kind)
            report.seconds = time.perf_counter() - started

    def _scan(self, report: StageReport, advance: Callable[[int], None]) -> Iterator[Work]:
        """Every image's key, and what lacks a matte."""
        for loaded in load(self.source, workers=self.workers, needed=partial(_lacks_matte, self.chain)):
            if loaded.failure:
                self.report.failures.append(loaded.failure)
            for item in loaded.items:
                if item.key in self.entries or not self._is_wanted(item):
                    continue
                self.entries[item.key] = _Entry(loaded.index, item.source, item.group)
                if item.image.size:
                    yield Work(item.key, None, item.group, item.source, item)
                else:
                    report.found += 1
            advance(1)

    def _is_wanted(self, item: Item) -> bool:
        if self.wanted is None or item.key in self.wanted:
            return True
        return item.source is not None and os.path.abspath(item.source) in self.wanted

    def _sort_out(self) -> None:
        """Which mattes may be used."""
        self.report.images = len(self.entries)
        for key in self.entries:
            matte = self.chain.artifact("remove", key)
            if matte is not None and matte.unusable:
                # A reason's detail, after the colon, differs from image to image.
                self.report.unusable[matte.unusable.split(":")[0]] += 1
            elif matte is not None:
                self.usable[key] = matte.size
                self.coverage[key] = matte.coverage

    def _missing(self, kind: str, report: StageReport) -> list[Work]:
        """What lacks this stage's artifact, and had no failure before."""
        works = []
        # Ordered by size, since a model's batch holds images of one size.
        for key in sorted(self.usable, key=lambda key: self.usable[key]):
            if (key, None) in self.failed:
                continue
            entry = self.entries[key]
            variants = self.chain.missing(kind, key, self.variants)
            works += [Work(key, v, entry.group, entry.source) for v in variants if (key, v) not in self.failed]
            report.found += (self.variants if kind in PER_VARIANT else 1) - len(variants)
        return works

    def _with_images(self, works: list[Work]) -> Iterator[Work]:
        """The works with their images decoded again."""
        wanted = {work.key: work for work in works}
        for loaded in load(self.source, sorted({self.entries[key].index for key in wanted}), self.workers):
            if loaded.failure:
                self.report.failures.append(loaded.failure)
            for item in loaded.items:
                if item.key in wanted:
                    yield replace(wanted.pop(item.key), item=item)
        self.failed |= {(key, None) for key in wanted}  # the file changed or went since its key was taken

    def _compute(self, kind: str, works: Iterable[Work], advance: Callable[[int], None]) -> None:
        """Run the stage, batch by batch in one thread where it has a model, image by image in several where it has
        none."""
        stage = self.chain.recipe.stages[kind]
        parallel = self.chain.parallel(kind)
        threads = max(1, self.workers) if parallel else 1
        pending: set[Future[Outcome]] = set()
        with ThreadPoolExecutor(threads, thread_name_prefix=f"augment-{kind}") as pool:
            for batch in _batches(works, 1 if parallel else stage.batch):
                if self.stopped.is_set():
                    break
                pending.add(pool.submit(self.chain.run, kind, batch))
                if len(pending) > threads:  # one batch is decoded ahead of those at work
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    self._note(kind, done, advance)
            self._note(kind, pending, advance)

    def _note(self, kind: str, done: Iterable[Future[Outcome]], advance: Callable[[int], None]) -> None:
        report = self.report.stages[kind]
        for future in done:
            outcome = future.result()
            report.computed += outcome.computed
            report.nbytes += outcome.nbytes
            report.rejected += outcome.rejected
            for work, reason in outcome.failed:
                self.failed.add((work.key, work.variant))
                where = work.source or work.key
                name = where if work.variant is None else f"{where} (variant {work.variant})"
                self.report.failures.append(Failure(name, kind, reason))
            advance(outcome.computed + len(outcome.failed))

    def _count_complete(self) -> None:
        complete = {key for key in self.usable if not self.chain.missing(self.chain.final, key, self.variants)}
        self.report.complete = len(complete)
        self._index(complete)
        broken = {key for key, _ in self.failed}
        if not self.stopped.is_set() and (gone := self.usable.keys() - complete - broken):
            logger.warning(
                "%d images lost their backgrounds again to the size limit of %s: raise its size_limit",
                len(gone),
                self.chain.cache,
            )

    def _index(self, complete: set[str]) -> None:
        """Let other images draw from those that are complete, and strike from the misses what is none any more."""
        cache, filled = self.chain.cache, self.chain.filled(self.variants)
        group_of = {key: self.entries[key].group for key in complete}
        cache.add_to_pool(
            filled, {key: PoolEntry(group_of[key], self.coverage[key], self.variants) for key in complete}
        )
        # A Dataset's item that has no path is called by its number.
        paths = [(e.source, key) for key, e in self.entries.items() if e.source and Path(e.source).suffix]
        cache.add_paths(paths)
        unusable = self.entries.keys() - self.usable.keys() - {key for key, _ in self.failed}
        settled = complete | unusable
        cache.misses(filled).remove(settled | {os.path.abspath(path) for path, key in paths if key in settled})


def _lacks_matte(chain: Chain, key: str) -> bool:
    """Asked in a process that decodes; what is wrong with the cache is for the main process to meet and to say."""
    try:
        return bool(chain.missing("remove", key, 1))
    except StoreError:
        return True


def _batches(works: Iterable[Work], size: int) -> Iterator[list[Work]]:
    iterator = iter(works)
    while batch := list(islice(iterator, size)):
        yield batch


@contextmanager
def _stop_on_interrupt(stopped: threading.Event) -> Iterator[None]:
    """The first Ctrl-C asks for a stop after the item in hand, a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
