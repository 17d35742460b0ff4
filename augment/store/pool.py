"""The images whose backgrounds may serve others: an index that finds one of a million at once."""

from __future__ import annotations

import json
import logging
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
import xxhash
from numpy.typing import NDArray

from augment.errors import CorruptEntry
from augment.store.files import open_regular, write_atomically

logger = logging.getLogger(__name__)

Relation: TypeAlias = Literal["any", "same", "other"]

MAX_VARIANTS = 1_000_000  # more than anyone makes of one image; a damaged number must not become a list of that length

_TRIES = 4  # neighbors tried if an entry has been evicted since the index was written
_MAGIC = b"AUGPOOL2"
_HEADER = struct.Struct("<8sQQI")  # magic, xxh3-64 of the text and of the records, length of the text
_RECORD = np.dtype([("key", "V16"), ("coverage", "<f4"), ("variants", "<u4")])


class PoolEntry(NamedTuple):
    """An image whose backgrounds may serve others: its group, the share of it that is object, its backgrounds."""

    group: str | None
    coverage: float
    variants: int


@dataclass(frozen=True, eq=False)
class PoolIndex:
    """The pool of a recipe: records grouped by the images' groups and, inside a group, sorted by coverage.

    Read from a file it is memory-mapped, so that workers share its pages; its pickle then holds the path only.
    """

    groups: tuple[str | None, ...]
    counts: tuple[int, ...]
    records: NDArray[Any]
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.records)

    def entries(self) -> dict[str, PoolEntry]:
        """All images by key."""
        names: Iterable[str | None] = (
            group for group, count in zip(self.groups, self.counts, strict=True) for _ in range(count)
        )
        return {
            record["key"].tobytes().hex(): PoolEntry(group, float(record["coverage"]), int(record["variants"]))
            for group, record in zip(names, self.records, strict=True)
        }

    @classmethod
    def of(cls, entries: Mapping[str, PoolEntry]) -> PoolIndex:
        """The index of images by key."""
        ordered = sorted(
            entries.items(), key=lambda item: (item[1].group or "", item[1].group is not None, item[1][1:])
        )
        counts: dict[str | None, int] = {}
        for _, entry in ordered:
            counts[entry.group] = counts.get(entry.group, 0) + 1
        records = np.array([(bytes.fromhex(key), entry.coverage, entry.variants) for key, entry in ordered], _RECORD)
        return cls(tuple(counts), tuple(counts.values()), records)

    @classmethod
    def load(cls, path: Path) -> PoolIndex:
        """The index in a file. Raises CorruptEntry if there is none, or if a bit of it is not as it was written.

        A process maps a file once, since each map holds a file descriptor.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise CorruptEntry(f"the index {path} cannot be read: {error}") from error
        identity = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
        index = _mapped.get(identity)
        if index is None:
            index = _mapped[identity] = cls._map(path)
        return index

    @classmethod
    def _map(cls, path: Path) -> PoolIndex:
        try:
            with open_regular(path) as file:
                magic, checksum, records_checksum, length = _HEADER.unpack(file.read(_HEADER.size))
                size = os.fstat(file.fileno()).st_size
                if magic != _MAGIC or length > size:
                    raise CorruptEntry(f"{path} is not an index of a pool")
                text = file.read(length)
                start = _HEADER.size + length
                count = (size - start) // _RECORD.itemsize
                records = np.memmap(file, _RECORD, "r", start, (count,)) if count else np.empty(0, _RECORD)
            if xxhash.xxh3_64_intdigest(text) != checksum:
                raise CorruptEntry(f"{path}: its checksum does not match")
            header = json.loads(text)
            groups, counts = tuple(header["groups"]), tuple(header["counts"])
            if len({*groups}) != len(counts) or not all(group is None or type(group) is str for group in groups):
                raise CorruptEntry(f"{path}: its groups are not names")
            if not all(type(count) is int and count > 0 for count in counts):
                raise CorruptEntry(f"{path}: its counts are not numbers of images")
            if size != start + _RECORD.itemsize * sum(counts):
                raise CorruptEntry(f"{path} is torn: {size} bytes")
            if xxhash.xxh3_64_intdigest(np.ascontiguousarray(records).data) != records_checksum:
                raise CorruptEntry(f"{path}: the checksum of its records does not match")
        except (OSError, struct.error, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            if isinstance(error, CorruptEntry):
                raise
            raise CorruptEntry(f"the index {path} cannot be read: {error}") from error
        return cls(groups, counts, records, path)

    def save(self, path: Path) -> None:
        """Write the index in place of an older one, which its readers keep until they open it anew."""
        text = json.dumps({"groups": self.groups, "counts": self.counts}).encode()
        records = np.ascontiguousarray(self.records)
        checksums = xxhash.xxh3_64_intdigest(text), xxhash.xxh3_64_intdigest(records.data)
        write_atomically(path, _HEADER.pack(_MAGIC, *checksums, len(text)) + text + records.tobytes())

    def __reduce__(self) -> Any:
        if self.path is not None:
            return _reopened, (self.path,)
        return PoolIndex, (self.groups, self.counts, self.records)


_mapped: WeakValueDictionary[tuple[str, int, int, int], PoolIndex] = WeakValueDictionary()


def _reopened(path: Path) -> PoolIndex:
    """The index in a spawned worker; an empty one, and said, if it was damaged since the training began."""
    try:
        return PoolIndex.load(path)
    except CorruptEntry as error:
        logger.warning("%s; nothing is drawn from it: prewarm again to write it anew", error)
        return PoolIndex.of({})


class Pool:
    """Draws images of an index in constant time, however many there are.

    `max_coverage`, 0 to 1, is the share of an image that its object may fill for its background to serve others.
    """

    def __init__(self, index: PoolIndex, max_coverage: float = 1.0) -> None:
        self.index = index
        self.max_coverage = max_coverage

    @property
    def groups(self) -> tuple[str | None, ...]:
        """The groups of its images, None for those that have none."""
        return self.index.groups

    def __len__(self) -> int:
        """How many images may serve others."""
        return int(self._bounds[1][-1])

    def draw(self, relation: Relation, group: str | None, uniform: float) -> Iterator[tuple[str, int]]:
        """An image's key and its number of variants, drawn by `uniform` in [0, 1); then a few more to fall back on."""
        starts, ends, numbers = self._bounds
        number = numbers.get(group)
        first, last = (0, 0) if number is None else (int(ends[number]), int(ends[number + 1]))
        total, inside = int(ends[-1]), last - first
        size = {"any": total, "same": inside, "other": total - inside}[relation]
        for step in range(min(size, _TRIES)):
            place = (int(uniform * size) + step) % size
            if relation == "same":
                place += first
            elif relation == "other" and place >= first:
                place += inside
            at = int(np.searchsorted(ends, place, "right")) - 1
            record = self.index.records[int(starts[at]) + place - int(ends[at])]
            yield record["key"].tobytes().hex(), min(int(record["variants"]), MAX_VARIANTS)

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str | None, int]]:
        """Where each group's records begin; how many records before it may serve; each group's number."""
        starts = np.concatenate([[0], np.cumsum(self.index.counts)]).astype(np.int64)
        limit = np.float32(self.max_coverage)
        allowed = [
            int(np.searchsorted(self.index.records["coverage"][first:end], limit, "right"))
            for first, end in pairwise(starts.tolist())
        ]
        ends = np.concatenate([[0], np.cumsum(allowed)]).astype(np.int64)
        return starts, ends, {group: n for n, group in enumerate(self.index.groups)}
