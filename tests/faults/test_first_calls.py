"""Every public method of a cache works as the first call of a fresh process, whatever became of its indexes."""

import pickle
from multiprocessing import get_context

import pytest

from augment import Cache
from augment.errors import StoreError
from augment.store.pool import PoolEntry
from tests.faults.filled import RECORD, copy, fill, key

pytestmark = pytest.mark.faults

CALLS = {
    "put": ("matte/f1/" + key(8), b"1", {}),
    "delete": ("matte/f1/" + key(1),),
    "names": (),
    "rows": (),
    "nbytes": (),
    "checkpoint": (),
    "mend": (),
    "shards": (),
    "recipes": (),
    "add_record": (RECORD,),
    "pool": (RECORD,),
    "has_pool": (RECORD,),
    "add_to_pool": (RECORD, {key(8): PoolEntry(None, 0.5, 1)}),
    "remove_from_pool": (RECORD, [key(1)]),
    "scenes": (),
    "add_scenes": ([("f3", key(8), 0)],),
    "keys_at": ("/images/1.png",),
    "add_paths": ([("/images/8.png", key(8))],),
    "misses": (RECORD,),
    "note_miss": (RECORD, key(8)),
    "get": ("matte/f1/" + key(1),),
    "entry": ("matte/f1/" + key(1),),
    "provenance": ("matte/f1/" + key(1),),
    "close": (),
}
STATES = ["whole", "index missing", "index torn", "empty", "shard torn", "gone"]


def first_call(data, call):
    """In a process of its own: the call, or the one error that a store may raise."""
    try:
        result = getattr(pickle.loads(data), call)(*CALLS[call])
        if call == "rows":
            list(result)
    except StoreError as error:
        return str(error)
    return ""


def test_all_public_methods_are_called():
    unpublic = {"report_damage", "image_format", "location", "set_shard_aside", "keeping", "merge_paths"}
    public = {name for name in dir(Cache) if not name.startswith("_")}
    assert public - unpublic == CALLS.keys()


@pytest.mark.parametrize("state", STATES)
def test_any_method_may_be_the_first_call_of_a_process(tmp_path, state):
    fill(tmp_path / "whole", images=2)
    with get_context("spawn").Pool(1, maxtasksperchild=None) as pool:
        for call in CALLS:
            folder = copy(tmp_path / "whole", tmp_path / "cache")
            data = pickle.dumps(Cache(folder))
            if state.startswith("index"):
                for path in (folder / "pools").iterdir():
                    path.unlink() if state == "index missing" else path.write_bytes(b"torn")
            elif state == "shard torn":
                for path in folder.rglob("cache.db"):
                    path.write_bytes(b"torn" * 1000)
            elif state != "whole":
                copy(tmp_path / "whole", folder)
                for name in ("entries", "recipes", "pools", "misses"):
                    folder.joinpath(name).rename(tmp_path / f"{name} of {call}")
                if state == "gone":
                    folder.rename(tmp_path / f"before {call}")
            said = pool.apply_async(first_call, (data, call)).get(timeout=60)
            assert not said or (state == "gone" and "is gone" in said), (call, said)
            assert state != "gone" or not folder.exists()
