"""Open a store, whatever its kind."""

from __future__ import annotations

import os
from pathlib import Path

from augment.errors import StoreError
from augment.store.cache import Cache
from augment.store.records import Store
from augment.store.settings import FOLDERS, SETTINGS_FILE


def open_store(store: Store | str | Path) -> Store:
    """The store at a path, or the store itself. Raises StoreError if there is none."""
    if isinstance(store, Store):
        return store
    path = Path(store)
    if not os.path.lexists(path / SETTINGS_FILE) and not (path / FOLDERS[0]).is_dir():
        raise StoreError(
            f"{path} is not a store: it has no {SETTINGS_FILE}; make one with `augment prewarm IMAGES --cache {path}`"
        )
    return Cache(path)
