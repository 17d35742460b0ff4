"""Whatever the bytes, a decoder gives a value that can be used, or raises the one error that is read as a miss."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import lz4.block
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from augment import Cache, Recipe
from augment.artifacts import _MATTE_HEADER, ARTIFACTS, ImageFormat, Matte, Prompt, decode_image, encode_image
from augment.errors import CorruptEntry, RecipeError, StoreError
from augment.imaging.composite import composite
from augment.store.entries import Entry, seal
from augment.store.paths import PathIndex
from augment.store.pool import Pool, PoolEntry, PoolIndex
from augment.store.records import Record
from augment.store.settings import read as read_settings
from augment.store.verify import verify
from augment.testing.pictures import scene
from tests.faults.filled import LARGE, RECORD, key

pytestmark = pytest.mark.faults

IMAGE, ALPHA = scene(1)
MATTE = Matte.from_full(ALPHA)
SEEDS = [
    MATTE.to_bytes(),
    Prompt("a").to_bytes(),
    b"text",
    *(encode_image(IMAGE, codec) for codec in ("jpeg", "png", "raw")),
]
often = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True, scope="module")
def _more(tries):
    settings.register_profile("faults", max_examples=tries(60, 20_000))
    settings.load_profile("faults")
    yield
    settings.load_profile("default")


@st.composite
def spoiled(draw, seeds=SEEDS):
    """Bytes that were whole once: some changed, some cut, some added."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([16, 64, 10**6])))))] = draw(
                st.integers(0, 255)
            )
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data) + draw(st.binary(max_size=4))


@often
@given(data=st.binary(max_size=200) | spoiled(), artifact=st.sampled_from(sorted(ARTIFACTS)))
def test_an_artifact_is_decoded_or_corrupt(data, artifact):
    try:
        value = ARTIFACTS[artifact].decode(data)
    except CorruptEntry:
        return
    ARTIFACTS[artifact].encode(value, ImageFormat("png"))
    if isinstance(value, Matte) and value.unusable is None and value.size == IMAGE.shape[:2]:
        composite(IMAGE, value, IMAGE)


@often
@given(
    st.tuples(*[st.integers(0, 40) | st.sampled_from([2**31, 2**32 - 1])] * 6),
    st.floats(width=32),
    st.integers(0, 50) | st.just(2**32 - 1),
    st.binary(max_size=8),
    st.binary(max_size=4000),
    st.booleans(),
)
def test_a_sealed_but_hostile_matte_is_corrupt_or_can_be_composited(numbers, confidence, colors, reason, body, packed):
    data = _MATTE_HEADER.pack(*numbers, confidence, colors) + len(reason).to_bytes(2, "little") + reason
    data += lz4.block.compress(body, store_size=False) if packed else body
    try:
        matte = Matte.from_bytes(data)
    except CorruptEntry:
        return
    assert matte.alpha.shape == (matte.box[3] - matte.box[1], matte.box[2] - matte.box[0])
    if matte.unusable is None:
        height, width = matte.size
        image = np.zeros((height, width, 3), np.uint8)
        composite(image, matte, image)


HOSTILE = {
    "a raw image without a size": b"RAW3",
    "an empty raw image": b"RAW3" + bytes(8),
    "a raw image that is short": b"RAW3" + b"\xff" * 8,
    "a huge PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x00\x10\x00\x00\x00\x10\x00\x00\x08\x02\0\0\0",
    "an empty matte of no size": _MATTE_HEADER.pack(0, 0, 0, 0, 0, 0, 1.0, 0) + b"\0\0\0",
    "a matte of no size with a box": _MATTE_HEADER.pack(0, 0, 0, 0, 4, 4, 1.0, 0) + b"\0\0",
    "a huge matte": _MATTE_HEADER.pack(2**14, 2**14, 0, 0, 2**14, 2**14, 1.0, 0) + b"\0\0\0",
    "another format": b"II*\0" + bytes(100),
    "deep JSON": b'{"text":' + b"[" * 100_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_payloads_are_corrupt(data):
    for decode in (Matte.from_bytes, decode_image, Prompt.from_bytes):
        with pytest.raises(CorruptEntry):
            decode(data)


@often
@given(spoiled([seal(b"payload", {"group": "cup"})]) | st.binary(max_size=60))
def test_an_entry_is_whole_or_corrupt(data):
    try:
        entry = Entry(data)
    except CorruptEntry:
        return
    assert bytes(entry.payload) == b"payload"


@often
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)
    | st.dictionaries(st.text(), st.integers())
)
def test_a_provenance_of_any_form_is_an_object_or_corrupt(value):
    entry = Entry(seal(b"payload", value))
    with suppress(CorruptEntry):
        assert isinstance(entry.provenance, dict)


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.dictionaries(st.text(), st.text())
)


