"""From an image's path to its keys, for samples whose pixels are not those that were prewarmed."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from augment.errors import CorruptEntry
from augment.store.files import open_regular, write_atomically

PATHS_FILE = "pools/paths.index"  # in a store's folder

_MAGIC = b"AUGPATH2"
_HEADER = struct.Struct("<8sQ")  # magic, xxh3-64 of the records
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
            self._records = _read(self.file)
        wanted = np.uint64(_hash(path))
        first, end = (int(np.searchsorted(self._records["path"], wanted, side)) for side in ("left", "right"))
        return [record["key"].tobytes().hex() for record in self._records[first:end]]

    def add(self, paths: Iterable[tuple[str, str]]) -> None:
        """Add pairs of a path and a key; the file is replaced at once and whole."""
        self._write(np.array([(_hash(path), bytes.fromhex(key)) for path, key in paths], _RECORD))

    def merge(self, other: Path) -> None:
        """Add everything that another index file holds. Raises CorruptEntry."""
        self._write(_read(other))

    def _write(self, added: NDArray[Any]) -> None:
        records = np.unique(np.concatenate([_read(self.file), added]).view(_SORTABLE))
        data = records.tobytes()
        self._records = None
        write_atomically(self.file, _HEADER.pack(_MAGIC, xxhash.xxh3_64_intdigest(data)) + data)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "_records": None}


def _read(file: Path) -> NDArray[Any]:
    try:
        with open_regular(file) as opened:
            magic, checksum = _HEADER.unpack(opened.read(_HEADER.size))
            size = os.fstat(opened.fileno()).st_size - _HEADER.size
            if magic != _MAGIC or size % _RECORD.itemsize:
                raise ValueError(f"it is torn: {size} bytes")
            records = np.memmap(opened, _RECORD, "r", _HEADER.size) if size else np.empty(0, _RECORD)
        if xxhash.xxh3_64_intdigest(np.ascontiguousarray(records).data) != checksum:
            raise ValueError("its checksum does not match")
    except FileNotFoundError:
        return np.empty(0, _RECORD)
    except (OSError, struct.error, ValueError) as error:
        raise CorruptEntry(f"the index of paths {file} cannot be read: {error}") from error
    return records


def _hash(path: str) -> int:
    return xxhash.xxh3_64_intdigest(os.fsencode(os.path.abspath(path)))
