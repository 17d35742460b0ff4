"""The store that is written: artifacts in SQLite databases and files, as bytes and nothing else."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from augment.artifacts import BACKGROUND, MATTE, ImageCodec, ImageFormat
from augment.errors import CacheFullError, CorruptEntry, StoreError
from augment.store.entries import Entry, Provenance, entry_name, seal
from augment.store.eviction import Keeping, checkpoint, make_room, parts_of, rows, used
from augment.store.files import half_written, read_text, set_aside, write_atomically
from augment.store.misses import Misses
from augment.store.paths import PATHS_FILE, PathIndex
from augment.store.pool import MAX_VARIANTS, PoolEntry, PoolIndex
from augment.store.reader import Reader
from augment.store.records import Record, Store
from augment.store.scenes import SCENES_FILE, SceneIndex, SceneName, scenes_among
from augment.store.settings import FOLDERS, SETTINGS_FILE, load_or_create
from augment.store.shard import DamagedShardError, Row, Shard, Shards

logger = logging.getLogger(__name__)

_KEY = re.compile(r"[0-9a-f]{32}")

# SQLite connections must not be closed in a child that inherited them (sqlite.org/howtocorrupt.html, 2.6), so those a
# fork brought along are kept here, unused, until the child ends.
_inherited: list[Shards] = []


class Cache(Store):
    """A folder of artifacts keyed by image hash, read and written by many processes at once.

    `size_limit` is in bytes (`math.inf`: no limit); beyond it whole images are dropped, those stored longest ago first.
    `codec` and `quality` (JPEG, 1 to 100) say how backgrounds are kept from now on; what is there stays readable. All
    three are remembered: None leaves what the folder says. Reads never write, so a hit takes no lock. Opened lazily in
    each process, so it may be pickled, forked and spawned. Not for NFS: SQLite's locks are not safe there.

    Raises StoreError if the folder is something else, or cannot be written.
    """

    keeping: Keeping | None = None  # what a prewarm in this process needs

    def __init__(
        self,
        directory: str | Path,
        *,
        size_limit: float | None = None,
        codec: ImageCodec | None = None,
        quality: int | None = None,
    ) -> None:
        super().__init__()
        self.directory = Path(directory).expanduser().absolute()
        self._reset()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._lock():
                settings = load_or_create(self.directory, size_limit, codec, quality)
        except OSError as error:
            raise StoreError(f"cannot make a cache at {self.directory}: {error}") from error
        self.size_limit, self.codec, self.quality = settings.size_limit, settings.codec, settings.quality

    def put(self, name: str, payload: bytes | memoryview, provenance: Provenance) -> int:
        """Keep an artifact in place of an older one of that name; returns the bytes it takes.

        Raises CacheFullError if it does not fit and nothing may be evicted, StoreError if it cannot be written.
        """
        data = seal(payload, provenance)
        key = parts_of(name)[2]
        if self.keeping is not None and self.keeping.has_given_up(key):
            raise CacheFullError(self._full())
        self._write(name, lambda shard: shard.set(name, data))
        if self.size_limit is not None:
            with self._evicting:
                fits = make_room(self._open(), self.size_limit, key, self.keeping)
            if not fits or (self.keeping is not None and self.keeping.has_given_up(key)):
                self.delete(name)
                raise CacheFullError(self._full())
        return len(data)

    def delete(self, name: str) -> None:
        """Drop an entry, if it is there. Raises StoreError."""
        self._write(name, lambda shard: shard.delete(name))

    def names(self) -> list[str]:
        """Every entry's name, shard by shard."""
        found: list[str] = []
        for shard in self._open().all:
            try:
                found += [row.name for row in shard.rows()]
            except FileNotFoundError:
                pass
            except (CorruptEntry, sqlite3.Error, OSError) as error:
                self.report_damage(f"entries/{shard.folder.name}", error)
        return found

    def rows(self) -> Iterable[Row]:
        """Every entry's name, time and size, of the shards that can be read."""
        return rows(self._open())

    def shards(self) -> list[Shard]:
        """Its shards, for checking them."""
        return self._open().all

    def nbytes(self) -> int:
        """Bytes on disk: values, SQLite's databases and their logs."""
        return used(self._open())

    def checkpoint(self) -> None:
        """Move what SQLite's logs hold to the databases, so that `nbytes` is the same from run to run."""
        checkpoint(self._open())

    def mend(self) -> None:
        """Set damaged shards aside, remove files that no entry has or that were not finished, and write a damaged index
        of scenes anew; says what was done."""
        for folder in (self.directory, *(self.directory / name for name in FOLDERS)):
            for path in half_written(folder):
                path.unlink(missing_ok=True)
        for shard in self._open().all:
            try:
                shard.check(thorough=False)
                orphans = shard.orphans(remove=True)
            except FileNotFoundError:
                continue
            except DamagedShardError as error:
                self.set_shard_aside(error)
            except (sqlite3.Error, OSError) as error:
                raise StoreError(f"cannot write to the cache {self.directory}: {error}") from error
            else:
                if orphans:
                    logger.warning("%s: removed %d files that no entry has from %s", self, len(orphans), shard.folder)
        try:
            SceneIndex.load(self.directory / SCENES_FILE)
        except CorruptEntry:
            self.add_scenes(())

    def set_shard_aside(self, error: DamagedShardError) -> Path | None:
        """Rename a damaged shard, so that a new one takes its place; None if another process has done so."""
        shard = error.shard
        with self._lock():
            replaced = shard.is_open_elsewhere()
            shard.close()
            if replaced:
                return None
            aside = set_aside(shard.folder)
        logger.warning(
            "%s: entries/%s is damaged (%s); it is kept as %s, and its entries count as missing: prewarm again",
            self,
            shard.folder.name,
            error,
            aside.name,
        )
        return aside

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
        with self._updating():
            before = self._read_record(path)
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

    def has_pool(self, record: Record) -> bool:
        """Whether there is an index of that pool, and it need not be gathered."""
        return self._pool_path(record).is_file()

    def add_to_pool(self, record: Record, entries: Mapping[str, PoolEntry]) -> None:
        """Put images, by key, into the index of that recipe."""
        path = self._pool_path(record)
        with self._updating():
            held = self.pool(record).entries()
            for key, entry in entries.items():
                before = held[key].variants if key in held else 0
                held[key] = entry._replace(variants=max(before, entry.variants))
            PoolIndex.of(held).save(path)

    def remove_from_pool(self, record: Record, keys: Iterable[str]) -> None:
        """Take images, by key, out of the index of that recipe: their backgrounds serve no other image."""
        dropped = {*keys}
        with self._updating():
            held = self.pool(record).entries()
            PoolIndex.of({key: entry for key, entry in held.items() if key not in dropped}).save(
                self._pool_path(record)
            )

    def scenes(self) -> SceneIndex:
        """The scenes, which may serve any image. A damaged index is gathered from the entries, which is said; the next
        prewarm writes it anew."""
        try:
            return SceneIndex.load(self.directory / SCENES_FILE)
        except CorruptEntry as error:
            self.report_damage(SCENES_FILE, error)
            return SceneIndex.of(scenes_among(self.names()))

    def add_scenes(self, scenes: Iterable[SceneName]) -> None:
        """Put scenes into the index."""
        with self._updating():
            SceneIndex.of([*self.scenes(), *scenes]).save(self.directory / SCENES_FILE)

    def keys_at(self, path: str) -> list[str]:
        """The keys of the image at `path`: none, one, or two if EXIF turns it."""
        try:
            return self._paths.keys(path)
        except CorruptEntry as error:
            self.report_damage(self._paths.file.name, error)
            return []

    def merge_paths(self, other: Path) -> None:
        """Take over what another index of paths notes. Raises CorruptEntry if that one is damaged."""
        with self._lock():
            self._paths.merge(other)

    def add_paths(self, paths: Iterable[tuple[str, str]]) -> None:
        """Note which key the image at a path has: pairs of both. A damaged index is set aside, and said."""
        pairs = list(paths)
        with self._updating():
            try:
                self._paths.add(pairs)
            except CorruptEntry as error:
                aside = set_aside(self._paths.file)
                logger.warning("%s; it is kept as %s, and paths are noted anew", error, aside.name)
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
        if self._shards is not None and self._pid == os.getpid():
            self._shards.close()
        self._reset()

    def _read_record(self, path: Path) -> Record | None:
        try:
            return Record.from_json(read_text(path))
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
                entries[key] = PoolEntry(reader.group(key), found[0].coverage, count)
        return entries

    def _reset(self) -> None:
        self._shards: Shards | None = None
        self._pid = 0
        self._reported = set()
        self._paths = PathIndex(self.directory / PATHS_FILE)
        self._misses: dict[str, Misses] = {}
        self._evicting = threading.Lock()

    def _lock(self) -> FileLock:
        """One process at a time; a new object each time, since filelock refuses one that a fork brought along."""
        return FileLock(self.directory / ".lock", mode=0o666)

    def _open(self) -> Shards:
        if self._shards is not None and self._pid == os.getpid():
            return self._shards
        if self._shards is not None:
            _inherited.append(self._shards)
            self._reset()
        self._pid = os.getpid()  # before the shards: another thread must not take them for inherited ones
        self._shards = shards = Shards(self.directory / "entries")
        return shards

    def _write(self, name: str, write: Callable[[Shard], None]) -> None:
        """Write to the shard that has a name; makes it if need be, and sets a damaged one aside."""
        shard = self._open().of(name)
        try:
            for _ in range(3):
                try:
                    write(shard)
                    return
                except DamagedShardError as error:
                    self.set_shard_aside(error)
                except FileNotFoundError:
                    self._make(shard)
            raise StoreError(f"cannot write to the cache {self.directory}: its shard {shard.folder.name} is damaged")
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot write to the cache {self.directory}: {error}") from error

    def _make(self, shard: Shard) -> None:
        with self._updating():
            shard.close()
            shard.create()

    @contextmanager
    def _updating(self) -> Iterator[None]:
        """Around a change of an index: one process at a time. Raises StoreError."""
        if self._is_gone():
            raise StoreError(f"the cache {self.directory} is gone: its {SETTINGS_FILE} is not there any more")
        try:
            with self._lock():
                yield
        except OSError as error:
            raise StoreError(f"cannot write to the cache {self.directory}: {error}") from error

    def _is_gone(self) -> bool:
        return not os.path.lexists(self.directory / SETTINGS_FILE)

    def _find(self, name: str) -> Entry | None:
        try:
            data = self._open().get(name)
        except FileNotFoundError:  # not stored yet, just evicted, or the whole cache was deleted
            if self._is_gone() and SETTINGS_FILE not in self._reported:
                self._reported.add(SETTINGS_FILE)
                logger.warning("%s is gone: its folder was deleted, and every image counts as missing", self)
            return None
        except DamagedShardError as error:
            self.report_damage(f"entries/{error.shard.folder.name}", error)
            return None
        except (sqlite3.Error, OSError) as error:
            raise CorruptEntry(str(error)) from error
        return None if data is None else Entry(data)

    def _full(self) -> str:
        return f"the cache {self.directory} is full: its size limit is {self.size_limit} bytes"

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("directory", "size_limit", "codec", "quality")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()