@often
@given(
    st.text(max_size=40)
    | st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("name", "toml", "fingerprints", "artifacts", "variants", "updated", "new"), values),
    ).map(json.dumps)
    | spoiled([RECORD.to_json().encode()]).map(lambda data: data.decode(errors="replace"))
)
def test_a_record_is_whole_or_corrupt(text):
    try:
        record = Record.from_json(text)
    except CorruptEntry:
        return
    assert Record.from_json(record.to_json()) == record
    assert "/" not in record.background


def test_a_record_of_a_newer_version_is_read():
    found = json.loads(RECORD.to_json())
    del found["checksum"]
    assert Record.from_json(json.dumps(found | {"a field that is new": [1]})) == RECORD


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@often
@given(data=st.data())
def test_an_index_is_whole_or_corrupt(folder, data):
    pool, paths = folder / "a.index", folder / "paths.index"
    PoolIndex.of({key(n): PoolEntry("cup", 0.5, 1) for n in range(3)}).save(pool)
    PathIndex(paths).add([("/a", key(1)), ("/b", key(2))])
    pool.write_bytes(data.draw(spoiled([pool.read_bytes()])))
    paths.write_bytes(data.draw(spoiled([paths.read_bytes()])))
    try:
        index = PoolIndex.load(pool)
        assert index.entries().keys() == {key(n) for n in range(3)}
        assert len(list(Pool(index).draw("any", None, 0.5))) == 3
    except CorruptEntry:
        pass
    with suppress(CorruptEntry):
        assert PathIndex(paths).keys("/a") == [key(1)]
    paths.unlink()


@often
@given(spoiled([Recipe.load("classic").to_toml().encode()]) | st.binary(max_size=60))
def test_a_recipe_is_read_or_refused(data):
    with suppress(RecipeError):
        recipe = Recipe.from_toml(data.decode(errors="replace"))
        assert Recipe.from_toml(recipe.to_toml()) == recipe


@often
@given(data=st.data())
def test_settings_are_read_or_set_aside(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Cache(folder, size_limit=10**9, codec="png").directory / "store.json"
        path.write_bytes(data.draw(spoiled([path.read_bytes()]) | values.map(json.dumps).map(str.encode)))
        try:
            found = read_settings(path)
        except StoreError as error:
            if "of format" not in str(error):  # of another kind, or of a later format
                raise
            return
        assert found is None or (found.codec in ("jpeg", "png", "raw") and 1 <= found.quality <= 100)


class CacheMachine(RuleBasedStateMachine):
    """A cache against a dict, with other processes' caches, damage and repairs in between."""

    names = st.sampled_from([f"{part}/f/{key(n)}" for part in ("matte", "plate", "other") for n in range(4)])

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.cache = Cache(self.folder.name)
        self.model = {}

    @rule(name=names, size=st.sampled_from([0, 1, 1000, len(LARGE)]), fill=st.integers(0, 255))
    def put(self, name, size, fill):
        payload = bytes([fill]) * size
        self.cache.put(f"x{name}", payload, {"n": fill})
        self.model[f"x{name}"] = payload

    @rule(name=names)
    def delete(self, name):
        self.cache.delete(f"x{name}")
        self.model.pop(f"x{name}", None)

    @rule()
    def open_again(self):
        self.cache.close()
        self.cache = Cache(self.folder.name)

    @rule()
    def other_writer(self):
        other = Cache(self.folder.name)
        other.put("xother/f/" + key(9), b"other", {})
        self.model["xother/f/" + key(9)] = b"other"
        other.close()

    @rule()
    def mend(self):
        self.cache.mend()

    @rule(kind=st.sampled_from(["orphan", "junk", "index"]))
    def plant(self, kind):
        path = {
            "orphan": Path(self.folder.name, "entries", "000", "junk.val"),
            "junk": Path(self.folder.name, "junk"),
            "index": Path(self.folder.name, "pools", "f2.index"),
        }[kind]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk")

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def lose_a_file(self, data):
        files = sorted(Path(self.folder.name).rglob("*.val"))
        if files:
            files[data.draw(st.integers(0, len(files) - 1))].unlink()
            self.model = {name: payload for name, payload in self.model.items() if self.cache.get(name) is not None}

    @rule()
    def repair(self):
        verify(self.cache, repair=True)
        assert verify(self.cache).wrong == []
        assert set(self.cache.names()) == self.model.keys()

    @invariant()
    def reads_what_was_written(self):
        for name, payload in self.model.items():
            assert bytes(self.cache.get(name)) == payload
        assert set(self.cache.names()) >= self.model.keys()
        assert len(self.cache.pool(RECORD)) == 0

    def teardown(self):
        self.cache.close()
        self.folder.cleanup()


def test_a_cache_behaves_as_a_dict_under_any_sequence_of_calls(tries):
    from hypothesis.stateful import run_state_machine_as_test

    often = settings(
        max_examples=tries(8, 500), stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(CacheMachine, settings=often)
