"""Open a store, whatever its kind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from augment.errors import InputError, StoreError
from augment.store.cache import Cache
from augment.store.files import read_text
from augment.store.pack import KIND, Pack
from augment.store.records import Store
from augment.store.remote import fetch, is_url
from augment.store.settings import FOLDERS, SETTINGS_FILE


def open_store(store: Store | str | Path) -> Store:
    """The cache or pack at a path, the pack at a URL (copied here first), or the store itself.

    Raises StoreError if there is none, InputError if `store` is something else.
    """
    if isinstance(store, Store):
        return store
    if not isinstance(store, str | os.PathLike):
        raise InputError(f"store: {store!r} is neither a store nor its path")
    path = fetch(store) if isinstance(store, str) and is_url(store) else Path(store).expanduser()
    if not os.path.lexists(path / SETTINGS_FILE) and not (path / FOLDERS[0]).is_dir():
        raise StoreError(
            f"{path} is not a store: it has no {SETTINGS_FILE}; make one with `augment prewarm IMAGES --cache {path}`"
        )
    return Pack(path) if _settings(path).get("kind") == KIND else Cache(path)


def _settings(path: Path) -> dict[str, Any]:
    """What the settings file says; nothing if it is damaged, which is for the store to say."""
    try:
        found = json.loads(read_text(path / SETTINGS_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
