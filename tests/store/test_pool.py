"""The index of a pool: what is drawn from it, how often, and how a damaged index is handled."""

import pickle
import time

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment import Cache, prewarm
from augment.chain import Chain
from augment.errors import CorruptEntry
from augment.keys import image_key
from augment.store.pool import Pool, PoolEntry, PoolIndex
from augment.testing.pictures import scene
from tests import simple
from tests.simple import REMOVE

entries_of_all_kinds = st.dictionaries(
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.builds(PoolEntry, st.sampled_from([None, "", "cup", "ball"]), st.floats(0, 1, width=32), st.integers(1, 9)),
    max_size=30,
)


@settings(max_examples=50)
@given(entries_of_all_kinds, st.floats(0, 1, width=32), st.sampled_from([None, "", "cup", "new"]))
def test_every_allowed_image_is_drawn_equally_often_and_no_other(tmp_path_factory, entries, most, group):
    path = tmp_path_factory.getbasetemp() / "pool.index"
    PoolIndex.of(entries).save(path)
    index = PoolIndex.load(path)
    assert index.entries() == entries
    pool = pickle.loads(pickle.dumps(Pool(index, most)))
    allowed = {
        "any": {key for key, entry in entries.items() if entry.coverage <= most},
        "same": {key for key, entry in entries.items() if entry.coverage <= most and entry.group == group},
    }
    allowed["other"] = allowed["any"] - allowed["same"]
    for relation, keys in allowed.items():
        count = len(keys)
        drawn = [list(pool.draw(relation, group, (n + 0.5) / max(1, count))) for n in range(max(1, count))]
        if not keys:
            assert drawn == [[]]
            continue
        assert sorted(first[0] for first, *_ in drawn) == sorted(keys)
        for candidates in drawn:
            assert len({key for key, _ in candidates}) == len(candidates) == min(4, count)
            assert all(key in keys and variants == entries[key].variants for key, variants in candidates)


def test_opening_and_drawing_are_as_fast_with_a_hundred_times_as_many_entries(tmp_path):
    seconds = []
    for count in (1000, 100_000):
        path = tmp_path / f"{count}.index"
        PoolIndex.of({f"{n:032x}": PoolEntry(f"group {n % 10}", n % 97 / 97, 2) for n in range(count)}).save(path)
        pool = Pool(PoolIndex.load(path), 0.8)
        next(pool.draw("any", None, 0.5))
        assert isinstance(pool.index.records, np.memmap)
        best = []
        for _ in range(5):
            started = time.thread_time()
            for uniform in np.linspace(0, 0.999, 200):
                next(pool.draw("other", "group 3", uniform))
            best.append(time.thread_time() - started)
        seconds.append(min(best))
    assert seconds[1] < 20 * seconds[0]  # a linear search would take a hundred times as long


def test_a_corrupt_or_truncated_index_is_never_read(tmp_path):
    path = tmp_path / "pool.index"
    PoolIndex.of({f"{n:032x}": PoolEntry("cup", 0.5, 1) for n in range(3)}).save(path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(CorruptEntry):
            PoolIndex.load(path)
        path.write_bytes(whole[:at])
        with pytest.raises(CorruptEntry):
            PoolIndex.load(path)
    path.unlink()
    with pytest.raises(CorruptEntry):
        PoolIndex.load(path)


def test_prewarm_writes_the_index_and_a_second_run_extends_it(tmp_path):
    cache, recipe = Cache(tmp_path / "cache"), simple.recipe()
    images = [PIL.Image.fromarray(scene(n)[0]) for n in range(4)]
    record = recipe.record(2)
    prewarm(images[:2], cache, recipe, variants=2, groups=["a", "b"], workers=0, progress=False)
    first = cache.pool(record).entries()
    assert first.keys() == {image_key(image) for image in images[:2]}
    assert {entry.group for entry in first.values()} == {"a", "b"}
    prewarm(images[1:], cache, recipe, variants=1, groups=["c", None, "a"], workers=0, progress=False)
    both = cache.pool(record).entries()
    assert both.keys() == {image_key(image) for image in images}
    assert (both[image_key(images[1])].variants, both[image_key(images[1])].group) == (2, "c")
    coverage = Chain(recipe, cache).artifact(REMOVE, image_key(images[0])).coverage
    assert abs(both[image_key(images[0])].coverage - coverage) < 1e-6


@pytest.mark.parametrize("damaged", [False, True])
def test_a_lost_index_is_rebuilt_from_the_entries_and_written_by_the_next_prewarm(tmp_path, damaged):
    cache, recipe = Cache(tmp_path / "cache"), simple.recipe()
    images = [PIL.Image.fromarray(scene(n)[0]) for n in range(3)]
    prewarm(images, cache, recipe, variants=2, groups=["a", None, "a"], workers=0, progress=False)
    record = cache.recipes()[-1]
    (path,) = (cache.directory / "pools").glob(f"{record.background}.index")
    before = cache.pool(record).entries()
    path.write_bytes(b"torn") if damaged else path.unlink()
    found = Cache(cache.directory).pool(record).entries()
    assert {k: v._replace(coverage=0) for k, v in found.items()} == {
        k: v._replace(coverage=0) for k, v in before.items()
    }
    assert path.exists() == damaged  # reading writes nothing
    prewarm(images, cache, recipe, variants=2, workers=0, progress=False)
    assert PoolIndex.load(path).entries() == before
