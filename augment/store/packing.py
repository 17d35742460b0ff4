"""Write a cache as a pack, and merge packs into a cache."""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import xxhash

from augment.artifacts import BACKGROUND, CAPTION, MATTE, PLATE, PROMPT, SCENE
from augment.errors import InputError, StoreError
from augment.store.cache import Cache
from augment.store.entries import Provenance, entry_name
from augment.store.files import write_atomically
from augment.store.pack import FORMAT, INDEX_FILE, KIND, MAX_ENTRY, Pack, PackIndex, Place, note_bytes
from augment.store.paths import PATHS_FILE, PathIndex
from augment.store.reader import Reader, rejection_name
from augment.store.records import Record
from augment.store.scenes import SCENES_FILE, SceneIndex, scenes_among

logger = logging.getLogger(__name__)

SELECTABLE = {artifact.name for artifact in (BACKGROUND, MATTE, PLATE, CAPTION, PROMPT, SCENE)}

_SHARD_NBYTES = 512 * 2**20
_MEMBER = re.compile(r"[0-9a-f]{32}(-\d{1,9})?\.(json|[a-z]+\.[a-z0-9]+)")
_EXTENSIONS = {MATTE.name: "bin", CAPTION.name: "txt", PROMPT.name: "json"}


def export_pack(cache: Cache, folder: Path, select: set[str] | None = None, shard_nbytes: int = _SHARD_NBYTES) -> int:
    """Write the cache's artifacts (those named in `select`, all if None) as a pack; returns how many.

    Pictures on the way to a background stay behind. Raises InputError if the folder is not empty, StoreError if nothing
    can be exported, or written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: a pack needs a folder of its own")
    wanted = SELECTABLE if select is None else select
    if unknown := wanted - SELECTABLE:
        raise InputError(f"select: {', '.join(sorted(unknown))} not among {', '.join(sorted(SELECTABLE))}")
    names = sorted(filter(None, map(_split, cache.names())), key=lambda n: (*n[:3], -1 if n[3] is None else n[3]))
    names = [name for name in names if name[0] in wanted]
    records = cache.recipes()
    if not names or not (records or any(name[0] == SCENE.name for name in names)):
        raise StoreError(f"{cache} holds nothing to export: fill it with `augment prewarm` first")
    try:
        with ExitStack() as opened:
            return _export(cache, folder, names, records, shard_nbytes, opened)
    except OSError as error:
        raise StoreError(f"{folder}: the pack cannot be written: {error}; remove the folder") from error


def _export(
    cache: Cache,
    folder: Path,
    names: list[tuple[str, str, str, int | None]],
    records: list[Record],
    shard_nbytes: int,
    opened: ExitStack,
) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[str] = []
    places: dict[tuple[str, str, str, int | None], Place] = {}
    for (artifact, fingerprint), rows in groupby(names, key=lambda name: name[:2]):
        writer: _ShardWriter | None = None
        for name in rows:
            entry = cache.entry(entry_name(*name))
            if entry is None:
                continue  # damaged, which was said
            if writer is None or writer.nbytes > shard_nbytes:
                if writer is not None:
                    writer.close()
                number = sum(shard.startswith(f"{artifact}-{fingerprint}-") for shard in shards)
                shards.append(f"{artifact}-{fingerprint}-{number:05d}.tar")
                writer = _ShardWriter(opened.enter_context((folder / shards[-1]).open("xb")), len(shards) - 1)
            places[name] = writer.add(name, bytes(entry.payload), note_bytes(entry.provenance))
        if writer is not None:
            writer.close()
    for record in records:
        (folder / "recipes").mkdir(exist_ok=True)
        write_atomically(folder / "recipes" / f"{record.background}.json", record.to_json().encode())
        (folder / "pools").mkdir(exist_ok=True)
        cache.pool(record).save(folder / "pools" / f"{record.background}.index")
    scenes = scenes_among(entry_name(*name) for name in places)
    if scenes:
        SceneIndex.of(scenes).save(folder / SCENES_FILE)
    PathIndex(folder / PATHS_FILE).merge(cache.directory / PATHS_FILE)
    others = sorted(
        path.relative_to(folder).as_posix() for part in ("recipes", "pools") for path in (folder / part).glob("*")
    )
    PackIndex.save(folder / INDEX_FILE, shards, others, places)
    write_atomically(folder / "store.json", json.dumps({"format": FORMAT, "kind": KIND}).encode())
    return len(places)


def import_pack(pack: Pack, cache: Cache, progress: Callable[[int], None] = lambda _: None) -> int:
    """Merge a pack into a cache; returns how many artifacts were new. A damaged artifact is left out, and said; so is
    what a person has rejected in the cache.

    Raises StoreError, before anything is written, if a shard holds what a pack's shards do not: links, devices, paths
    that leave the folder, members that are too large.
    """
    for shard in pack.index.shards:
        _check_shard(pack.directory / shard)
    added = 0
    for name in pack.names():
        entry = pack.entry(name)
        if entry is not None and cache.entry(name) is None and not _is_rejected(cache, name, entry.provenance):
            cache.put(name, entry.payload, entry.provenance)
            added += 1
        progress(1)
    for record in pack.recipes():
        cache.add_record(record)
        reader, entries = Reader(cache, record), pack.pool(record).entries()
        rejected = {key for key in entries if (matte := reader.get(MATTE, key)) is not None and matte.unusable}
        cache.add_to_pool(record, {key: entry for key, entry in entries.items() if key not in rejected})
    if scenes := list(pack.scenes()):
        cache.add_scenes(scenes)
    cache.merge_paths(pack.directory / PATHS_FILE)
    return added


def _is_rejected(cache: Cache, name: str, provenance: Provenance) -> bool:
    """Whether a person has rejected the very try at a background that is to be imported."""
    note = cache.provenance(rejection_name(name)) if name.startswith(f"{BACKGROUND.name}/") else None
    tried, attempt = (note or {}).get("tried"), provenance.get("attempt", 0)
    return isinstance(tried, int) and isinstance(attempt, int) and attempt < tried


class _ShardWriter:
    """One tar file; its members are placed by hand, so that the index knows where each begins."""

    def __init__(self, file: BinaryIO, number: int) -> None:
        self._file = file
        self._number = number

    @property
    def nbytes(self) -> int:
        """How large it is so far."""
        return self._file.tell()

    def add(self, name: tuple[str, str, str, int | None], payload: bytes, note: bytes) -> Place:
        """Write an artifact and its provenance as two members of one row."""
        artifact, _, key, variant = name
        base = key if variant is None else f"{key}-{variant:05d}"
        at = self._member(f"{base}.{artifact}.{_extension(artifact, payload)}", payload)
        note_at = self._member(f"{base}.json", note)
        sums = xxhash.xxh3_64_intdigest(payload), xxhash.xxh3_64_intdigest(note)
        return Place(self._number, at, len(payload), sums[0], note_at, len(note), sums[1])

    def close(self) -> None:
        """End the archive as tar does: two empty blocks, and up to a full record."""
        self._file.write(b"\0" * 2 * tarfile.BLOCKSIZE)
        self._file.write(b"\0" * (-self._file.tell() % tarfile.RECORDSIZE))
        self._file.close()

    def _member(self, name: str, data: bytes) -> int:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._file.write(member.tobuf(tarfile.USTAR_FORMAT))
        at = self._file.tell()
        self._file.write(data)
        self._file.write(b"\0" * (-len(data) % tarfile.BLOCKSIZE))
        return at


def _split(name: str) -> tuple[str, str, str, int | None] | None:
    """Artifact, fingerprint, key and variant of an entry; None for one that a pack does not hold."""
    parts = name.split("/")
    if len(parts) == 3:
        return parts[0], parts[1], parts[2], None
    return (parts[0], parts[1], parts[2], int(parts[3])) if len(parts) == 4 and parts[3].isdecimal() else None


def _extension(artifact: str, payload: bytes) -> str:
    if artifact in _EXTENSIONS:
        return _EXTENSIONS[artifact]
    magics = {b"\xff\xd8": "jpg", b"\x89P": "png"}
    return magics.get(payload[:2], "raw")


def _check_shard(path: Path) -> None:
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg() or not _MEMBER.fullmatch(member.name):
                    raise StoreError(f"{path}: {member.name!r} is not a member of a pack's shard; nothing was imported")
                if member.size > MAX_ENTRY:
                    raise StoreError(f"{path}: {member.name} claims {member.size} bytes; nothing was imported")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise StoreError(f"{path} cannot be read as a shard: {error}; nothing was imported") from error
