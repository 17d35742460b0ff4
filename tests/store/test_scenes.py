"""The index of scenes: damage is said and mended, and packs carry it."""

import logging
import pickle
import random

import pytest
from typer.testing import CliRunner

from augment import Cache, scenes
from augment.artifacts import SCENE
from augment.cli import app
from augment.errors import CorruptEntry
from augment.store.entries import entry_name
from augment.store.pack import Pack
from augment.store.packing import export_pack, import_pack
from augment.store.scenes import SCENES_FILE, SceneIndex, SceneName
from augment.store.verify import verify
from tests import enriching, simple

RECIPE = simple.recipe().changed({"enrich": enriching.SUBSTAGES})


@pytest.fixture
def cache(tmp_path):
    """A cache of five scenes, their drafts and steps."""
    cache = Cache(tmp_path / "cache", codec="png")
    changed = RECIPE.changed({"enrich.keep_steps": True})
    assert scenes(["a city", "a wood"], cache, changed, count=5, size=(48, 64), progress=False).complete == 5
    return cache


def test_each_scene_is_drawn_equally_often_with_others_to_fall_back_on(tmp_path):
    names = [SceneName(f"{n % 3:016x}", f"{n:032x}", n) for n in range(7)]
    SceneIndex.of([*names, *names]).save(tmp_path / "pools" / "scenes.index")
    index = pickle.loads(pickle.dumps(SceneIndex.load(tmp_path / "pools" / "scenes.index")))
    assert sorted(index) == sorted(names)
    drawn = [list(index.draw((n + 0.5) / 7)) for n in range(7)]
    assert {first for first, *_ in drawn} == set(names)
    assert all(len(set(some)) == 4 for some in drawn)
    assert list(SceneIndex.of(()).draw(0.5)) == []


def test_no_bit_of_a_damaged_index_is_read(tmp_path):
    path = tmp_path / "pools" / "scenes.index"
    SceneIndex.of([SceneName(f"{n:016x}", f"{n:032x}", n) for n in range(3)]).save(path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(CorruptEntry):
            SceneIndex.load(path)
        path.write_bytes(whole[:at])
        with pytest.raises(CorruptEntry):
            SceneIndex.load(path)


@pytest.mark.parametrize("mend", ["mend", "scenes", "repair"])
def test_a_damaged_index_is_gathered_said_once_and_mended(cache, mend, caplog):
    path, before = cache.directory / SCENES_FILE, set(cache.scenes())
    path.write_bytes(b"torn")
    again = Cache(cache.directory)
    with caplog.at_level(logging.WARNING):
        assert set(again.scenes()) == set(again.scenes()) == before
    assert caplog.text.count("pools/scenes.index is damaged") == 1
    assert path.read_bytes() == b"torn"  # reading writes nothing
    if mend == "repair":
        done = CliRunner().invoke(app, ["verify", str(cache.directory), "--repair"])
        assert f"pools/scenes.index: the index {path} cannot be read: " in done.output
    elif mend == "mend":
        again.mend()
    else:
        assert scenes(["a city"], again, RECIPE, size=(48, 64), progress=False).nbytes == 0
    assert set(SceneIndex.load(path)) == before
    assert verify(cache).wrong == []


def test_a_damaged_scene_is_found_and_made_again(cache):
    name = entry_name(SCENE.name, *next(iter(cache.scenes())))
    whole = bytes(cache.get(name))
    cache.put(name, b"no picture", {})
    assert [wrong for wrong in verify(cache).wrong if name in wrong]
    verify(cache, repair=True)
    assert cache.get(name) is None
    scenes(["a city", "a wood"], cache, RECIPE, count=5, size=(48, 64), progress=False)
    assert bytes(cache.get(name)) == whole


def test_packs_carry_scenes_without_their_drafts_and_merge_into_caches_of_images(cache, tmp_path):
    export_pack(cache, tmp_path / "pack")
    pack = Pack(tmp_path / "pack")
    assert {name.split("/")[0] for name in pack.names()} == {"scene"}
    assert list(pack.scenes()) == list(cache.scenes())
    target = Cache(tmp_path / "target")
    assert import_pack(pack, target) == 5
    assert list(target.scenes()) == list(cache.scenes())
    for one in target.scenes():
        assert bytes(target.get(entry_name(SCENE.name, *one))) == bytes(cache.get(entry_name(SCENE.name, *one)))
    # What was made elsewhere is not made again, although its drafts stayed there.
    simple.CALLS.clear()
    assert scenes(["a city", "a wood"], target, RECIPE, count=5, size=(48, 64), progress=False).nbytes == 0
    assert not simple.CALLS


def test_a_damaged_index_of_a_pack_gives_no_scenes_and_says_so(cache, tmp_path, caplog):
    export_pack(cache, tmp_path / "pack")
    data = bytearray((tmp_path / "pack" / SCENES_FILE).read_bytes())
    data[random.Random(0).randrange(len(data))] ^= 1
    (tmp_path / "pack" / SCENES_FILE).write_bytes(data)
    pack = Pack(tmp_path / "pack")
    with caplog.at_level(logging.WARNING):
        assert (len(pack.scenes()), len(pack.scenes())) == (0, 0)
    assert caplog.text.count("pools/scenes.index is damaged") == 1


def test_what_is_exported_without_scenes_has_none(cache, tmp_path):
    cache.put("matte/" + "a" * 16 + "/" + "b" * 32, b"matte", {})
    cache.add_record(RECIPE.record(1))
    export_pack(cache, tmp_path / "pack", {"matte"})
    assert len(Pack(tmp_path / "pack").scenes()) == 0
