"""The cache: it holds only bytes, entries are intact or missing, and many processes can use it, forked or spawned."""

import json
import logging
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import diskcache
import pytest

from augment import Cache, open_store
from augment.errors import StoreError
from augment.store.disk import BytesDisk
from augment.store.records import Record, find_record
from augment.store.scenes import scenes_among
from augment.testing import StoreTests


class TestCacheAsAStore(StoreTests):
    """A cache passes the tests of every store."""

    def make(self, folder, entries, record, pool, paths):
        cache = Cache(folder)
        for name, (payload, provenance) in entries.items():
            cache.put(name, payload, provenance)
        cache.add_record(record)
        cache.add_to_pool(record, pool)
        cache.add_paths(paths.items())
        cache.add_scenes(scenes_among(entries))
        return Cache(folder)

    def damage(self, store, name):
        data = bytearray(bytes(store._open().get(name)))
        data[-3] ^= 1
        store._open().set(name, bytes(data))
        store.close()


LARGE = bytes(range(256)) * 400  # beyond diskcache's 32 KiB, so it is stored in its own file


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_an_entry_is_read_with_its_provenance(cache):
    for name, payload in (("matte/f/k", b"small"), ("background/f/k/0", LARGE)):
        written = cache.put(name, payload, {"seed": 3})
        assert bytes(cache.get(name)) == payload
        assert cache.provenance(name) == {"seed": 3}
        assert written > len(payload)
    assert sorted(cache.names()) == ["background/f/k/0", "matte/f/k"]


def test_a_missing_entry_is_none(cache):
    assert cache.get("matte/f/k") is None
    assert cache.provenance("matte/f/k") is None


def test_a_later_put_replaces_an_earlier_one(cache):
    cache.put("a", LARGE, {})
    cache.put("a", b"new", {})
    assert bytes(cache.get("a")) == b"new"


def test_a_deleted_entry_is_gone(cache):
    cache.put("a", b"1", {})
    cache.delete("a")
    cache.delete("never there")
    assert cache.get("a") is None


