"""A cache whose files are damaged or planted: a miss that is said, never a crash, a hang or wrong pixels."""

import gc
import os
import random
import shutil
import sqlite3
import time

import diskcache
import pytest

from augment import Cache
from augment.errors import StoreError
from augment.store.eviction import parts_of
from augment.store.pool import PoolEntry
from augment.store.verify import verify
from tests.faults.filled import LARGE, RECORD, copy, fill, key, read

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a whole cache, and its entries."""
    folder = tmp_path_factory.mktemp("whole") / "cache"
    return folder, fill(folder)


def write_again(folder):
    """What a prewarm would do: every method that writes works, and what it wrote is read."""
    cache = Cache(folder)
    cache.mend()
    cache.put("matte/f1/" + key(7), b"new", {})
    cache.put("background/f2/" + key(7) + "/0", LARGE, {})
    cache.add_record(RECORD)
    cache.add_to_pool(RECORD, {key(7): PoolEntry(None, 0.5, 1)})
    cache.add_paths([("/images/7.png", key(7))])
    cache.note_miss(RECORD, key(98))
    assert bytes(cache.get("matte/f1/" + key(7))) == b"new"
    assert bytes(cache.get("background/f2/" + key(7) + "/0")) == LARGE
    assert cache.recipes() == [RECORD]
    assert key(7) in cache.pool(RECORD).entries()
    assert cache.keys_at("/images/7.png") == [key(7)]
    cache.close()


FILES = ["store.json", "recipes/f2.json", "pools/f2.index", "pools/paths.index", "misses/f2.txt", "value", "database"]


def find(folder, name):
    """A file of a cache."""
    if name == "value":
        return next(folder.rglob("*.val"))
    return next(folder.rglob("cache.db")) if name == "database" else folder / name


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_byte_is_harmless_and_repaired(whole, tmp_path, tries, name):
    source, entries = whole
    draw = random.Random(name)
    size = find(source, name).stat().st_size
    places = draw.sample(range(size), min(size, tries(4, 300)))
    for place in places:
        folder = copy(source, tmp_path / "cache")
        path = find(folder, name)
        data = bytearray(path.read_bytes())
        data[place] ^= draw.randrange(1, 256)
        path.write_bytes(data)
        found = read(folder, entries)
        assert found >= len(entries) - 1 or name in ("database", "store.json"), place
        check_repair(folder, entries)


@pytest.mark.parametrize("name", FILES)
def test_any_truncation_is_harmless_and_repaired(whole, tmp_path, tries, name):
    source, entries = whole
    size = find(source, name).stat().st_size
    lengths = random.Random(name).sample(range(size), min(size, tries(1, 100)))
    for length in {0, size - 1, *lengths}:
        folder = copy(source, tmp_path / "cache")
        with find(folder, name).open("r+b") as file:
            file.truncate(length)
        read(folder, entries)
        check_repair(folder, entries)


def check_repair(folder, entries):
    """After a repair nothing is wrong, and everything can be written; without one, writing works too."""
    unrepaired = copy(folder, folder.with_name("unrepaired"))
    try:
        cache = Cache(folder)
    except StoreError as error:
        if "of format" not in str(error):  # of another kind, or of a later format
            raise
        return
    write_again(unrepaired)
    verify(cache, repair=True)
    assert verify(Cache(folder)).wrong == []
    read(folder, entries)
    write_again(folder)


def test_one_damaged_database_of_eight_costs_its_own_entries_alone_and_is_said_once(whole, tmp_path, caplog):
    folder = copy(whole[0], tmp_path / "cache")
    entries = whole[1]
    (folder / "entries" / "000" / "cache.db").write_bytes(b"nothing of the kind" * 1000)
    cache = Cache(folder)
    lost = {name for name in entries if cache._open().of(name).folder.name == "000"}
    assert lost
    assert {name for name in entries if cache.get(name) is None} == lost
    assert set(cache.names()) == entries.keys() - lost
    assert sum("entries/000" in record.getMessage() for record in caplog.records) == 1
    for name in lost:
        cache.put(name, entries[name], {"group": "cup"})
    assert read(folder, entries) == len(entries)
    assert (folder / "entries" / "000.damaged").is_dir()


PLANTED = {
    "an absolute file name": "UPDATE Cache SET mode = 2, value = NULL, filename = '{victim}'",
    "a file name that leads out": "UPDATE Cache SET mode = 2, value = NULL, filename = '../../../../victim/file.val'",
    "a pickle": "UPDATE Cache SET mode = 4, value = X'80'",
    "text": "UPDATE Cache SET mode = 1, value = 'text', filename = NULL",
    "a number": "UPDATE Cache SET mode = 1, value = 7, filename = NULL",
    "an odd mode": "UPDATE Cache SET mode = 'x'",
    "a file name that is no text": "UPDATE Cache SET mode = 2, value = NULL, filename = X'ff00'",
    "a file name in no encoding": "UPDATE Cache SET mode = 2, value = NULL, filename = CAST(X'ff00' AS TEXT)",
    "a key that is no text": "UPDATE Cache SET key = X'ff00' WHERE rowid = 1",
    "a key in no encoding": "UPDATE Cache SET key = CAST(X'ff00' AS TEXT) WHERE rowid = 1",
    "an expiry": "UPDATE Cache SET expire_time = 1",
    "odd times and sizes": "UPDATE Cache SET store_time = 'x', size = 'y'",
    "a setting of diskcache": "UPDATE Settings SET value = 1 WHERE key = 'statistics'",
    "a pragma as a setting": "INSERT INTO Settings VALUES ('sqlite_temp_store_directory', '{victim}')",
    "an attribute as a setting": "INSERT INTO Settings VALUES ('_disk', 'x')",
    "a count that is text": "UPDATE Settings SET value = 'x' WHERE key IN ('count', 'size')",
    "no settings": "DELETE FROM Settings",
    "a trigger": "CREATE TRIGGER bad AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END",
    "a view": "CREATE VIEW bad AS SELECT 1",
    "another table": "CREATE TABLE bad (x)",
    "a missing index": "DROP INDEX Cache_key_raw",
    "a missing table": "DROP TABLE Cache",
    "another journal": "PRAGMA journal_mode = DELETE",
}


@pytest.mark.parametrize("statement", PLANTED.values(), ids=PLANTED)
def test_a_planted_row_or_setting_touches_nothing_outside(whole, tmp_path, statement):
    victim = tmp_path / "victim" / "file.val"
    victim.parent.mkdir()
    victim.write_bytes(b"precious")
    folder, entries = copy(whole[0], tmp_path / "cache"), whole[1]
    for path in folder.rglob("cache.db"):
        with sqlite3.connect(path) as database:
            database.execute(statement.format(victim=victim))
        database.close()
    read(folder, entries)
    unrepaired = copy(folder, tmp_path / "unrepaired")
    cache = Cache(unrepaired)
    for name in entries:
        cache.delete(name)
        cache.put(name, LARGE, {})
    cache.size_limit = 1
    with pytest.raises(StoreError, match="full"):
        cache.put("matte/f1/" + key(8), LARGE, {})
    check_repair(folder, entries)
    assert victim.read_bytes() == b"precious"
    assert os.listdir(tmp_path / "victim") == ["file.val"]


@pytest.mark.parametrize("where", [*FILES, "shard", "entries", "recipes", "pools", "misses", "folder of values", "wal"])
@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_planted_link_or_pipe_is_not_followed(whole, tmp_path, where, what):
    folder, entries = copy(whole[0], tmp_path / "cache"), whole[1]
    outside = tmp_path / "outside"
    path = {
        "shard": folder / "entries" / "000",
        "folder of values": find(folder, "value").parent,
        "wal": folder / "entries" / "000" / "cache.db-wal",
    }.get(where) or find(folder, where)
    if where == "wal":
        outside.write_bytes(b"precious")
    else:
        path.rename(outside)
    before = contents(outside)
    os.symlink(outside, path) if what == "link" else os.mkfifo(path)
    started = time.monotonic()
    try:
        read(folder, entries)
        check_repair(folder, entries)
    except StoreError as error:
        if "remove it" not in str(error):
            raise
    assert contents(outside) == before
    assert time.monotonic() - started < 30


def contents(path):
    """A file's bytes, or those of every file below a folder."""
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    return {str(file): file.read_bytes() for file in files if not file.name.endswith("-shm")}


