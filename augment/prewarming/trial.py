"""The first items of a stage: a fault that every item would meet ends the stage after a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from augment.errors import UnavailableError
from augment.prewarming.report import same_words
from augment.stages.calling import Work

T = TypeVar("T")

TRIES = 5  # witnesses that have to fail with the same words


class Trial:
    """Watches a stage until its first success. Until then its batches hold one item each.

    Only `witnesses`, items from all over the dataset, decide: neighbours often have the same fault of their own, such
    as all images of a class that has no masks.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._is_over = False
        self._failed: list[tuple[Work, str]] = []
        self._witnesses: set[tuple[str, int | None]] = set()

    @property
    def is_suspicious(self) -> bool:
        """Whether several items have failed with the same words, and none succeeded."""
        return not self._is_over and len(self._failed) >= TRIES

    def call(self, witness: Work) -> Work:
        """Make this work a witness."""
        self._witnesses.add(_name(witness))
        return witness

    def batches(self, works: Iterable[Work], size: int) -> Iterator[list[Work]]:
        """The works in batches of `size`, or of 1 as long as the trial lasts."""
        iterator = iter(works)
        while batch := list(islice(iterator, size if self._is_over else 1)):
            yield batch

    def note(self, computed: int, failed: Sequence[tuple[Work, str]]) -> None:
        """Note what came of a batch.

        Raises UnavailableError, with the words of the failures, if the witnesses and all others before them failed in
        the same way.
        """
        if self._is_over:
            return
        self._failed += failed
        if computed or len({same_words(reason) for _, reason in self._failed}) > 1:
            self._is_over = True
        elif sum(_name(work) in self._witnesses for work, _ in self._failed) >= TRIES:
            raise UnavailableError(
                f"{self.stage}: {self._failed[0][1]} (so for the first {len(self._failed)} items, taken from all over "
                "the dataset, and none succeeded: the others were not tried; finished work is kept)"
            )


def spread(items: Sequence[T]) -> list[T]:
    """The items with the first `TRIES` taken from all over the sequence; the others in order."""
    count = len(items)
    if count <= TRIES:
        return list(items)
    chosen = [n * (count - 1) // (TRIES - 1) for n in range(TRIES)]
    others = set(range(count)).difference(chosen)
    return [items[n] for n in [*chosen, *sorted(others)]]


def _name(work: Work) -> tuple[str, int | None]:
    return work.item.key, work.variant
