"""The store that is written: artifacts in a `diskcache.FanoutCache`, as bytes and nothing else."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import diskcache
import numpy as np
from diskcache.core import MODE_BINARY, MODE_RAW
from filelock import FileLock

from augment.artifacts import BACKGROUND, MATTE, ImageCodec, ImageFormat
from augment.errors import CorruptEntry, StoreError
from augment.store.entries import Provenance, entry_name, seal
from augment.store.files import write_atomically
from augment.store.misses import Misses
from augment.store.paths import PathIndex
from augment.store.pool import MAX_VARIANTS, PoolEntry, PoolIndex
from augment.store.reader import Reader
from augment.store.records import Record, Store

logger = logging.getLogger(__name__)

SETTINGS_FILE = "store.json"
FORMAT = 1

_UNLIMITED = 2**62
_SHARDS = 8
_KEY = re.compile(r"[0-9a-f]{32}")

# SQLite connections must not be closed in a child that inherited them (sqlite.org/howtocorrupt.html, 2.6), so those a
# fork brought along are kept here, unused, until the child ends.
_inherited: list[diskcache.FanoutCache] = []


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Text keys and bytes only: a pickle is refused on the way in and on the way out (invariant 4)."""

    def put(self, key: Any) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"a store's keys are text, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: bool) -> str:
        if not raw or type(key) is not str:
            raise CorruptEntry("a key that is not text")
        return key

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        if type(value) is not bytes or read:
            raise TypeError(f"a store holds bytes, not {type(value).__name__}")
        return super().store(value, read, key=key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes | memoryview:
        if mode not in (MODE_RAW, MODE_BINARY) or read:
            raise CorruptEntry(f"an entry of diskcache's mode {mode}, which is not bytes")
        if mode == MODE_BINARY:
            return _read_file(os.path.join(self._directory, str(filename)))
        data = super().fetch(mode, filename, value, read)
        if type(data) is not bytes:
            raise CorruptEntry(f"an entry that is {type(data).__name__}, not bytes")
        return data


class Cache(Store):
    """A folder of artifacts keyed by image hash, read and written by many processes at once.

    `size_limit` is in bytes (None: no limit); beyond it the entries stored first are dropped first. `codec` and
    `quality` (JPEG, 1 to 100) say how backgrounds are kept from now on; what is there stays readable. All three are
    remembered: None leaves what the folder says. Reads never write, so a hit takes no lock. Opened lazily in each
    process, so it may be pickled, forked and spawned. Not for NFS: SQLite's locks are not safe there.

    Raises StoreError where the folder is something else, or cannot be written.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        size_limit: int | None = None,
        codec: ImageCodec | None = None,
        quality: int | None = None,
    ) -> None:
        if codec is not None and codec not in get_args(ImageCodec):
            raise StoreError(f"codec: {codec!r} is not one of {', '.join(get_args(ImageCodec))}")
        if quality is not None and not 1 <= quality <= 100:
            raise StoreError(f"quality: {quality} is not within 1 … 100")
        if size_limit is not None and size_limit < 1:
            raise StoreError(f"size_limit: {size_limit} is not a positive number of bytes")
        super().__init__()
        self.directory = Path(directory).expanduser().absolute()
        self._reset()
        settings = self._create({"size_limit": size_limit, "codec": codec, "quality": quality})
        self.size_limit: int | None = settings["size_limit"]
        self.codec: ImageCodec = settings["codec"]
        self.quality: int = settings["quality"]

    def put(self, name: str, payload: bytes | memoryview, provenance: Provenance) -> int:
        """Keep an artifact in place of an older one of that name; returns the bytes it takes. Raises StoreError."""
        data = seal(payload, provenance)
        try:
            stored = self._open().set(name, data, retry=True)
        except (sqlite3.Error, OSError, diskcache.Timeout) as error:
            raise StoreError(f"cannot write to the cache {self.directory}: {error}") from error
        if not stored:
            raise StoreError(f"cannot write to the cache {self.directory}: another process held it for over a minute")
        return len(data)

    def delete(self, name: str) -> None:
        """Drop an entry, if it is there."""
        self._open().delete(name, retry=True)

    def names(self) -> list[str]:
        """Every entry's name, shard by shard."""
        return list(self._open())

    def nbytes(self) -> int:
        """Bytes on disk, those of SQLite's own files included."""
        return int(self._open().volume())

    @property
    def location(self) -> str:
        """Its folder."""
        return str(self.directory)

    @property
    def image_format(self) -> ImageFormat:
        """How backgrounds are kept from now on."""
        return ImageFormat(self.codec, self.quality)

    def recipes(self) -> list[Record]:
        """The recipes it was filled with, the latest last; a damaged record is left out, and said once."""
        records = (self._read_record(path) for path in (self.directory / "recipes").glob("*.json"))
        return sorted((record for record in records if record is not None), key=lambda record: record.updated)

    def add_record(self, record: Record) -> None:
        """Note that the cache is being filled with a recipe, as the latest one; keeps the larger number of variants."""
        path = self.directory / "recipes" / f"{record.background}.json"
        with self._lock():
            before = self._read_record(path) if path.is_file() else None
            variants = max(record.variants, before.variants if before else 0)
            write_atomically(path, replace(record, variants=variants, updated=time.time()).to_json().encode())

    def pool(self, record: Record) -> PoolIndex:
        """The images whose backgrounds may serve others. Without a whole index they are gathered from the entries,
        which takes time and is said; the next prewarm writes the index anew."""
        path = self._pool_path(record)
        try:
            return PoolIndex.load(path)
        except CorruptEntry as error:
            if path.exists():
                self.report_damage(path.name, error)
            return PoolIndex.of(self._gather(record))

    def add_to_pool(self, record: Record, entries: Mapping[str, PoolEntry]) -> None:
        """Put images, by key, into the index of that recipe."""
        path = self._pool_path(record)
        with self._lock():
            held = self.pool(record).entries()
            for key, entry in entries.items():
                before = held[key].variants if key in held else 0
                held[key] = entry._replace(variants=max(before, entry.variants))
            PoolIndex.of(held).save(path)

    def keys_at(self, path: str) -> list[str]:
        """The keys of the image at `path`: none, one, or two if EXIF turns it."""
        try:
            return self._paths.keys(path)
        except CorruptEntry as error:
            self.report_damage(self._paths.file.name, error)
            return []

    def add_paths(self, paths: Iterable[tuple[str, str]]) -> None:
        """Note which key the image at a path has: pairs of both. A damaged index is set aside, and said."""
        pairs = list(paths)
        with self._lock():
            try:
                self._paths.add(pairs)
            except CorruptEntry as error:
                aside = self._paths.file.with_suffix(".damaged")
                logger.warning("%s; it is kept as %s, and paths are noted anew", error, aside.name)
                self._paths.file.replace(aside)
                self._paths.add(pairs)

    def misses(self, record: Record) -> Misses:
        """What training looked for with that recipe and did not find."""
        name = record.background
        if name not in self._misses:
            self._misses[name] = Misses(self.directory / "misses" / f"{name}.txt")
        return self._misses[name]

    def note_miss(self, record: Record, name: str) -> None:
        """Note that training looked for an image, by its key or path, and did not find it."""
        self.misses(record).add(name)

    def close(self) -> None:
        """Close the files; the next use opens them again."""
        if self._fanout is not None and self._pid == os.getpid():
            self._fanout.close()
        self._reset()

    def _read_record(self, path: Path) -> Record | None:
        try:
            return Record.from_json(path.read_text())
        except FileNotFoundError:  # another process is just replacing it
            return None
        except (OSError, ValueError) as error:
            self.report_damage(f"recipes/{path.name}", error)
            return None

    def _pool_path(self, record: Record) -> Path:
        return self.directory / "pools" / f"{record.background}.index"

    def _gather(self, record: Record) -> dict[str, PoolEntry]:
        """What the index holds, gathered from the entries themselves."""
        prefix = entry_name(BACKGROUND.name, record.background, "")
        variants: Counter[str] = Counter()
        for name in self.names():
            if name.startswith(prefix):
                key, _, variant = name.removeprefix(prefix).partition("/")
                if _KEY.fullmatch(key) and variant.isdecimal():
                    variants[key] = max(variants[key], min(int(variant), MAX_VARIANTS - 1) + 1)
        reader, entries = Reader(self, record), {}
        for key, count in variants.items():
            found = reader.find(MATTE, key)
            if found is not None and not found[0].unusable:
                entries[key] = PoolEntry(found[1].get("group"), found[0].coverage, count)
        return entries

    def _reset(self) -> None:
        self._fanout: diskcache.FanoutCache | None = None
        self._pid = 0
        self._reported = set()
        self._paths = PathIndex(self.directory / "pools" / "paths.index")
        self._misses: dict[str, Misses] = {}

    def _lock(self) -> FileLock:
        """One process at a time; a new object each time, since filelock refuses one that a fork brought along."""
        return FileLock(self.directory / ".lock", mode=0o666)

    def _create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        path = self.directory / SETTINGS_FILE
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._lock():
                if path.is_file():
                    settings = _read_settings(path)
                elif any(other.name != ".lock" for other in self.directory.iterdir()):
                    raise StoreError(f"{self.directory} is not empty and not a cache: name another folder")
                else:
                    settings = {"format": FORMAT, "kind": "cache", "size_limit": None, "codec": "jpeg", "quality": 75}
                merged = settings | {name: value for name, value in wanted.items() if value is not None}
                if merged != settings or not path.is_file():
                    write_atomically(path, json.dumps(merged, indent=1).encode())
                return merged
        except OSError as error:
            raise StoreError(f"cannot make a cache at {self.directory}: {error}") from error

    def _open(self) -> diskcache.FanoutCache:
        if self._fanout is not None and self._pid == os.getpid():
            return self._fanout
        if self._fanout is not None:
            _inherited.append(self._fanout)
            self._reset()
        try:
            # Opening writes: many processes doing so at the same instant could meet "database is locked".
            with self._lock():
                self._fanout = diskcache.FanoutCache(
                    str(self.directory / "entries"),
                    shards=_SHARDS,
                    timeout=60,
                    disk=BytesDisk,
                    size_limit=self.size_limit or _UNLIMITED,
                    # Drops the oldest at a write; LRU would write at every read.
                    eviction_policy="least-recently-stored",
                )
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot open the cache {self.directory}: {error}") from error
        self._pid = os.getpid()
        return self._fanout

    def _read(self, name: str) -> bytes | memoryview | None:
        try:
            data: bytes | memoryview | None = self._open().get(name, retry=True)
        except sqlite3.DatabaseError as error:
            raise CorruptEntry(str(error)) from error
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("directory", "size_limit", "codec", "quality")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def _read_file(path: str) -> memoryview:
    """A file's bytes in memory that may be written to, so that a raw image needs no copy to become a composite."""
    with io.FileIO(path) as file:  # `open` itself would take half as long as the reading
        data = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
        size = file.readinto(data.data)
    return data.data[:size]


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(path.read_text())
        found = (settings["kind"], settings["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {error!r}") from error
    if found != ("cache", FORMAT):
        raise StoreError(
            f"{path.parent} is a {found[0]} of format {found[1]}; this augment writes caches of format {FORMAT}"
        )
    return settings