def test_a_planted_journal_is_not_played_back(whole, tmp_path):
    folder = copy(whole[0], tmp_path / "cache")
    (folder / "entries" / "000" / "cache.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"x" * 1000)
    read(folder, whole[1])
    check_repair(folder, whole[1])


def test_diskcache_itself_can_open_a_cache(whole, tmp_path):
    folder = copy(whole[0], tmp_path / "cache")
    with diskcache.FanoutCache(str(folder / "entries"), shards=8) as plain:
        assert sorted(plain) == sorted(whole[1])
        assert plain.check() == []
    assert read(folder, whole[1]) == len(whole[1])


def test_a_cache_deleted_while_it_is_used_becomes_misses_and_is_not_made_again(whole, tmp_path, caplog):
    folder, entries = copy(whole[0], tmp_path / "cache"), whole[1]
    kept, fresh = Cache(folder), Cache(folder)
    assert kept.get(next(iter(entries))) is not None
    shutil.rmtree(folder)
    for cache in (kept, fresh):
        for name in entries:
            cache.get(name)
        cache.keys_at("/images/1.png")
        cache.pool(RECORD)
        cache.recipes()
        cache.note_miss(RECORD, key(5))
        with pytest.raises(StoreError, match="gone|cannot write"):
            cache.put("background/f2/" + key(5) + "/0", LARGE, {})
    assert not folder.exists()
    assert sum("is gone" in record.getMessage() for record in caplog.records) == 2  # once for each Cache
    assert Cache(folder).names() == []


def test_a_name_in_dollars_is_not_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "elsewhere")
    cache = Cache(tmp_path / "$SECRET" / "~")
    cache.put("a", LARGE, {})
    assert bytes(Cache(tmp_path / "$SECRET" / "~").get("a")) == LARGE
    assert os.listdir(tmp_path) == ["$SECRET"]


