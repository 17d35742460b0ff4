"""Packs at URLs: brought here once, by one process, and sent there whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock

from augment.errors import StoreError, UnavailableError

logger = logging.getLogger(__name__)

LAST = ("index.bin", "store.json")  # a pack is whole once the last of its files is there


def is_url(location: str) -> bool:
    """Whether it names something on another machine, such as s3://bucket/pack."""
    return "://" in location and not location.startswith("file://")


def send(folder: Path, url: str) -> None:
    """Copy a pack to a URL, shards first. Raises UnavailableError, StoreError."""
    filesystem, root = _open(url)
    try:
        if filesystem.exists(f"{root}/{LAST[-1]}"):
            raise StoreError(f"{url} holds a pack already: name another place")
        filesystem.makedirs(root, exist_ok=True)
        for name in sorted(_files(folder), key=lambda name: (name in LAST, LAST.index(name) if name in LAST else 0)):
            filesystem.put_file(str(folder / name), f"{root}/{name}")
    except StoreError:
        raise
    except Exception as error:  # each protocol has errors of its own
        raise StoreError(f"{url} cannot be written: {type(error).__name__}: {error}") from error


def fetch(url: str) -> Path:
    """The pack at a URL as a local folder, copied there at the first use on this machine.

    Many processes may ask at once: one copies, the others wait. AUGMENT_PACKS names the folder; it is augment-packs in
    the user's cache folder otherwise. Raises UnavailableError, StoreError.
    """
    base = os.environ.get("AUGMENT_PACKS") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "augment-packs"
    )
    folder = Path(base) / xxhash.xxh3_128_hexdigest(url.encode())
    if (folder / LAST[-1]).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / LAST[-1]).is_file():
            filesystem, root = _open(url)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                logger.info("copying the pack %s to %s", url, folder)
                try:
                    _copy(filesystem, root, Path(scratch, "pack"))
                except Exception as error:  # each protocol has errors of its own
                    raise StoreError(f"{url} cannot be read: {type(error).__name__}: {error}") from error
                if folder.exists():
                    shutil.rmtree(folder)
                Path(scratch, "pack").rename(folder)
    return folder


def _copy(filesystem: Any, root: str, folder: Path) -> None:
    # By name, from what the index lists: HTTP servers list no folders.
    from augment.store.pack import INDEX_FILE, PackIndex

    for part in ("recipes", "pools"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    filesystem.get_file(f"{root}/{INDEX_FILE}", str(folder / INDEX_FILE))
    index = PackIndex.load(folder / INDEX_FILE)
    for name in (*index.shards, *index.others, LAST[-1]):
        filesystem.get_file(f"{root}/{name}", str(folder / name))


def _open(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise UnavailableError('fsspec is not installed: pip install "augment-backgrounds[remote]"') from error
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # a protocol whose package is missing, or that nobody knows
        raise UnavailableError(f"{url}: {error}") from error
    return filesystem, root.rstrip("/")


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
