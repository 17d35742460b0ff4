"""How one entry of a store is laid out: a checksum, where it came from, and the artifact's bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

import xxhash

from augment.errors import CorruptEntry

_HEADER = struct.Struct("<4sQI")  # magic, xxh3-64 of all that follows, length of the provenance
_CHECKED = 12  # where what the checksum covers begins
_MAGIC = b"AUG1"

Provenance = dict[str, Any]


def entry_name(artifact: str, fingerprint: str, key: str, variant: int | None = None) -> str:
    """The name an artifact is stored under; prompts and backgrounds have one for each variant."""
    name = f"{artifact}/{fingerprint}/{key}"
    return name if variant is None else f"{name}/{variant}"


def seal(payload: bytes, provenance: Provenance) -> bytes:
    """Join an artifact's bytes with its provenance, under a checksum of both."""
    meta = json.dumps(provenance, ensure_ascii=False, default=str).encode()
    checked = struct.pack("<I", len(meta)) + meta + payload
    return struct.pack("<4sQ", _MAGIC, xxhash.xxh3_64_intdigest(checked)) + checked


def unseal(data: bytes | memoryview) -> memoryview:
    """The artifact's bytes, without a copy. Raises CorruptEntry where a single bit is not as it was sealed."""
    return memoryview(data)[_HEADER.size + _checked_length(data) :]


def provenance_of(data: bytes | memoryview) -> Provenance:
    """Where the entry came from. Raises CorruptEntry like `unseal`."""
    provenance: Provenance = json.loads(bytes(data[_HEADER.size : _HEADER.size + _checked_length(data)]))
    return provenance


def _checked_length(data: bytes | memoryview) -> int:
    if len(data) < _HEADER.size:
        raise CorruptEntry(f"{len(data)} bytes are too few for an entry")
    magic, checksum, length = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptEntry(f"it begins with {magic!r}, not {_MAGIC!r}")
    if xxhash.xxh3_64_intdigest(memoryview(data)[_CHECKED:]) != checksum:
        raise CorruptEntry("its checksum does not match")
    return int(length)
