"""Backgrounds of other images: which source is drawn, and an index that finds one of a million at once."""

from __future__ import annotations

import json
import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import xxhash
from numpy.typing import NDArray

from augment.errors import CorruptEntry, InputError

SourceName: TypeAlias = Literal[
    "own",
    "pool",
    "pool:same",
    "pool:other",
    "plates:own",
    "plates:pool",
    "plates:pool:same",
    "plates:pool:other",
]
Relation: TypeAlias = Literal["any", "same", "other"]
Kind: TypeAlias = Literal["background", "plate"]

_TRIES = 4  # neighbours tried where an entry has been evicted since the index was written
_MAGIC = b"AUGPOOL1"
_HEADER = struct.Struct("<8sQI")  # magic, xxh3-64 of the text that follows, its length
_RECORD = np.dtype([("key", "V16"), ("coverage", "<f4"), ("variants", "<u4")])


@dataclass(frozen=True)
class Source:
    """Where backgrounds come from.

    Args:
        weights: a name, or a mapping of names to weights, of which each sample draws one: "own" is a background
            generated for this very image, "pool" one generated for any image, "pool:same" and "pool:other" for an
            image of the same or of another group (images without a group are a group of their own). With "plates:"
            before any of them, the inpainted plate is taken in the place of a generated background: "plates:pool" is
            what ForAug does (arXiv 2503.09399).
        max_coverage: share, 0 to 1, of an image that its object may fill for its background to serve other images:
            beyond it hardly anything of the plate was ever seen (0.8 is ForAug's).
        flip: probability that the background of another image is mirrored left to right.

    Raises InputError naming what is wrong.
    """

    weights: SourceName | Mapping[SourceName, float]
    max_coverage: float = 0.8
    flip: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in self.table().items():
            if name not in get_args(SourceName):
                raise InputError(f"source: {name!r} is not one of {', '.join(get_args(SourceName))}")
            if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                raise InputError(f"source: {name}: {weight!r} is not a weight, 0 or more")
        if sum(self.table().values()) <= 0:
            raise InputError("source: no weight is above 0")
        for field, value in (("max_coverage", self.max_coverage), ("flip", self.flip)):
            if not 0 <= value <= 1:
                raise InputError(f"source: {field}: {value!r} is not within 0 … 1")

    def table(self) -> dict[str, float]:
        """The weights by name."""
        return {self.weights: 1.0} if isinstance(self.weights, str) else {str(k): v for k, v in self.weights.items()}

    @property
    def draws_from_others(self) -> bool:
        """Whether any of it needs the backgrounds of other images."""
        return any(weight and not name.endswith("own") for name, weight in self.table().items())

    def pick(self, uniform: float) -> tuple[Kind, Relation | None]:
        """What the sample takes, and of which images: None is the image itself."""
        choices, ends = self._choices
        return choices[min(bisect_right(ends, uniform * ends[-1]), len(choices) - 1)]

    @cached_property
    def _choices(self) -> tuple[list[tuple[Kind, Relation | None]], list[float]]:
        """What there is to take, and the sums of the weights up to each."""
        relations: dict[str, Relation | None] = {"own": None, "pool": "any", "pool:same": "same", "pool:other": "other"}
        table = {name: weight for name, weight in self.table().items() if weight}
        choices: list[tuple[Kind, Relation | None]] = [
            ("plate" if name.startswith("plates:") else "background", relations[name.removeprefix("plates:")])
            for name in table
        ]
        return choices, list(accumulate(table.values()))


def as_source(source: str | Mapping[str, Any] | Source) -> Source:
    """A Source from itself, a name, weights by name, or the dict of its fields that serialisation makes."""
    if isinstance(source, Source):
        return source
    if isinstance(source, Mapping) and "weights" in source:
        return Source(**source)
    return Source(source)  # type: ignore[arg-type]  # checked there


class PoolEntry(NamedTuple):
    """An image whose background may serve others: its group, the share of it that is object, its backgrounds."""

    group: str | None
    coverage: float
    variants: int


