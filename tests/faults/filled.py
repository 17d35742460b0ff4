"""A small cache to break, and what may be read from it afterwards."""

import os
import shutil
import stat

import numpy as np

from augment import Cache, open_store
from augment.artifacts import BACKGROUND, MATTE, PLATE, ImageFormat, Matte, encode_image
from augment.errors import StoreError
from augment.store.entries import entry_name
from augment.store.pool import PoolEntry
from augment.store.records import Record
from augment.testing.pictures import scene

RECORD = Record("simple", "", {"remove": "f1", "generate": "f2"}, {"matte": "f1", "plate": "f3", "background": "f2"}, 2)
PARTS = ("matte/f1", "plate/f3", "background/f2")
LARGE = bytes(range(256)) * 200  # beyond diskcache's 32 KiB, so it is a file of its own


def key(number):
    return f"{number:032x}"


def made(part, number):
    """An artifact that says which image it belongs to."""
    if part.startswith("matte"):
        alpha = np.zeros((60, 60), np.uint8)
        alpha[10:50, 10 : 11 + number] = 255
        return MATTE.encode(Matte.from_full(alpha), ImageFormat())
    return encode_image(np.full((140, 120, 3), number, np.uint8), "raw")


def fill(folder, images=6):
    """A cache with that many images at `folder`, and its entries' payloads by name."""
    cache, form, entries = Cache(folder), ImageFormat("png"), {}
    for number in range(images):
        image, alpha = scene(number)
        entries[entry_name(MATTE.name, "f1", key(number))] = MATTE.encode(Matte.from_full(alpha), form)
        entries[entry_name(PLATE.name, "f3", key(number))] = PLATE.encode(image, form)
        entries[entry_name(BACKGROUND.name, "f2", key(number), 0)] = BACKGROUND.encode(image, ImageFormat("raw"))
    entries["other/f9/" + key(0)] = LARGE
    for name, payload in entries.items():
        cache.put(name, payload, {"group": "cup"})
    cache.add_record(RECORD)
    cache.add_to_pool(RECORD, {key(n): PoolEntry("cup", 0.2, 1) for n in range(images)})
    cache.add_paths([(f"/images/{n}.png", key(n)) for n in range(images)])
    cache.note_miss(RECORD, key(99))
    cache.checkpoint()
    cache.close()
    return entries


def copy(source, target):
    """A copy of a cache's folder in place of an older one."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, symlinks=True, copy_function=_copy)
    return target


def _copy(source, target, *, follow_symlinks=True):
    if stat.S_ISFIFO(os.lstat(source).st_mode):
        os.mkfifo(target)
    else:
        shutil.copyfile(source, target, follow_symlinks=follow_symlinks)


def read(folder, entries):
    """Use every reading method, each in a fresh Cache; how many of the entries are there. None reads wrong."""
    try:
        cache = open_store(folder)
    except StoreError:
        return 0
    found = 0
    for name, payload in entries.items():
        got = cache.get(name)
        assert got is None or bytes(got) == payload, name
        found += got is not None
        assert cache.provenance(name) in (None, {"group": "cup"})
    assert isinstance(Cache(folder).names(), list)
    assert Cache(folder).nbytes() >= 0
    for record in Cache(folder).recipes():
        assert record == RECORD
    pool = Cache(folder).pool(RECORD).entries()
    assert all(entry.group in (None, "cup") for entry in pool.values())
    assert Cache(folder).keys_at("/images/1.png") in ([], [key(1)])
    assert isinstance(Cache(folder).misses(RECORD).read(), set)
    cache.close()
    return found
