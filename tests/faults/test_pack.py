"""A pack whose files are damaged or a stranger's: refused, or its entries are missing; never wrong, never a crash."""

import json
import random
import tarfile
from contextlib import suppress

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from augment import Cache, open_store
from augment.errors import CorruptEntry, StoreError
from augment.store.pack import _HEADER, _NAME, _PLACE, Pack, PackIndex
from augment.store.packing import export_pack, import_pack
from tests.faults.filled import RECORD, copy, fill, key
from tests.faults.test_fuzz import spoiled

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole pack, and what its entries hold."""
    folder = tmp_path_factory.mktemp("pack")
    fill(folder / "cache", images=3)
    export_pack(Cache(folder / "cache"), folder / "pack")
    pack = Pack(folder / "pack")
    return folder / "pack", {name: bytes(pack.get(name)) for name in pack.names()}


def read(folder, entries):
    """Use every method; how many of the entries are there. None reads wrong, also once imported."""
    try:
        pack = open_store(folder)
    except StoreError:
        return 0
    assert {*pack.names()} <= {*entries}
    got = {name: pack.get(name) for name in entries}
    assert all(data is None or bytes(data) == entries[name] for name, data in got.items())
    assert all(pack.provenance(name) in (None, {"group": "cup"}) for name in entries)
    assert all(record == RECORD for record in pack.recipes())
    assert all(entry.group in (None, "cup") for entry in pack.pool(RECORD).entries().values())
    assert pack.keys_at("/images/1.png") in ([], [key(1)])
    return sum(data is not None for data in got.values())


def imported(folder, entries):
    """Import it: all that arrives is right."""
    cache = Cache(folder.with_name("imported"))
    with suppress(StoreError, CorruptEntry):
        import_pack(Pack(folder), cache)
    assert all(bytes(cache.get(name)) == entries[name] for name in cache.names())
    cache.close()


FILES = ["store.json", "index.bin", "recipes/*", "pools/f2.index", "pools/paths.index", "matte*", "plate*"]


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_byte_or_truncation_is_harmless(whole, tmp_path, tries, name):
    source, entries = whole
    draw = random.Random(name)
    size = next(source.glob(name)).stat().st_size
    for place in draw.sample(range(size), min(size, tries(12, 600))):
        for cut in (False, True):
            folder = copy(source, tmp_path / "pack")
            path = next(folder.glob(name))
            data = bytearray(path.read_bytes())
            data[place] ^= draw.randrange(1, 256)
            path.write_bytes(data[:place] if cut else data)
            assert read(folder, entries) >= (len(entries) // 2 if "*" in name and not cut else 0)
            imported(folder, entries)


@pytest.mark.parametrize("field", ["size", "chksum", "typeflag", "name"])
def test_a_flipped_header_of_a_shard_is_refused_on_import(whole, tmp_path, field):
    folder = copy(whole[0], tmp_path / "pack")
    shard = next(folder.glob("matte*"))
    data = bytearray(shard.read_bytes())
    data[{"name": 0, "size": 124, "chksum": 148, "typeflag": 156}[field]] ^= 0xFF
    shard.write_bytes(data)
    assert read(folder, whole[1]) == len(whole[1]), "reading does not need the headers"
    with pytest.raises(StoreError, match="nothing was imported"):
        import_pack(Pack(folder), Cache(tmp_path / "cache"))
    with pytest.raises(tarfile.TarError), tarfile.open(shard) as archive:
        archive.getmembers()


often = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@often
@given(data=st.data())
def test_a_spoiled_index_is_refused_or_whole(whole, data):
    folder, entries = whole
    path = folder / "spoiled.bin"
    path.write_bytes(data.draw(spoiled([(folder / "index.bin").read_bytes()])))
    try:
        assert {*PackIndex.load(path)} == {*entries}
    except CorruptEntry:
        pass
    finally:
        path.unlink()


numbers = st.integers(0, 5) | st.sampled_from([2**31, 2**32 - 1])
offsets = st.integers(0, 2**64 - 1)
places = st.tuples(numbers, offsets, numbers, numbers, offsets, numbers, numbers)
named = st.tuples(st.integers(0, 3), st.binary(min_size=16, max_size=16), numbers)
texts = st.fixed_dictionaries(
    {},
    optional={
        "tables": st.lists(st.lists(st.text(max_size=5), max_size=3), max_size=3) | st.integers(),
        "shards": st.lists(st.sampled_from(["matte-f1-00000.tar", "../a.tar", "/etc/passwd"]), max_size=2) | st.none(),
        "others": st.lists(st.text(max_size=9), max_size=2) | st.text(),
    },
)


@often
@given(text=texts, names=st.lists(named), data=st.data())
def test_a_sealed_but_hostile_index_is_refused_or_finds_nothing_wrong(whole, text, names, data):
    folder = copy(whole[0], whole[0].with_name("hostile"))
    seal_index(folder, text, names, [data.draw(places) for _ in names])
    try:
        pack = Pack(folder)
    except StoreError:
        return
    for name in pack.names():
        assert pack.get(name) is None or len(pack.get(name)) == 0
        pack.provenance(name)


def seal_index(folder, text, names, places):
    """Write an index with a right checksum."""
    header = json.dumps(text).encode()
    body = header + b"".join(sorted(_NAME.pack(*name) for name in names)) + np.array(places, _PLACE).tobytes()
    sealed = _HEADER.pack(b"AUGPACK1", xxhash.xxh3_64_intdigest(body), len(header), len(names)) + body
    (folder / "index.bin").write_bytes(sealed)


TEXT = {"tables": [["matte", "f1"]], "shards": ["matte-f1-00000.tar"], "others": []}
PLACE = (0, 512, 10, 0, 512, 10, 0)


@pytest.mark.parametrize(
    ("table", "place", "words"),
    [
        (1, PLACE, "artifacts of no table"),
        (0, (1, *PLACE[1:]), "shards that are not in its list"),
        (0, (0, 2**64 - 1, *PLACE[2:]), None),
        (0, (0, 512, 2**32 - 1, 0, 512, 2**32 - 1, 0), None),
        (0, PLACE, None),
    ],
)
def test_numbers_of_a_hostile_index_lead_nowhere(whole, tmp_path, table, place, words):
    folder = copy(whole[0], tmp_path / "pack")
    seal_index(folder, TEXT, [(table, bytes(16), 0)], [place])
    if words is None:
        pack = Pack(folder)
        assert [pack.get(name) for name in pack.names()] == [None]
        assert [pack.provenance(name) for name in pack.names()] == [None]
    else:
        with pytest.raises(StoreError, match=words):
            Pack(folder)


def test_an_index_whose_text_is_deep_is_refused(whole, tmp_path):
    folder = copy(whole[0], tmp_path / "pack")
    header = b"[" * 100_000
    sealed = _HEADER.pack(b"AUGPACK1", xxhash.xxh3_64_intdigest(header), len(header), 0) + header
    (folder / "index.bin").write_bytes(sealed)
    with pytest.raises(StoreError):
        Pack(folder)
    (folder / "store.json").write_bytes(header)
    with pytest.raises(StoreError):
        Pack(folder)
