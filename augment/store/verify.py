"""Check all that a cache holds, and remove what is wrong."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from augment.artifacts import ARTIFACTS
from augment.errors import CorruptEntry, StoreError
from augment.store.cache import Cache
from augment.store.entries import Entry
from augment.store.eviction import parts_of
from augment.store.files import half_written, read_text
from augment.store.paths import PathIndex
from augment.store.pool import PoolIndex
from augment.store.records import Record
from augment.store.scenes import SCENES_FILE, SceneIndex, scenes_among
from augment.store.shard import COUNT, DamagedShardError, Shard

_OURS = re.compile(r"store\.json|\.lock|entries|recipes|pools|misses")
_INDEXES = re.compile(r"[0-9A-Za-z]{1,64}\.(index|full)")


@dataclass
class Verified:
    """What was checked, counted by kind, and what is wrong, a line each."""

    entries: int = 0
    files: int = 0
    wrong: list[str] = field(default_factory=list)


def verify(cache: Cache, repair: bool = False) -> Verified:
    """Check checksums and decodability of every entry, the databases, the indexes, the recipes, and every file's place.

    With `repair`, what is wrong is removed: the next prewarm makes it anew. The index of scenes is made anew at once.
    Raises StoreError if the cache cannot be read, or for `repair` written.
    """
    found, folder = Verified(), cache.directory
    try:
        for shard in cache.shards():
            found.wrong += _shard(cache, shard, repair, found)
        for path, problem in _files(cache, found):
            found.wrong.append(f"{path.relative_to(folder)}: {problem}")
            if repair:
                _remove(path)
                if path == folder / SCENES_FILE:
                    cache.add_scenes(scenes_among(cache.names()))
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{cache} cannot be checked: {error}") from error
    return found


def _shard(cache: Cache, shard: Shard, repair: bool, found: Verified) -> Iterator[str]:
    name = f"entries/{shard.folder.name}"
    try:
        shard.check(thorough=True)
        for row in list(shard.rows()):
            found.entries += 1
            if problem := _entry(shard, row.name):
                yield f"{name}: {row.name}: {problem}"
                if repair:
                    shard.delete(row.name)
        if strangers := shard.strangers(repair):
            yield f"{name}: {strangers} rows are no entries of a cache"
        yield from (f"{name}: {path.relative_to(shard.folder)}: no entry has it" for path in shard.orphans(repair))
    except FileNotFoundError:  # nothing was stored in it yet
        return
    except DamagedShardError as error:
        yield f"{name}: its database is damaged: {error}"
        if repair and (aside := cache.set_shard_aside(error)) is not None:
            _remove(aside)


def _entry(shard: Shard, name: str) -> str | None:
    """What is wrong with an entry."""
    try:
        data = shard.get(name)
        if data is None:
            return None  # evicted just now
        entry = Entry(data)
        _ = entry.provenance
        artifact = ARTIFACTS.get(parts_of(name)[0])
        if artifact is not None:
            artifact.decode(entry.payload)
    except DamagedShardError:
        raise
    except FileNotFoundError:
        return "its file is missing"
    except CorruptEntry as error:
        return str(error)
    return None


def _files(cache: Cache, found: Verified) -> Iterator[tuple[Path, str]]:
    """Every wrong file outside the shards, and what is wrong with it."""
    folder = cache.directory
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and _OURS.fullmatch(path.name):
            yield path, "it is a link"
    for path in half_written(folder):
        yield path, "it is half written"
    for path in _inside(folder / "entries"):
        if path.name not in {f"{number:03d}" for number in range(COUNT)}:
            yield path, "it is no shard" if "damaged" not in path.name else "a damaged shard, set aside"
    for path in (*_inside(folder / "recipes"), *_inside(folder / "pools"), *_inside(folder / "misses")):
        found.files += 1
        try:
            _check(path)
        except (CorruptEntry, OSError, ValueError) as error:
            yield path, str(error)


def _check(path: Path) -> None:
    """Raise CorruptEntry, OSError or ValueError for a wrong file."""
    if path.is_symlink() or not path.is_file():
        raise CorruptEntry("it is a link, a pipe or a folder")
    where = path.parent.name
    if where == "recipes" and path.suffix == ".json":
        if Record.from_json(read_text(path)).background != path.stem:
            raise CorruptEntry("it is the record of another recipe")
    elif where == "pools" and path.name == "paths.index":
        PathIndex(path).keys("")
    elif where == "pools" and path.name == "scenes.index":
        SceneIndex.load(path)
    elif where == "pools" and _INDEXES.fullmatch(path.name):
        if path.suffix == ".index":
            PoolIndex.load(path)
    elif where != "misses" or path.suffix != ".txt":
        raise CorruptEntry("it is no file of a cache, or what is left of one that was damaged or half written")


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it; no link is followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for parent, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(parent, name))
        for name in folders:
            inner = os.path.join(parent, name)
            (os.unlink if os.path.islink(inner) else os.rmdir)(inner)
    path.rmdir()
