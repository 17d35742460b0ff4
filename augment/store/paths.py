"""From an image's path to its keys, for samples whose pixels are not those that were prewarmed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

_RECORD = np.dtype([("path", "<u8"), ("key", "V16")])


class PathIndex:
    """Reads an index file, memory-mapped: pairs of a path's xxh3-64 and a key, sorted by the first."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._records: NDArray[Any] | None = None

    def keys(self, path: str) -> list[str]:
        """The keys of the image at `path`: none, one, or two where EXIF turns it."""
        if self._records is None:
            self._records = _read(self.file)
        wanted = np.uint64(_hash(path))
        first, end = (int(np.searchsorted(self._records["path"], wanted, side)) for side in ("left", "right"))
        return [record["key"].tobytes().hex() for record in self._records[first:end]]

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "_records": None}


def add_paths(file: Path, paths: Iterable[tuple[str, str]]) -> None:
    """Add pairs of a path and a key to an index file; it is replaced at once and whole."""
    added = np.array([(_hash(path), bytes.fromhex(key)) for path, key in paths], _RECORD)
    records = np.unique(np.concatenate([_read(file), added]).view([("path", "<u8"), ("a", "<u8"), ("b", "<u8")]))
    file.parent.mkdir(exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(records.tobytes())
    temporary.replace(file)


def _read(file: Path) -> NDArray[Any]:
    size = file.stat().st_size if file.is_file() else 0
    if size == 0 or size % _RECORD.itemsize:
        return np.empty(0, _RECORD)
    return np.memmap(file, _RECORD, "r")


def _hash(path: str) -> int:
    return xxhash.xxh3_64_intdigest(os.fsencode(os.path.abspath(path)))
