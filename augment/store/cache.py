"""The store that is written: artifacts in a `diskcache.FanoutCache`, as bytes and nothing else."""

from __future__ import annotations

import io
import json
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import diskcache
import numpy as np
from diskcache.core import MODE_BINARY, MODE_RAW
from filelock import FileLock

from augment.artifacts import ImageCodec, Matte
from augment.entries import Provenance, entry_name, provenance_of, seal, unseal
from augment.errors import CorruptEntry, StoreError
from augment.misses import Misses
from augment.paths import add_paths
from augment.pools import PoolEntry, is_pool, read_pool, write_pool
from augment.store import FORMAT, SETTINGS_FILE, FilledRecipe

logger = logging.getLogger(__name__)

_UNLIMITED = 2**62
_SHARDS = 8

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


class Cache:
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
        self.directory = Path(directory).expanduser().absolute()
        self._reset()
        settings = self._create({"size_limit": size_limit, "codec": codec, "quality": quality})
        self.size_limit: int | None = settings["size_limit"]
        self.codec: ImageCodec = settings["codec"]
        self.quality: int = settings["quality"]

    def get(self, name: str) -> memoryview | None:
        """The artifact's bytes, checked, or None; a damaged entry counts as missing and is logged once a process."""
        data = self._read(name)
        try:
            return None if data is None else unseal(data)
        except CorruptEntry as error:
            self._report_damage(name, error)
            return None

    def provenance(self, name: str) -> Provenance | None:
        """Where an entry came from, or None for a miss."""
        data = self._read(name)
        try:
            return None if data is None else provenance_of(data)
        except CorruptEntry as error:
            self._report_damage(name, error)
            return None

    def put(self, name: str, payload: bytes, provenance: Provenance) -> int:
        """Keep an artifact, in place of an older one of that name; returns the bytes it takes. Raises StoreError."""
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

    def recipes(self) -> list[FilledRecipe]:
        """The recipes it was filled with, the latest last."""
        found = []
        for path in (self.directory / "recipes").glob("*.json"):
            with suppress(FileNotFoundError):  # another process is just replacing it
                found.append(FilledRecipe.from_json(path.read_text()))
        return sorted(found, key=lambda recipe: recipe.filled)

    def remember(self, recipe: FilledRecipe) -> None:
        """Note that the cache is being filled with `recipe`, as the latest one; keeps the larger number of variants."""
        path = self.directory / "recipes" / f"{recipe.fingerprints['generate']}.json"
        with self._lock():
            variants = FilledRecipe.from_json(path.read_text()).variants if path.is_file() else 0
            path.parent.mkdir(exist_ok=True)
            _write_atomically(
                path, replace(recipe, variants=max(variants, recipe.variants), filled=time.time()).to_json()
            )

    def pool_file(self, recipe: FilledRecipe) -> Path:
        """The index of images whose backgrounds may serve others (see `augment.pools`); made where there is none."""
        path = self._pool_path(recipe)
        with self._lock():
            if not is_pool(path):
                write_pool(path, self._pool_entries(recipe))
        return path

    def add_to_pool(self, recipe: FilledRecipe, entries: Mapping[str, PoolEntry]) -> None:
        """Put images, by key, into the index of that recipe."""
        path = self._pool_path(recipe)
        with self._lock():
            held = read_pool(path)
            for key, entry in entries.items():
                before = held[key].variants if key in held else 0
                held[key] = entry._replace(variants=max(before, entry.variants))
            write_pool(path, held)

    def paths_file(self) -> Path:
        """The index from paths to keys (see `augment.paths`)."""
        return self.directory / "pools" / "paths.index"

    def add_paths(self, paths: Iterable[tuple[str, str]]) -> None:
        """Note which key the image at a path has: pairs of both."""
        with self._lock():
            add_paths(self.paths_file(), paths)

    def misses(self, recipe: FilledRecipe) -> Misses:
        """What was looked up in vain with that recipe."""
        return Misses(self.directory / "misses" / f"{recipe.fingerprints['generate']}.txt")

    def close(self) -> None:
        """Close the files; the next use opens them again."""
        if self._fanout is not None and self._pid == os.getpid():
            self._fanout.close()
        self._reset()

    def _pool_path(self, recipe: FilledRecipe) -> Path:
        return self.directory / "pools" / f"{recipe.fingerprints['generate']}.index"

    def _pool_entries(self, recipe: FilledRecipe) -> dict[str, PoolEntry]:
        """What the index holds, gathered from the entries themselves."""
        prefix = entry_name("background", recipe.fingerprints["generate"], "")
        variants: Counter[str] = Counter()
        for name in self.names():
            if name.startswith(prefix):
                key, _, variant = name.removeprefix(prefix).partition("/")
                variants[key] = max(variants[key], int(variant) + 1)
        entries = {}
        for key, count in variants.items():
            name = entry_name("matte", recipe.fingerprints["remove"], key)
            data, provenance = self.get(name), self.provenance(name)
            if data is not None and provenance is not None:
                with suppress(CorruptEntry):
                    entries[key] = PoolEntry(provenance.get("group"), Matte.from_bytes(data).coverage, count)
        return entries

    def _reset(self) -> None:
        self._fanout: diskcache.FanoutCache | None = None
        self._pid = 0
        self._reported: set[str] = set()

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
                    _write_atomically(path, json.dumps(merged, indent=1))
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
        except (sqlite3.DatabaseError, CorruptEntry) as error:
            self._report_damage(name, error)
            return None
        return data

    def _report_damage(self, name: str, error: Exception) -> None:
        if name not in self._reported:
            self._reported.add(name)
            logger.warning(
                "%s: the entry %s is damaged (%s) and counts as missing; prewarm again to replace it", self, name, error
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("directory", "size_limit", "codec", "quality")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        return f"Cache({str(self.directory)!r})"


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


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
