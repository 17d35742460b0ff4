"""`augment export` and `augment import`: a cache to a pack, and packs to a cache."""

from __future__ import annotations

import tempfile
from pathlib import Path

from augment.errors import StoreError
from augment.store.cache import Cache
from augment.store.open import open_store
from augment.store.pack import Pack
from augment.store.packing import export_pack, import_pack
from augment.store.remote import is_url, send


def export(cache: Path, url: str, select: str | None = None) -> str:
    """Write the cache as a pack to a folder or a URL; returns a summary. `select` names artifacts, with commas.

    Raises StoreError, InputError, UnavailableError.
    """
    store = open_store(cache)
    if not isinstance(store, Cache):
        raise StoreError(f"{cache} is a pack already: copy its folder")
    wanted = None if select is None else {name.strip() for name in select.split(",")}
    if not is_url(url):
        count = export_pack(store, Path(url.removeprefix("file://")), wanted)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            count = export_pack(store, Path(scratch, "pack"), wanted)
            send(Path(scratch, "pack"), url)
    return f"{count} artifacts exported to {url}"


def import_(url: str, cache: Path) -> str:
    """Merge the pack at a folder or a URL into a cache, which is made if need be; returns a summary.

    Raises StoreError, UnavailableError.
    """
    pack = open_store(url.removeprefix("file://"))
    if not isinstance(pack, Pack):
        raise StoreError(f"{url} is a cache, not a pack: export it first")
    added = import_pack(pack, Cache(cache))
    return f"{added} artifacts imported from {url}; {len(pack.index.names) - added} were there already or are damaged"
