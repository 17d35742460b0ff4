"""What a cache remembers of how it is to be kept: `store.json` in its folder."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from augment.artifacts import ImageCodec
from augment.errors import StoreError
from augment.store.files import read_text, set_aside, write_atomically

logger = logging.getLogger(__name__)

SETTINGS_FILE = "store.json"
FORMAT = 1
_UNFINISHED = re.compile(r"\.lock|store\.json\.[0-9a-f]+\.tmp")  # of a cache whose creation was interrupted
FOLDERS = ("entries", "recipes", "pools", "misses")


@dataclass(frozen=True)
class Settings:
    """`size_limit` is in bytes (None: no limit); `codec` and `quality` say how backgrounds are kept."""

    size_limit: int | None = None
    codec: ImageCodec = "jpeg"
    quality: int = 75

    def changed(self, size_limit: float | None, codec: str | None, quality: int | None) -> Settings:
        """With what is not None in place of what was; an infinite `size_limit` is none. Raises StoreError."""
        wanted: dict[str, Any] = {"codec": codec, "quality": quality, "size_limit": size_limit}
        for name, value in wanted.items():
            if value is not None and (problem := _problem(name, value)):
                raise StoreError(f"{name}: {problem}")
        changes = {name: value for name, value in wanted.items() if value is not None}
        if size_limit is not None:
            changes["size_limit"] = None if size_limit == math.inf else int(size_limit)
        return replace(self, **changes)


def load_or_create(folder: Path, size_limit: float | None, codec: str | None, quality: int | None) -> Settings:
    """The settings of the cache at `folder`, with these changes; an empty folder becomes a cache.

    A damaged file is set aside, which is said. The caller holds the cache's lock. Raises StoreError and OSError.
    """
    path = folder / SETTINGS_FILE
    for name in FOLDERS:
        inner = folder / name
        if os.path.lexists(inner) and (inner.is_symlink() or not inner.is_dir()):
            raise StoreError(f"{inner} is a link or a file where a cache has a folder: remove it")
    before = read(path)
    if before is None:
        others = [other.name for other in folder.iterdir() if not _UNFINISHED.fullmatch(other.name)]
        if others and "entries" not in others:
            raise StoreError(f"{folder} is not empty and not a cache: name another folder")
        if others:
            logger.warning("%s has lost its settings: they are as in a new cache from now on", folder)
    settings = (before or Settings()).changed(size_limit, codec, quality)
    if settings != before:
        write_atomically(path, json.dumps({"format": FORMAT, "kind": "cache"} | asdict(settings), indent=1).encode())
    return settings


def read(path: Path) -> Settings | None:
    """The settings in a file; None if there is none, or after setting a damaged one aside.

    A field that is not allowed is as in a new cache, and said. Raises StoreError for a store of another kind or format.
    """
    try:
        found = json.loads(read_text(path))
        kind, number = found["kind"], found["format"]
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        aside = set_aside(path)
        logger.warning("%s cannot be read (%r); it is kept as %s", path, error, aside.name)
        return None
    if (kind, number) != ("cache", FORMAT):
        raise StoreError(
            f"{path.parent} is a {kind} of format {number}; this version of augment writes caches of format {FORMAT}"
        )
    values: dict[str, Any] = {}
    for name in ("size_limit", "codec", "quality"):
        value = found.get(name)
        if value is None or (name, value) == ("size_limit", math.inf):
            continue
        if problem := _problem(name, value):
            logger.warning("%s: %s: %s; the setting is ignored", path, name, problem)
        else:
            values[name] = value
    return Settings(**values)


def parse_size(text: str) -> float:
    """Bytes from text such as 500MB, 10GB or none (no limit: infinity). Raises StoreError."""
    if text.strip().lower() in ("none", "inf"):
        return math.inf
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    factors = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    factor = factors.get(number[-1:], 1)
    try:
        size = float(number[:-1] if factor > 1 else number) * factor
        if not 1 <= size < 2**62:
            raise ValueError
    except ValueError:
        raise StoreError(f"size limit: {text!r} is not a size; write 500MB, 10GB, or none") from None
    return int(size)


def _problem(name: str, value: Any) -> str | None:
    if name == "codec":
        return None if value in get_args(ImageCodec) else f"{value!r} is not one of {', '.join(get_args(ImageCodec))}"
    if name == "quality":
        return None if type(value) is int and 1 <= value <= 100 else f"{value!r} is not within 1 … 100"
    allowed = value == math.inf or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**62)
    return None if allowed else f"{value!r} is not a positive number of bytes (math.inf: no limit)"
