"""How one entry of a store is laid out: a checksum, where it came from, and the artifact's bytes."""

from __future__ import annotations

import json
import struct
from functools import cached_property
from typing import Any

import xxhash

from augment.errors import CorruptEntry

_HEADER = struct.Struct("<4sQI")  # magic, xxh3-64 of everything that follows, length of the provenance
_CHECKED = 12  # where the part begins that the checksum covers
_MAGIC = b"AUG1"

Provenance = dict[str, Any]


def entry_name(artifact: str, fingerprint: str, key: str, variant: int | None = None) -> str:
    """The name that an artifact is stored under; prompts and backgrounds have one for each variant."""
    name = f"{artifact}/{fingerprint}/{key}"
    return name if variant is None else f"{name}/{variant}"


def seal(payload: bytes | memoryview, provenance: Provenance) -> bytes:
    """Join an artifact's bytes with its provenance, under a checksum of both."""
    meta = json.dumps(provenance, ensure_ascii=False, default=str).encode(errors="surrogatepass")
    checked = b"".join((struct.pack("<I", len(meta)), meta, payload))
    return struct.pack("<4sQ", _MAGIC, xxhash.xxh3_64_intdigest(checked)) + checked


class Entry:
    """What was stored under one name. Raises CorruptEntry if a single bit is not as it was sealed.

    `payload` is the artifact's bytes, without a copy.
    """

    payload: memoryview

    def __init__(self, data: bytes | memoryview) -> None:
        if len(data) < _HEADER.size:
            raise CorruptEntry(f"{len(data)} bytes are too few for an entry")
        magic, checksum, length = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise CorruptEntry(f"it begins with {magic!r}, not {_MAGIC!r}")
        if xxhash.xxh3_64_intdigest(memoryview(data)[_CHECKED:]) != checksum:
            raise CorruptEntry("its checksum does not match")
        if length > len(data) - _HEADER.size:
            raise CorruptEntry(f"a provenance of {length} bytes in an entry of {len(data)}")
        whole, start = memoryview(data), _HEADER.size
        self._note, self.payload = whole[start : start + length], whole[start + length :]

    @classmethod
    def of(cls, payload: memoryview, note: memoryview) -> Entry:
        """An entry whose two parts are kept, and have been checked, apart."""
        entry = cls.__new__(cls)
        entry.payload, entry._note = payload, note
        return entry

    @cached_property
    def provenance(self) -> Provenance:
        """Where it came from. Raises CorruptEntry if that is not a JSON object."""
        try:
            provenance = json.loads(bytes(self._note))
        except (ValueError, RecursionError, MemoryError) as error:
            raise CorruptEntry(f"its provenance is not JSON: {error}") from error
        if not isinstance(provenance, dict):
            raise CorruptEntry(f"its provenance is {type(provenance).__name__}, not an object")
        return provenance
