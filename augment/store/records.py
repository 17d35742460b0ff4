"""What a store offers to its readers, and its records of the recipes that it was filled with."""

from __future__ import annotations

import json
import logging
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import xxhash

from augment.artifacts import BACKGROUND
from augment.errors import CorruptEntry, StoreError
from augment.store.entries import Entry, Provenance
from augment.store.pool import MAX_VARIANTS, PoolIndex
from augment.store.scenes import SceneIndex

logger = logging.getLogger(__name__)

_FINGERPRINT = re.compile(r"[0-9A-Za-z]{1,64}")  # it becomes part of a file's name


@dataclass(frozen=True)
class Record:
    """A recipe that a store was filled with: enough to find its entries, and to compute more of them.

    `fingerprints` maps a stage's kind to its fingerprint; `artifacts` maps an artifact to the fingerprint of the stage
    whose artifacts are to be used: for backgrounds, the last one that makes some. `variants` is the largest number of
    backgrounds that an image was asked to have.
    """

    name: str
    toml: str
    fingerprints: dict[str, str]
    artifacts: dict[str, str]
    variants: int
    updated: float = field(default=0.0, compare=False)  # seconds since the epoch

    @property
    def background(self) -> str:
        """The fingerprint of the backgrounds to use."""
        return self.artifacts[BACKGROUND.name]

    def to_json(self) -> str:
        """The record as a file holds it."""
        found = asdict(self)
        return json.dumps(found | {"checksum": _checksum(found)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Fields that this version does not know are left out. Raises CorruptEntry if it is not a record."""
        try:
            found = json.loads(text)
            checksum = found.pop("checksum", None)  # records of earlier versions have none
            if checksum is not None and checksum != _checksum(found):
                raise ValueError("its checksum does not match")
            record = cls(**{f.name: found[f.name] for f in fields(cls) if f.name in found})
            tables = (record.fingerprints, record.artifacts)
            texts = [record.name, record.toml, *(text for table in tables for pair in table.items() for text in pair)]
            if not all(isinstance(text, str) for text in texts) or not record.background:
                raise ValueError("a field is not text")
            if not all(map(_FINGERPRINT.fullmatch, [*record.fingerprints.values(), *record.artifacts.values()])):
                raise ValueError("a fingerprint is not one")
            if type(record.variants) is not int or not 1 <= record.variants <= MAX_VARIANTS:
                raise ValueError(f"variants: {record.variants!r}")
            if type(record.updated) not in (int, float) or not math.isfinite(record.updated):
                raise ValueError(f"updated: {record.updated!r}")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise CorruptEntry(f"not a record of a recipe: {error!r}") from error
        return record


class Store(ABC):
    """Artifacts by name (see `augment.store.entries.entry_name`). Reading never writes.

    `augment.testing.StoreTests` is the suite of what every store promises.
    """

    def __init__(self) -> None:
        self._reported: set[str] = set()

    @property
    @abstractmethod
    def location(self) -> str:
        """Where it is: what `open_store` takes."""

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Every entry's name."""

    @abstractmethod
    def _find(self, name: str) -> Entry | None:
        """An entry, checked, or None. Raises CorruptEntry if it cannot be read."""

    @abstractmethod
    def recipes(self) -> list[Record]:
        """The recipes it was filled with, the latest last."""

    @abstractmethod
    def pool(self, record: Record) -> PoolIndex:
        """The images whose backgrounds may serve others."""

    @abstractmethod
    def scenes(self) -> SceneIndex:
        """The scenes, which may serve any image, whatever recipe made them; empty if there are none."""

    @abstractmethod
    def keys_at(self, path: str) -> list[str]:
        """The keys of the image at `path`: none, one, or two if EXIF turns it."""

    def note_miss(self, record: Record, name: str) -> None:
        """Note that training looked for an image, by its key or path, and did not find it; a store that cannot be
        written notes nothing."""

    def entry(self, name: str) -> Entry | None:
        """An entry, checked, or None; a damaged entry counts as missing and is logged once a process."""
        try:
            return self._find(name)
        except CorruptEntry as error:
            self.report_damage(name, error)
            return None

    def get(self, name: str) -> memoryview | None:
        """The artifact's bytes, checked, or None."""
        entry = self.entry(name)
        return None if entry is None else entry.payload

    def provenance(self, name: str) -> Provenance | None:
        """Where an entry came from: recipe, backend, settings, seed, seconds, caption, prompt; None for a miss."""
        entry = self.entry(name)
        try:
            return None if entry is None else entry.provenance
        except CorruptEntry as error:
            self.report_damage(name, error)
            return None

    def report_damage(self, name: str, error: Exception) -> None:
        """Say once a process that something is damaged."""
        if name not in self._reported:
            self._reported.add(name)
            logger.warning(
                "%s: %s is damaged (%s) and counts as missing; prewarm again to replace it", self, name, error
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"


def _checksum(fields: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(fields, sort_keys=True).encode())


def find_record(store: Store, wanted: str | None = None) -> Record:
    """The recipe called `wanted`, or whose backgrounds have the fingerprint `wanted`; None is the latest one.

    Raises StoreError if there is none.
    """
    records = store.recipes()
    if not records:
        raise StoreError(f"{store} holds no recipe yet: fill it with `augment prewarm` or `augment.prewarm` first")
    matching = [record for record in records if wanted in (None, record.name, record.background)]
    if not matching:
        names = ", ".join(sorted({record.name for record in records}))
        raise StoreError(f"{store} was not filled with the recipe {wanted!r}; it holds: {names}")
    return matching[-1]