def test_files_that_no_entry_has_are_removed_by_mending(whole, tmp_path):
    folder = copy(whole[0], tmp_path / "cache")
    orphan = folder / "entries" / "000" / "ab" / "cd" / ("0" * 28 + ".val")
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(LARGE)
    (folder / "entries" / "000" / "new.db").write_bytes(b"")
    assert len(verify(Cache(folder)).wrong) == 2
    Cache(folder).mend()
    assert not orphan.exists()
    assert verify(Cache(folder)).wrong == []
    assert read(folder, whole[1]) == len(whole[1])


@pytest.mark.parametrize("word", [b"CREATE TABLE Cache", b"INTEGER PRIMARY", b"UPDATE Settings", b"ON Cache(key"])
def test_a_schema_in_no_encoding_is_a_damaged_shard(whole, tmp_path, word):
    folder = copy(whole[0], tmp_path / "cache")
    for path in folder.rglob("cache.db"):
        data = bytearray(path.read_bytes())
        data[data.index(word)] = 0xED
        path.write_bytes(data)
    assert read(folder, whole[1]) == 0
    check_repair(folder, whole[1])


def test_a_cache_that_is_dropped_closes_its_files_at_once(whole, tmp_path):
    folder = copy(whole[0], tmp_path / "cache")
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/dev/fd"))
        for _ in range(3):
            assert read(folder, whole[1]) == len(whole[1])
        assert len(os.listdir("/dev/fd")) <= before
    finally:
        gc.enable()


def test_files_that_a_killed_process_did_not_finish_are_removed_by_mending(whole, tmp_path):
    folder = copy(whole[0], tmp_path / "cache")
    left = [folder / name for name in ("store.json.0123456789abcdef.tmp", "pools/f2.index.0123456789abcdef.tmp")]
    for path in left:
        path.write_bytes(b"half")
    Cache(folder).mend()
    assert all(path.exists() for path in left), "another process may be writing them"
    for path in left:
        os.utime(path, (0, 0))
    assert len(verify(Cache(folder)).wrong) == 2
    Cache(folder).mend()
    assert verify(Cache(folder)).wrong == []
    assert read(folder, whole[1]) == len(whole[1])


def test_a_folder_whose_cache_was_never_finished_becomes_one(tmp_path):
    (tmp_path / "store.json.0123456789abcdef.tmp").write_bytes(b"{")
    (tmp_path / ".lock").touch()
    Cache(tmp_path).put("a", b"1", {})
    assert bytes(Cache(tmp_path).get("a")) == b"1"


def test_a_folder_that_lost_its_settings_is_still_a_cache(whole, tmp_path):
    folder = copy(whole[0], tmp_path / "cache")
    (folder / "store.json").unlink()
    assert read(folder, whole[1]) == len(whole[1])


def test_names_of_any_form_have_parts():
    assert parts_of("matte/f1/k") == ("matte", "f1", "k")
    assert parts_of("background/f1/k/0/step") == ("background", "f1", "k")
    assert parts_of("odd") == ("", "", "odd")
