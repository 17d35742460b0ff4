"""How values are kept in a shard: as bytes, in the database or in files of their own below the shard's folder."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from typing import Any

import diskcache
import numpy as np
from diskcache.core import MODE_BINARY, MODE_RAW

from augment.errors import CorruptEntry

MAX_NBYTES = 2**31  # of one entry: a damaged or planted file must not exhaust the memory

_VALUE = re.compile(r"[0-9a-f]{2}[/\\][0-9a-f]{2}[/\\][0-9a-f]{28}\.val")
# Neither through a link nor into a pipe, which would block. Windows has neither flag, but a binary mode.
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Text keys and bytes only. Pickles are refused on the way in and on the way out (invariant 4).

    The names of files come from the database, which may be damaged or a stranger's: only names that diskcache itself
    gives are followed, never a link.
    """

    def put(self, key: Any) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"a store's keys are text, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: bool) -> str:
        if not raw or type(key) is not str:
            raise CorruptEntry("a key that is not text")
        return key

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        """The columns size, mode, filename and value."""
        if type(value) is not bytes or read:
            raise TypeError(f"a store holds bytes, not {type(value).__name__}")
        if len(value) > MAX_NBYTES:
            raise OSError(f"{len(value)} bytes are too many for one entry; at most {MAX_NBYTES} are allowed")
        if len(value) < self.min_file_size:
            return 0, MODE_RAW, None, value
        filename, path = self.filename(key, value)
        self._make_folders(filename)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o666)
        try:
            with os.fdopen(file, "wb", buffering=0) as opened:
                left = memoryview(value)
                while left:
                    left = left[opened.write(left) :]
        except BaseException:
            self.remove(filename)
            raise
        return len(value), MODE_BINARY, filename, None

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes | memoryview:
        if mode == MODE_BINARY and not read:
            return self._read(filename)
        if mode != MODE_RAW or read:
            raise CorruptEntry(f"an entry of diskcache's mode {mode!r}, which is not bytes")
        if type(value) is not bytes:
            raise CorruptEntry(f"an entry that is {type(value).__name__}, not bytes")
        return value

    def remove(self, filename: Any) -> None:
        """Remove a value's file and the folders that this empties; any other name is left alone."""
        with suppress(OSError, CorruptEntry):
            path = self._path(filename)
            os.remove(path)
            for _ in range(2):
                path = os.path.dirname(path)
                os.rmdir(path)

    def _read(self, filename: Any) -> memoryview:
        """A file's bytes in memory that may be written to, so that a raw image needs no copy to become a composite."""
        path = self._path(filename)
        try:
            file = os.open(path, os.O_RDONLY | _SAFELY)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CorruptEntry(f"{filename}: {error.strerror}") from error
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_NBYTES:
                raise CorruptEntry(f"{filename} is not a file of an entry")
            data = np.empty(status.st_size, np.uint8).data
            size = _read_into(file, data)
        finally:
            os.close(file)
        return data[:size]

    def _path(self, filename: Any) -> str:
        """Where a value's file is. Raises CorruptEntry for a name that diskcache does not give, or behind a link."""
        if type(filename) is not str or not _VALUE.fullmatch(filename):
            raise CorruptEntry(f"{filename!r} is not the name of a value's file")
        path = os.path.join(self._directory, filename)
        for end in (-36, -33):  # the two folders
            if not stat.S_ISDIR(os.lstat(path[:end]).st_mode):
                raise CorruptEntry(f"{path[:end]} is not a folder")
        return path

    def _make_folders(self, filename: str) -> None:
        for end in (2, 5):
            path = os.path.join(self._directory, filename[:end])
            with suppress(FileExistsError):
                os.mkdir(path)
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise OSError(f"{path} is not a folder: remove it")


def _read_into(file: int, data: memoryview) -> int:
    """Fill `data` from a file; how many bytes there were."""
    if not hasattr(os, "readv"):
        with os.fdopen(os.dup(file), "rb", buffering=0) as opened:
            return int(opened.readinto(data) or 0)
    size = os.readv(file, [data]) if len(data) else 0
    while 0 < size < len(data) and (more := os.readv(file, [data[size:]])):
        size += more
    return size
