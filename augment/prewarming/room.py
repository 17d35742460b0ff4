"""Which images of a prewarm fit within the size limit of its cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from augment.chain import Chain
from augment.errors import InputError
from augment.store.eviction import Image, is_scene, parts_of
from augment.store.files import read_text, write_atomically
from augment.store.reader import step_name
from augment.store.shard import COUNT

logger = logging.getLogger(__name__)

_EMPTY = COUNT * 2**15  # bytes that a cache without images takes
_MARGIN = 2**16  # bytes by which the size of the same cache differs from run to run


class Room:
    """The images that a prewarm keeps, and those that it leaves out because they do not fit.

    An image that fits only in part is removed whole, the last ones first, so that the others become complete. A later
    run with the same limit leaves the same number out without computing anything. `is_done` says of a key whether
    nothing is left to be made of it.
    """

    def __init__(self, chain: Chain, variants: int, is_done: Callable[[str], bool]) -> None:
        self.chain, self.variants, self.is_done = chain, variants, is_done
        self.limit = chain.cache.size_limit
        self.given_up: set[str] = set()
        self._fingerprints = set(chain.fingerprints.values())
        self._known: set[str] = set()
        self._last: list[str] = []  # keys of this run in order; complete ones are struck off its end
        self._there: set[str] = set()  # images of which the cache has something
        self._free = self._needed = self._too_little = 0.0

    def open(self, names: Sequence[str], keys: Callable[[], set[str]]) -> None:
        """Look what there is room for, before the work on the images of these names; says if it is not enough.

        `keys` decodes all of them to find their keys.

        Raises InputError if not even an empty cache fits.
        """
        cache = self.chain.cache
        if self.limit is None:
            return
        if self.limit < _EMPTY:
            raise InputError(
                f"size_limit: {self.limit} bytes are less than the {_EMPTY} that an empty cache takes; raise it"
            )
        record = self.chain.recipe.record(self.variants)
        pool = cache.pool(record).entries() if cache.has_pool(record) else {}
        paths = [name for name in names if Path(name).suffix]
        self._known = {key for path in paths for key in cache.keys_at(path)}
        if len(paths) < len(names) and cache.nbytes() > self.limit / 2:
            self._known |= keys()  # a Dataset's images have no paths; soon it matters which of the cache are among them
        images: dict[str, Image] = {}
        evictable = scenes = 0
        for row in cache.rows():
            _, fingerprint, key = parts_of(row.name)
            if self.keeps(fingerprint, key):
                images.setdefault(key, Image()).add(row)
            elif is_scene(row.name):
                scenes += row.nbytes
            else:
                evictable += row.nbytes
        sizes = [images[key].nbytes for key, entry in pool.items() if key in images and entry.variants >= self.variants]
        cache.checkpoint()
        self._free = self.limit - cache.nbytes() + evictable
        self._there = set(images)
        self._too_little = self._free_when_full()
        self._needed = sum(sizes) / len(sizes) if sizes else 0.0
        fit = int(max(0.0, self.limit - _EMPTY - scenes) / self._needed) if sizes else len(names)
        if fit < len(names):
            logger.warning(
                "%s: about %d of these %d images will fit in its size limit of %.1f MB: raise it or lower the variants",
                cache,
                fit,
                len(names),
                self.limit / 1e6,
            )

    def admit(self, key: str) -> bool:
        """Take an image up; False if nothing of it is there yet and it will not fit."""
        if self.limit is None:
            return True
        if key not in self._there:
            if self.given_up or self._free <= max(self._needed, self._too_little + _MARGIN):
                self.given_up.add(key)
                return False
            self._free -= self._needed
        self._known.add(key)
        self._last.append(key)
        return True

    def keeps(self, fingerprint: str, key: str) -> bool:
        """Whether the entries of an image that were made under a stage's fingerprint must stay."""
        return key in self._known and fingerprint in self._fingerprints

    def has_given_up(self, key: str) -> bool:
        """Whether an image is to be left out because it does not fit."""
        return key in self.given_up

    def give_up(self, own: str) -> Iterable[str]:
        """The entries of the last image that is not complete, which is left out from now on; none if all are.

        `own` is the image whose entry does not fit: it counts as not complete.
        """
        while self._last:
            key = self._last.pop()
            if key == own or not self.is_done(key):
                self.given_up.add(key)
                return list(self._names(key))
        return []

    def close(self) -> int:
        """Note for the next run how much room was too little; returns how many images were left out."""
        path = self._note()
        if self.limit is not None and self.given_up:
            self.chain.cache.checkpoint()
            left = {"free": self.limit - self.chain.cache.nbytes(), "variants": self.variants}
            with suppress(OSError):  # then the next run tries once more
                write_atomically(path, json.dumps(left).encode())
        elif path.is_file():
            path.unlink()
        return len(self.given_up)

    def _free_when_full(self) -> float:
        """How much room was too little for another image in an earlier run; less than nothing if none ran out."""
        try:
            found: Any = json.loads(read_text(self._note()))
            free, variants = found["free"], found["variants"]
            return float(free) if type(free) is int and variants <= self.variants else -float(_MARGIN)
        except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return -float(_MARGIN)

    def _note(self) -> Path:
        record = self.chain.recipe.record(self.variants)
        return self.chain.cache.directory / "pools" / f"{record.background}.full"

    def _names(self, key: str) -> Iterable[str]:
        for kind in self.chain.kinds:
            for variant in range(self.variants) if kind.per_variant else [None]:
                name = self.chain.name(kind, key, variant)
                pictures = (self.chain.cache.provenance(name) or {}).get("pictures")
                yield from (step_name(name, str(step)) for step in (pictures if isinstance(pictures, list) else []))
                yield name
