"""`augment reject`: what a person has found to be bad is not used any more, and backgrounds are drawn anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from augment.artifacts import BACKGROUND, MATTE
from augment.chain import Chain
from augment.errors import InputError, StoreError
from augment.recipe import Recipe
from augment.store.cache import Cache
from augment.store.eviction import parts_of
from augment.store.open import open_store
from augment.store.reader import Reader, rejection_name
from augment.store.records import Record

REASON = "rejected by a person"


@dataclass
class Rejection:
    """How many mattes and backgrounds were rejected, and the names in the list that the cache does not hold."""

    mattes: int = 0
    backgrounds: int = 0
    unknown: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"rejected mattes: {self.mattes}, backgrounds: {self.backgrounds}"
        if self.backgrounds:
            text += "; prewarm again to draw the backgrounds anew"
        for name in self.unknown[:10]:
            text += f"\nnot in the cache: {name}"
        left = len(self.unknown) - 10
        return text + (f"\n… and {left} more" if left > 0 else "")


def run(path: Path, file: Path) -> Rejection:
    """Reject what a list names: one entry per line, as the gallery saves it; `#` begins a comment.

    Raises StoreError if `path` is not a cache that can be written, InputError if the list cannot be read.
    """
    store = open_store(path)
    if not isinstance(store, Cache):
        raise StoreError(f"{path} is a pack, which cannot be changed: reject in the cache it was exported from")
    return reject(store, _read(file))


def reject(cache: Cache, names: Iterable[str]) -> Rejection:
    """Make mattes unusable, and backgrounds missing; `names` are those of their entries.

    The next prewarm draws a rejected background with another seed. Neither serves other images any more. Raises
    StoreError if the cache cannot be written, RecipeError if its record names a backend that is not installed.
    """
    found = Rejection()
    records = cache.recipes()
    for name in dict.fromkeys(names):
        artifact, fingerprint, key = parts_of(name)
        using = [record for record in records if record.artifacts.get(artifact) == fingerprint]
        if artifact == MATTE.name and using and _reject_matte(cache, using, key):
            found.mattes += 1
        elif artifact == BACKGROUND.name and using and _reject_background(cache, using[0], name, key):
            found.backgrounds += 1
        else:
            found.unknown.append(name)
    return found


def _reject_matte(cache: Cache, records: list[Record], key: str) -> bool:
    reader = Reader(cache, records[0])
    before = reader.find(MATTE, key)
    if before is None:
        return False
    matte, provenance = before
    data = MATTE.encode(replace(matte, unusable=REASON), cache.image_format)
    for record in records:
        cache.remove_from_pool(record, [key])
    cache.put(reader.name(MATTE, key), data, provenance)
    return True


def _reject_background(cache: Cache, record: Record, name: str, key: str) -> bool:
    """Drop it, and what it was made from: an enriched background is drawn anew from its first draft on."""
    variant = name.split("/")[3:]
    if len(variant) != 1 or not variant[0].isdecimal() or cache.entry(name) is None:
        return False
    chain = Chain(Recipe.from_toml(record.toml), cache)
    drawn = [chain.name(kind, key, int(variant[0])) for kind in chain.kinds if kind.makes is BACKGROUND]
    first = cache.provenance(drawn[0]) or {}
    attempt = first.get("attempt")
    note = {"tried": attempt + 1 if type(attempt) is int else 1, "reason": REASON}
    cache.put(rejection_name(drawn[0]), b"", note)
    for each in reversed(drawn):
        cache.delete(each)
    return True


def _read(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not a text file: save the list from the gallery") from error
    except OSError as error:
        raise InputError(f"{file}: the list cannot be read: {error.strerror}") from error
    names = [name for line in lines if (name := line.partition("#")[0].strip())]
    if not names:
        raise InputError(f"{file} names nothing: mark images in the gallery and save the list")
    return names
