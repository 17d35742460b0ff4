"""Files that appear whole or not at all, and reading that neither follows a link nor waits for a pipe."""

from __future__ import annotations

import os
import re
import secrets
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from augment.errors import CorruptEntry

MAX_NBYTES = 2**24  # of a settings file or a record

_HEADER = struct.Struct("<8sQ")  # of an index: magic, xxh3-64 of the records
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp$")
_WRITTEN = 60.0  # seconds that no process takes to write one of these files

_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> BinaryIO:
    """A file to read. Raises FileNotFoundError, and OSError for a link, a pipe or anything else that is no file."""
    number = os.open(path, os.O_RDONLY | _SAFELY)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(number, "rb")


def read_text(path: Path) -> str:
    """A small file's text. Raises OSError, and ValueError if it is not text or too large."""
    with open_regular(path) as file:
        data = file.read(MAX_NBYTES + 1)
    if len(data) > MAX_NBYTES:
        raise ValueError(f"{path} has more than {MAX_NBYTES} bytes")
    return data.decode()


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` in place of the file at `path`; a reader or a power cut sees the old file or the new one, whole.

    Makes the folder, but not the one above it. Raises OSError.
    """
    path.parent.mkdir(exist_ok=True)
    if path.parent.is_symlink():
        raise OSError(f"{path.parent} is a link, and a cache holds none: remove it")
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def write_records(path: Path, magic: bytes, records: NDArray[Any]) -> None:
    """Write an index, with 8 bytes that say of which kind and a checksum, in place of an older one."""
    data = records.tobytes()
    write_atomically(path, _HEADER.pack(magic, xxhash.xxh3_64_intdigest(data)) + data)


def read_records(path: Path, magic: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The records of an index, memory-mapped; none if there is no file. Raises CorruptEntry if a bit is not as it was
    written."""
    try:
        with open_regular(path) as file:
            found, checksum = _HEADER.unpack(file.read(_HEADER.size))
            size = os.fstat(file.fileno()).st_size - _HEADER.size
            if found != magic or size % dtype.itemsize:
                raise ValueError(f"it is no such index, or torn: {size} bytes")
            records = np.memmap(file, dtype, "r", _HEADER.size) if size else np.empty(0, dtype)
        if xxhash.xxh3_64_intdigest(np.ascontiguousarray(records).data) != checksum:
            raise ValueError("its checksum does not match")
    except FileNotFoundError:
        return np.empty(0, dtype)
    except (OSError, struct.error, ValueError) as error:
        raise CorruptEntry(f"the index {path} cannot be read: {error}") from error
    return records


def half_written(folder: Path) -> list[Path]:
    """What processes that were killed in `write_atomically` have left in a folder."""
    found = []
    for path in folder.glob("*.tmp") if folder.is_dir() and not folder.is_symlink() else ():
        with suppress(FileNotFoundError):  # being written just now
            if _TEMPORARY.search(path.name) and time.time() - path.lstat().st_mtime > _WRITTEN:
                found.append(path)
    return found


def set_aside(path: Path) -> Path:
    """Rename something damaged to a free name beside it, which is returned."""
    number, aside = 0, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    path.rename(aside)
    return aside


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last; Windows can neither, nor needs it."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError:  # some file systems have no such thing
            pass
        finally:
            os.close(number)
