"""One budget over all shards of a cache: whole images go, never a single entry. Scenes, which serve every image, go
last."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from augment.artifacts import CAPTION, MATTE, PLATE, SCENE, STEP
from augment.errors import CorruptEntry
from augment.store.shard import Row, Shards

_TARGET = 0.98  # of the limit: what is evicted at once, since finding the oldest images takes a look at every entry
# A kill midway must leave nothing that looks complete: the matte goes last. Prompts and backgrounds have rank 1.
_RANKS = {STEP.name: 0, PLATE.name: 0, CAPTION.name: 2, MATTE.name: 3}


class Keeping(Protocol):
    """What a running prewarm needs, and what it can do without."""

    def keeps(self, fingerprint: str, key: str) -> bool:
        """Whether the entries of an image that were made under a stage's fingerprint must stay."""

    def has_given_up(self, key: str) -> bool:
        """Whether an image is to be left out because it does not fit."""

    def give_up(self, own: str) -> Iterable[str]:
        """The entries of an image that is left out from now on; none if every image but `own` is complete, whose
        entry is the one that does not fit."""


@dataclass
class Image:
    """What a cache holds of one image, or of one prompt's scenes: its entries, their bytes, and when the latest was
    stored."""

    names: list[str] = field(default_factory=list)
    nbytes: int = 0
    stored: float = 0.0
    has_scenes: bool = False

    def add(self, row: Row) -> None:
        """Count an entry."""
        self.names.append(row.name)
        self.nbytes += row.nbytes
        self.stored = max(self.stored, row.stored)
        self.has_scenes |= is_scene(row.name)


def parts_of(name: str) -> tuple[str, str, str]:
    """The artifact, fingerprint and key of an entry's name; a name of another form is its own key."""
    parts = name.split("/")
    return (parts[0], parts[1], parts[2]) if len(parts) >= 3 else ("", "", name)


def is_scene(name: str) -> bool:
    """Whether an entry is a scene; a prewarm keeps all of them."""
    return name.startswith(f"{SCENE.name}/")


def used(shards: Shards) -> int:
    """Bytes on disk; a shard that cannot be read counts as nothing."""
    total = 0
    for shard in shards.all:
        with suppress(OSError, sqlite3.Error, CorruptEntry):
            total += shard.nbytes()
    return total


def checkpoint(shards: Shards) -> None:
    """Empty the write-ahead logs into the databases."""
    for shard in shards.all:
        with suppress(OSError, sqlite3.Error, CorruptEntry):
            shard.checkpoint()


def rows(shards: Shards) -> Iterable[Row]:
    """Every entry of the shards that can be read."""
    for shard in shards.all:
        with suppress(OSError, sqlite3.Error, CorruptEntry):
            yield from shard.rows()


def make_room(shards: Shards, limit: int, own: str, keeping: Keeping | None) -> bool:
    """Evict images, those stored longest ago first, then scenes, until the shards take no more than `limit` bytes.

    The image with the key `own` stays, and what `keeping` keeps; if nothing else is left, `keeping` gives images up.
    Returns False if that is not enough.
    """
    if used(shards) <= limit or _settled(shards) <= limit:
        return True
    for image in sorted(_evictable(shards, own, keeping), key=lambda image: (image.has_scenes, image.stored)):
        evict(shards, image.names)
        if _settled(shards) <= limit * _TARGET:
            return True
    while _settled(shards) > limit:
        names = list(keeping.give_up(own)) if keeping is not None else []
        if not names:
            return False
        evict(shards, names)
    return True


def evict(shards: Shards, names: Iterable[str]) -> None:
    """Drop an image's entries, the matte last."""
    for name in sorted(names, key=lambda name: _RANKS.get(parts_of(name)[0], 1)):
        with suppress(FileNotFoundError, CorruptEntry):
            shards.of(name).delete(name)


def _evictable(shards: Shards, own: str, keeping: Keeping | None) -> Iterable[Image]:
    images: dict[str, Image] = {}
    for row in rows(shards):
        _, fingerprint, key = parts_of(row.name)
        if key != own and not (keeping is not None and (is_scene(row.name) or keeping.keeps(fingerprint, key))):
            images.setdefault(key, Image()).add(row)
    return images.values()


def _settled(shards: Shards) -> int:
    checkpoint(shards)
    return used(shards)
