"""From an image's path to its keys, for samples whose pixels are not those that were prewarmed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from augment.store.files import read_records, write_records

PATHS_FILE = "pools/paths.index"  # in a store's folder

_MAGIC = b"AUGPATH2"
_RECORD = np.dtype([("path", "<u8"), ("key", "V16")])
_SORTABLE = [("path", "<u8"), ("a", "<u8"), ("b", "<u8")]


class PathIndex:
    """Pairs of a path's xxh3-64 and a key, sorted by the first, in a file that is memory-mapped at first use.

    Raises CorruptEntry if the file is there but damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._records: NDArray[Any] | None = None

    def keys(self, path: str) -> list[str]:
        """The keys of the image at `path`: none, one, or two if EXIF turns it."""
        if self._records is None:
            self._records = np.empty(0, _RECORD)  # a damaged file is read once
            self._records = read_records(self.file, _MAGIC, _RECORD)
        wanted = np.uint64(_hash(path))
        first, end = (int(np.searchsorted(self._records["path"], wanted, side)) for side in ("left", "right"))
        return [record["key"].tobytes().hex() for record in self._records[first:end]]

    def add(self, paths: Iterable[tuple[str, str]]) -> None:
        """Add pairs of a path and a key; the file is replaced at once and whole."""
        self._write(np.array([(_hash(path), bytes.fromhex(key)) for path, key in paths], _RECORD))

    def merge(self, other: Path) -> None:
        """Add everything that another index file holds. Raises CorruptEntry."""
        self._write(read_records(other, _MAGIC, _RECORD))

    def _write(self, added: NDArray[Any]) -> None:
        records = np.unique(np.concatenate([read_records(self.file, _MAGIC, _RECORD), added]).view(_SORTABLE))
        self._records = None
        write_records(self.file, _MAGIC, records)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "_records": None}


def _hash(path: str) -> int:
    return xxhash.xxh3_64_intdigest(os.fsencode(os.path.abspath(path)))