def values(directory):
    return list(Path(directory).rglob("*.val"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_file_is_a_miss_reported_once(cache, caplog, damage):
    cache.put("background/f/k/0", LARGE, {})
    (path,) = values(cache.directory)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes({"flip": bytes(data), "truncate": bytes(data[:100]), "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert cache.get("background/f/k/0") is None
        assert cache.get("background/f/k/0") is None
    assert [record.message.count("background/f/k/0 is damaged") for record in caplog.records] == [1]
    cache.put("background/f/k/0", LARGE, {})
    assert bytes(cache.get("background/f/k/0")) == LARGE


def test_a_file_that_was_removed_is_a_miss(cache):
    cache.put("a", LARGE, {})
    values(cache.directory)[0].unlink()
    assert cache.get("a") is None


def test_a_row_flipped_inside_sqlite_is_a_miss(cache):
    cache.put("a", b"payload", {})
    cache.close()
    for path in Path(cache.directory).rglob("cache.db"):
        with sqlite3.connect(path) as database:
            database.execute("UPDATE Cache SET value = ? WHERE key = 'a'", (b"garbage",))
        database.close()
    assert cache.get("a") is None


def test_a_broken_database_is_a_miss_and_not_a_crash(cache):
    cache.put("a", b"payload", {})
    cache.close()
    cache._open()
    for path in Path(cache.directory).rglob("cache.db"):
        data = bytearray(path.read_bytes())
        data[4096:] = os.urandom(len(data) - 4096)
        path.write_bytes(data)
    assert cache.get("a") is None


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("large", [False, True])
def test_a_pickle_in_the_database_is_never_loaded(cache, tmp_path, monkeypatch, large):
    monkeypatch.chdir(tmp_path)
    cache.put("a", b"payload", {})
    cache.close()
    with diskcache.FanoutCache(str(cache.directory / "entries"), shards=8, disk=diskcache.Disk) as plain:
        plain.set("a", [Bomb(), b"x" * (100_000 if large else 1)])
        assert "a" in plain
    assert cache.get("a") is None
    assert not (tmp_path / "exploded").exists()


def test_the_disk_takes_only_text_keys_and_bytes(tmp_path):
    with diskcache.Cache(str(tmp_path), disk=BytesDisk) as plain:
        with pytest.raises(TypeError, match="bytes, not list"):
            plain["a"] = [1]
        with pytest.raises(TypeError, match="bytes, not str"):
            plain["a"] = "text"
        with pytest.raises(TypeError, match="text, not tuple"):
            plain[("a",)] = b"1"


def test_a_read_writes_nothing(cache):
    cache.put("a", LARGE, {})
    cache.put("b", b"small", {})
    cache.close()
    cache.get("a")
    before = {path: path.read_bytes() for path in cache.directory.rglob("cache.db*") if not path.name.endswith("-shm")}
    for name in ("a", "b", "missing") * 20:
        cache.get(name)
    assert {path: path.read_bytes() for path in before} == before


def test_the_size_limit_evicts_the_oldest_entries_first(tmp_path):
    cache = Cache(tmp_path, size_limit=8_000_000)
    for number in range(200):
        cache.put(f"entry {number}", LARGE, {})
    assert cache.nbytes() < 12_000_000
    assert cache.get("entry 0") is None
    assert cache.get("entry 199") is not None


def test_settings_are_remembered_and_can_be_changed(tmp_path):
    Cache(tmp_path / "c", codec="png", size_limit=10**9)
    again = Cache(tmp_path / "c")
    assert (again.codec, again.size_limit, again.quality) == ("png", 10**9, 75)
    assert Cache(tmp_path / "c", codec="raw").codec == Cache(tmp_path / "c").codec == "raw"


@pytest.mark.parametrize("settings", [{"codec": "webp"}, {"quality": 0}, {"size_limit": 0}])
def test_an_invalid_setting_is_named(tmp_path, settings):
    with pytest.raises(StoreError, match=next(iter(settings))):
        Cache(tmp_path / "c", **settings)


def test_a_folder_with_other_files_is_rejected_and_not_changed(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match="not empty and not a cache"):
        Cache(tmp_path)
    assert not (tmp_path / "store.json").exists()


def test_a_file_instead_of_a_folder_is_rejected(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot make a cache"):
        Cache(tmp_path / "file")


def test_a_cache_with_a_newer_format_is_rejected(tmp_path):
    Cache(tmp_path)
    settings = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(settings | {"format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        Cache(tmp_path)


def test_open_store_opens_a_store_and_names_a_missing_one(cache, tmp_path):
    cache.put("a", b"1", {})
    assert bytes(open_store(cache.directory).get("a")) == b"1"
    with pytest.raises(StoreError, match="nowhere is not a store"):
        open_store(tmp_path / "nowhere")


def recipe(name, fingerprint, variants=1):
    return Record(name, "", {"generate": fingerprint}, {"background": fingerprint}, variants)


def test_recipes_are_remembered_latest_last_with_the_most_variants(cache):
    cache.add_record(recipe("one", "f1", 3))
    cache.add_record(recipe("two", "f2"))
    cache.add_record(recipe("one", "f1", 2))
    assert [(held.name, held.variants) for held in Cache(cache.directory).recipes()] == [("two", 1), ("one", 3)]
    assert find_record(cache).name == "one"
    assert find_record(cache, "two").name == find_record(cache, "f2").name == "two"
    with pytest.raises(StoreError, match="it holds: one, two"):
        find_record(cache, "three")


def test_an_empty_cache_says_that_it_holds_no_recipe(cache):
    with pytest.raises(StoreError, match="holds no recipe yet"):
        find_record(cache)


def test_a_full_disk_is_one_clear_error(cache, monkeypatch):
    cache.put("a", b"1", {})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BytesDisk, "store", full)
    with pytest.raises(StoreError, match="cannot write to the cache .* No space left"):
        cache.put("b", b"2", {})
    monkeypatch.undo()
    assert bytes(cache.get("a")) == b"1"


def read(cache, name):
    return bytes(cache.get(name))


def write_many(directory, number, start):
    start.wait()
    cache = Cache(directory)
    for entry in range(20):
        cache.put(f"{number}/{entry}", LARGE if entry % 2 else b"small", {"writer": number})


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_many_processes_create_and_write_one_cache_at_once(tmp_path, method):
    context = multiprocessing.get_context(method)
    count = 8 if method == "fork" else 3
    start = context.Event()
    processes = [context.Process(target=write_many, args=(tmp_path / "c", n, start)) for n in range(count)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count
    cache = Cache(tmp_path / "c")
    assert len(cache.names()) == 20 * count
    assert all(cache.get(name) is not None for name in cache.names())


def test_many_threads_write_a_new_cache_at_once(tmp_path):
    # In a process of its own: what went wrong here once crashed it inside SQLite.
    program = f"""
from concurrent.futures import ThreadPoolExecutor
from augment import Cache

for n in range(15):
    cache = Cache(f"{tmp_path}/{{n}}")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: cache.put(f"background/f/{{i:032x}}/0", bytes(100), {{}}), range(100)))
    assert len(cache.names()) == 100
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_cache_that_was_never_opened_serves_forked_children(cache):
    Cache(cache.directory).put("a", b"1", {})
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(read, [(cache, "a")] * 4) == [b"1"] * 4
    with multiprocessing.get_context("fork").Pool(1, initializer=Inherited.set, initargs=(cache,)) as pool:
        assert pool.map(Inherited.read, ["a"]) == [b"1"]


class Inherited:
    """A cache that a child process inherits by fork, without pickling."""

    cache = None

    @classmethod
    def set(cls, cache):
        cls.cache = cache

    @classmethod
    def read(cls, name):
        return bytes(cls.cache.get(name))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_cache_serves_children_and_stays_usable(cache, method):
    cache.put("a", LARGE, {})
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(read, [(cache, "a")] * 8) == [LARGE] * 8
    cache.put("b", b"after", {})
    assert bytes(cache.get("b")) == b"after"


def test_a_cache_can_be_pickled_while_open(cache):
    cache.put("a", b"1", {})
    copy = pickle.loads(pickle.dumps(cache))
    assert bytes(copy.get("a")) == b"1"
    assert (copy.codec, copy.size_limit) == (cache.codec, cache.size_limit)


WRITER = """
import sys
from augment import Cache
cache = Cache(sys.argv[1])
number = 0
while True:
    cache.put(f"entry {number}", bytes([number % 256]) * 50_000, {})
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.17])
def test_a_killed_writer_leaves_every_finished_entry_intact(tmp_path, seconds):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "c")], stdout=subprocess.PIPE, text=True)
    writer.stdout.readline()
    time.sleep(seconds)
    writer.send_signal(signal.SIGKILL)
    finished = ["0", *writer.stdout.read().split("\n")[:-1]]
    writer.wait()
    writer.stdout.close()
    cache = Cache(tmp_path / "c")
    for number in map(int, finished):
        assert bytes(cache.get(f"entry {number}")) == bytes([number % 256]) * 50_000
    cache.put("after", b"1", {})
    assert bytes(cache.get("after")) == b"1"
