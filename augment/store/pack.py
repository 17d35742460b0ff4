"""The store that is only read: artifacts in WebDataset shards, found by an index of fixed width.

A pack is a folder:

    store.json                          what it is; written last, so that a pack is whole or not there
    index.bin                           where each artifact lies (see `PackIndex`)
    recipes/ pools/                     as in a cache
    background-FINGERPRINT-00000.tar    plain USTAR; `KEY-VARIANT.background.jpg` and `KEY-VARIANT.json`, one row each
    matte-FINGERPRINT-00000.tar         `KEY.matte.bin` and `KEY.json`; plates, captions and prompts in the same way

Every shard has rows of the same members, which is what Hugging Face `datasets` asks of WebDataset files. The index is
no pickle, because reading a pickle runs code; nothing in a pack can do more than hold wrong pictures.
"""

from __future__ import annotations

import json
import os
import re
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from augment.errors import CorruptEntry, StoreError
from augment.store.entries import Entry, Provenance, entry_name
from augment.store.files import open_regular, read_text, write_atomically
from augment.store.paths import PATHS_FILE, PathIndex
from augment.store.pool import PoolIndex
from augment.store.records import Record, Store
from augment.store.scenes import SCENES_FILE, SceneIndex

INDEX_FILE = "index.bin"
KIND = "pack"
FORMAT = 1

_MAGIC = b"AUGPACK1"
_HEADER = struct.Struct("<8sQQQ")  # magic, xxh3-64 of all that follows, bytes of the text, number of artifacts
_NAME = struct.Struct(">H16sI")  # table, key, variant: sorted as bytes
_NAMES = np.dtype("S22")
_PLACE = np.dtype(
    [
        *(("shard", "<u4"), ("payload", "<u8"), ("size", "<u4"), ("sum", "<u8")),
        *(("note", "<u8"), ("note_size", "<u4"), ("note_sum", "<u8")),
    ]
)
_NO_VARIANT = 2**32 - 1
_SHARD = re.compile(r"[a-z]+-[0-9a-f]+-\d{5}\.tar")
_OTHER = re.compile(r"recipes/[0-9a-f]+\.json|pools/(?:[0-9a-f]+|paths|scenes)\.index")
_OPEN = 200  # shards kept open in a process
MAX_ENTRY = 2**30  # bytes; no artifact is larger


@dataclass(frozen=True)
class Place:
    """Where an artifact lies: its shard, and offset, size and xxh3-64 of its bytes and of its provenance."""

    shard: int
    payload: int
    size: int
    sum: int
    note: int
    note_size: int
    note_sum: int