class Pool:
    """Draws images of an index file in constant time, however many there are.

    The file is memory-mapped at first use in each process, so workers share its pages; may be pickled. Raises
    CorruptEntry where the file is not a whole index.
    """

    def __init__(self, path: Path, max_coverage: float = 1.0) -> None:
        self.path = path
        self.max_coverage = max_coverage
        self._opened: _Opened | None = None

    def draw(self, relation: Relation, group: str | None, uniform: float) -> Iterator[tuple[str, int]]:
        """An image's key and its number of variants, drawn by `uniform` in [0, 1); then a few more to fall back on."""
        index = self._open()
        number = index.groups.get(group)
        first, last = (0, 0) if number is None else (int(index.ends[number]), int(index.ends[number + 1]))
        total, inside = int(index.ends[-1]), last - first
        size = {"any": total, "same": inside, "other": total - inside}[relation]
        for step in range(min(size, _TRIES)):
            place = (int(uniform * size) + step) % size
            if relation == "same":
                place += first
            elif relation == "other" and place >= first:
                place += inside
            yield index.record(place)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _open(self) -> _Opened:
        if self._opened is None:
            groups, counts, records = _read(self.path)
            starts = np.concatenate([[0], np.cumsum(counts)])
            # Within a group the records are sorted by coverage: those that may serve come first.
            limit = np.float32(self.max_coverage)
            allowed = [
                int(np.searchsorted(records["coverage"][first:end], limit, "right"))
                for first, end in pairwise(starts.tolist())
            ]
            ends = np.concatenate([[0], np.cumsum(allowed)]).astype(np.int64)
            self._opened = _Opened({group: n for n, group in enumerate(groups)}, starts, ends, records)
        return self._opened


@dataclass(frozen=True)
class _Opened:
    """`starts[g]` is where the records of group `g` begin, `ends[g]` how many before it may serve."""

    groups: dict[str | None, int]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    records: NDArray[Any]

    def record(self, place: int) -> tuple[str, int]:
        group = int(np.searchsorted(self.ends, place, "right")) - 1
        record = self.records[int(self.starts[group]) + place - int(self.ends[group])]
        return record["key"].tobytes().hex(), int(record["variants"])


def write_pool(path: Path, entries: Mapping[str, PoolEntry]) -> None:
    """Write the index of `entries`, by key, in place of an older one, which its readers keep until they open anew."""
    ordered = sorted(entries.items(), key=lambda item: (item[1].group or "", item[1].group is not None, item[1][1:]))
    counts: dict[str | None, int] = {}
    for _, entry in ordered:
        counts[entry.group] = counts.get(entry.group, 0) + 1
    records = np.array([(bytes.fromhex(key), entry.coverage, entry.variants) for key, entry in ordered], dtype=_RECORD)
    text = json.dumps({"groups": list(counts), "counts": list(counts.values())}).encode()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    path.parent.mkdir(exist_ok=True)
    with temporary.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, xxhash.xxh3_64_intdigest(text), len(text)) + text)
        file.write(records.tobytes())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def is_pool(path: Path) -> bool:
    """Whether there is a whole index."""
    try:
        _read(path)
    except CorruptEntry:
        return False
    return True


def read_pool(path: Path) -> dict[str, PoolEntry]:
    """All entries of an index by key; none where there is no whole one."""
    try:
        groups, counts, records = _read(path)
    except CorruptEntry:
        return {}
    names: Iterable[str | None] = (group for group, count in zip(groups, counts, strict=True) for _ in range(count))
    return {
        record["key"].tobytes().hex(): PoolEntry(group, float(record["coverage"]), int(record["variants"]))
        for group, record in zip(names, records, strict=True)
    }


def _read(path: Path) -> tuple[list[str | None], list[int], NDArray[Any]]:
    try:
        with path.open("rb") as file:
            magic, checksum, length = _HEADER.unpack(file.read(_HEADER.size))
            text = file.read(length)
            size = os.fstat(file.fileno()).st_size
        if magic != _MAGIC or xxhash.xxh3_64_intdigest(text) != checksum:
            raise CorruptEntry(f"{path} is not an index of a pool")
        header = json.loads(text)
        groups, counts = header["groups"], header["counts"]
        start = _HEADER.size + length
        if size != start + _RECORD.itemsize * sum(counts):
            raise CorruptEntry(f"{path} is torn: {size} bytes")
        if not counts:
            return [], [], np.empty(0, _RECORD)
        return groups, counts, np.memmap(path, _RECORD, "r", start, (sum(counts),))
    except (OSError, struct.error, ValueError, KeyError) as error:
        if isinstance(error, CorruptEntry):
            raise
        raise CorruptEntry(f"the index {path} cannot be read: {error}") from error