@dataclass(frozen=True, eq=False)
class PackIndex:
    """Names and places of all artifacts, memory-mapped.

    `tables` are pairs of an artifact and a fingerprint; `shards` and `others` name every file of the pack.
    """

    tables: tuple[tuple[str, str], ...]
    shards: tuple[str, ...]
    others: tuple[str, ...]
    names: NDArray[Any]
    places: NDArray[Any]

    def find(self, name: str) -> Place | None:
        """Where the entry of that name lies (see `augment.store.entries.entry_name`), or None."""
        packed = self._packed(name)
        if packed is None:
            return None
        at = int(np.searchsorted(self.names, np.bytes_(packed)))
        if at == len(self.names) or self.names[at] != packed.rstrip(b"\0"):
            return None
        return Place(*self.places[at].tolist())

    def __iter__(self) -> Iterator[str]:
        """The names of all entries."""
        for packed in self.names:
            table, key, variant = _NAME.unpack(bytes(packed).ljust(_NAME.size, b"\0"))
            artifact, fingerprint = self.tables[table]
            yield entry_name(artifact, fingerprint, key.hex(), None if variant == _NO_VARIANT else variant)

    def _packed(self, name: str) -> bytes | None:
        parts = name.split("/")
        try:
            table = self.tables.index((parts[0], parts[1]))
            variant = int(parts[3]) if len(parts) == 4 else _NO_VARIANT
            return _NAME.pack(table, bytes.fromhex(parts[2]), variant) if len(parts) in (3, 4) else None
        except (ValueError, IndexError, struct.error):
            return None

    @classmethod
    def load(cls, path: Path) -> PackIndex:
        """The index in a file. Raises CorruptEntry if a bit of it is not as it was written."""
        try:
            with open_regular(path) as file:
                magic, checksum, length, count = _HEADER.unpack(file.read(_HEADER.size))
                size = os.fstat(file.fileno()).st_size
                width = _NAMES.itemsize + _PLACE.itemsize
                if magic != _MAGIC or size != _HEADER.size + length + count * width:
                    raise ValueError(f"it is not an index, or torn: {size} bytes")
                whole = np.memmap(file, np.uint8, "r", 0)
            if xxhash.xxh3_64_intdigest(whole[_HEADER.size :].data) != checksum:
                raise ValueError("its checksum does not match")
            text = json.loads(bytes(whole[_HEADER.size : _HEADER.size + length]))
            start = _HEADER.size + length
            end = start + count * _NAMES.itemsize
            names, places = whole[start:end].view(_NAMES), whole[end:].view(_PLACE)
            tables = tuple((str(artifact), str(fingerprint)) for artifact, fingerprint in text["tables"])
            shards, others = tuple(map(str, text["shards"])), tuple(map(str, text["others"]))
            if not all(_SHARD.fullmatch(shard) for shard in shards) or not all(map(_OTHER.fullmatch, others)):
                raise ValueError("it names files outside the pack")
            numbers = names.view(np.uint8).reshape(count, _NAMES.itemsize)[:, :2].astype(np.uint16)
            if count and (int((numbers[:, 0] << 8 | numbers[:, 1]).max()) >= len(tables)):
                raise ValueError("it names artifacts of no table")
            if count and int(places["shard"].max()) >= len(shards):
                raise ValueError("it names shards that are not in its list")
        except (OSError, struct.error, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise CorruptEntry(f"the index {path} cannot be read: {error}") from error
        return cls(tables, shards, others, names, places)

    @staticmethod
    def save(
        path: Path,
        shards: Sequence[str],
        others: Sequence[str],
        entries: Mapping[tuple[str, str, str, int | None], Place],
    ) -> None:
        """Write the index of `entries`: artifact, fingerprint, key and variant to a place."""
        tables = sorted({name[:2] for name in entries})
        numbers = {table: number for number, table in enumerate(tables)}
        rows = sorted(
            (_NAME.pack(numbers[name[:2]], bytes.fromhex(name[2]), _NO_VARIANT if name[3] is None else name[3]), place)
            for name, place in entries.items()
        )
        text = json.dumps({"tables": tables, "shards": list(shards), "others": list(others)}).encode()
        text += b" " * (-(_HEADER.size + len(text)) % 8)
        names = np.array([packed for packed, _ in rows], _NAMES)
        places = np.array([tuple(vars(place).values()) for _, place in rows], _PLACE)
        data = text + names.tobytes() + places.tobytes()
        header = _HEADER.pack(_MAGIC, xxhash.xxh3_64_intdigest(data), len(text), len(rows))
        write_atomically(path, header + data)


class Pack(Store):
    """A folder of shards, read by any number of processes, by fork and spawn, also on NFS and on read-only mounts.

    Nothing is ever written: misses are not noted. Raises StoreError if the folder holds no whole pack.
    """

    _files: dict[int, _Descriptor]  # open files of this process by shard
    _pid: int

    def __init__(self, directory: str | Path) -> None:
        super().__init__()
        self.directory = Path(directory).expanduser().absolute()
        self._reset()
        try:
            settings = json.loads(read_text(self.directory / "store.json"))
            found = settings["kind"], settings["format"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{self.directory} is not a whole pack: {error!r}; export or copy it again") from error
        if found != (KIND, FORMAT):
            raise StoreError(f"{self.directory} is a {found[0]} of format {found[1]}, not a pack of format {FORMAT}")
        try:
            self.index = PackIndex.load(self.directory / INDEX_FILE)
        except CorruptEntry as error:
            raise StoreError(f"{error}; export or copy the pack again") from error

    @property
    def location(self) -> str:
        """Its folder."""
        return str(self.directory)

    def names(self) -> Iterator[str]:
        """Every entry's name."""
        return iter(self.index)

    def get(self, name: str) -> memoryview | None:
        """The artifact's bytes, checked, or None; its provenance is not read."""
        place = self.index.find(name)
        if place is None:
            return None
        try:
            return self._bytes(place.shard, place.payload, place.size, place.sum)
        except CorruptEntry as error:
            self.report_damage(name, error)
            return None

    def recipes(self) -> list[Record]:
        """The recipes it was filled with, the latest last; a damaged record is left out, and said once."""
        found = []
        for path in sorted((self.directory / "recipes").glob("*.json")):
            try:
                found.append(Record.from_json(read_text(path)))
            except (OSError, ValueError) as error:
                self.report_damage(f"recipes/{path.name}", error)
        return sorted(found, key=lambda record: record.updated)

    def pool(self, record: Record) -> PoolIndex:
        """The images whose backgrounds may serve others; none, and said once, if the index is damaged."""
        try:
            return PoolIndex.load(self.directory / "pools" / f"{record.background}.index")
        except CorruptEntry as error:
            self.report_damage(f"pools/{record.background}.index", error)
            return PoolIndex.of({})

    def scenes(self) -> SceneIndex:
        """The scenes, which may serve any image; none, and said once, if their index is damaged."""
        try:
            return SceneIndex.load(self.directory / SCENES_FILE)
        except CorruptEntry as error:
            self.report_damage(SCENES_FILE, error)
            return SceneIndex.of(())

    def keys_at(self, path: str) -> list[str]:
        """The keys of the image at `path`: none, one, or two if EXIF turns it."""
        try:
            return self._paths.keys(path)
        except CorruptEntry as error:
            self.report_damage(self._paths.file.name, error)
            return []

    def _find(self, name: str) -> Entry | None:
        place = self.index.find(name)
        if place is None:
            return None
        payload = self._bytes(place.shard, place.payload, place.size, place.sum)
        return Entry.of(payload, self._bytes(place.shard, place.note, place.note_size, place.note_sum))

    def _bytes(self, shard: int, offset: int, size: int, checksum: int) -> memoryview:
        if size > MAX_ENTRY:
            raise CorruptEntry(f"an artifact of {size} bytes")
        data = np.empty(size, np.uint8)  # may be written to, so that a raw image needs no copy to become a composite
        try:
            file = self._file(shard)
            read = os.preadv(file.number, [data.data], offset) if size else 0
        except (OSError, OverflowError) as error:  # too large an offset
            raise CorruptEntry(str(error)) from error
        if read != size or xxhash.xxh3_64_intdigest(data.data) != checksum:
            raise CorruptEntry("its checksum does not match" if read == size else f"{read} of {size} bytes are there")
        return data.data

    def _file(self, shard: int) -> _Descriptor:
        """The open file; each process opens its own. It stays open for as long as the caller holds it."""
        if self._pid != os.getpid():
            self._files, self._opening, self._pid = {}, threading.Lock(), os.getpid()
        with self._opening:
            if shard not in self._files:
                if len(self._files) >= _OPEN:
                    del self._files[next(iter(self._files))]  # closed once no thread reads from it
                with open_regular(self.directory / self.index.shards[shard]) as file:
                    self._files[shard] = _Descriptor(os.dup(file.fileno()))
            return self._files[shard]

    def _reset(self) -> None:
        self._files, self._opening, self._pid = {}, threading.Lock(), os.getpid()
        self._reported = set()
        self._paths = PathIndex(self.directory / PATHS_FILE)

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Pack.__init__(self, state["directory"])


class _Descriptor:
    """An open file, which is closed with the last reference to it: another thread may be reading from it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def note_bytes(provenance: Provenance) -> bytes:
    """A provenance as its member of a shard."""
    return json.dumps(provenance, ensure_ascii=False, default=str).encode(errors="surrogatepass")
