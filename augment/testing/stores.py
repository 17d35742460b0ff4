"""A pytest suite of what every store must do: subclass `StoreTests` to inherit all of its tests."""

from __future__ import annotations

import logging
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from augment.artifacts import BACKGROUND, MATTE, PLATE, SCENE, ImageFormat, Matte
from augment.store.entries import Provenance, entry_name
from augment.store.open import open_store
from augment.store.pool import PoolEntry
from augment.store.reader import Reader
from augment.store.records import Record, Store
from augment.store.scenes import SceneName
from augment.testing.pictures import scene

Entries = Mapping[str, tuple[bytes, Provenance]]

_FORM = ImageFormat("png")
_RECORD = Record(
    "simple", "", {"remove": "f1", "generate": "f2"}, {"matte": "f1", "plate": "f3", "background": "f2"}, 2
)


def _key(number: int) -> str:
    return f"{number:032x}"


_SCENES = [SceneName("5ce9e" * 3 + "0", _key(7), variant) for variant in range(2)]


def _entries() -> Entries:
    """Mattes, plates and two backgrounds for each of four images, one of whose mattes is unusable, and two scenes."""
    entries: dict[str, tuple[bytes, Provenance]] = {}
    for number in range(4):
        image, alpha = scene(number)
        matte = Matte.from_full(alpha if number else alpha * 0)
        group: Provenance = {"group": "cup" if number % 2 else None}
        entries[entry_name(MATTE.name, "f1", _key(number))] = (MATTE.encode(matte, _FORM), group)
        entries[entry_name(PLATE.name, "f3", _key(number))] = (PLATE.encode(image, _FORM), {})
        for variant in range(2):
            name = entry_name(BACKGROUND.name, "f2", _key(number), variant)
            entries[name] = (BACKGROUND.encode(image, _FORM), {"seed": variant})
    for one in _SCENES:
        entries[entry_name(SCENE.name, *one)] = (SCENE.encode(scene(9)[0], _FORM), {"seed": one.variant})
    return entries


class StoreTests(ABC):
    """The tests that every store must pass. `make` fills a store; `damage` corrupts one of its entries on disk.

    The scenes among the entries belong into the store's index of scenes.
    """

    @abstractmethod
    def make(
        self, folder: Path, entries: Entries, record: Record, pool: Mapping[str, PoolEntry], paths: Mapping[str, str]
    ) -> Store:
        """A store at `folder` with these entries, made with this recipe; `paths` maps paths to keys."""

    @abstractmethod
    def damage(self, store: Store, name: str) -> None:
        """Change bytes of an entry on disk."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """A store with four images, three of them in its pool."""
        pool = {_key(n): PoolEntry("cup" if n % 2 else None, 0.2, 2) for n in range(1, 4)}
        return self.make(tmp_path / "store", _entries(), _RECORD, pool, {"/images/1.png": _key(1)})

    def test_entries_are_read_with_their_provenance(self, store: Store) -> None:
        for name, (payload, provenance) in _entries().items():
            entry = store.entry(name)
            assert entry is not None
            assert bytes(entry.payload) == payload
            assert provenance.items() <= entry.provenance.items()
            assert bytes(store.get(name) or b"") == payload

    def test_a_missing_entry_is_none(self, store: Store) -> None:
        for name in ("matte/f1/" + "f" * 32, "nothing", "../store.json", "/etc/passwd", ""):
            assert store.entry(name) is None
            assert store.get(name) is None
            assert store.provenance(name) is None

    def test_names_lists_every_entry(self, store: Store) -> None:
        assert sorted(store.names()) == sorted(_entries())

    def test_a_damaged_entry_is_a_miss_reported_once_and_the_others_are_read(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        name = entry_name(BACKGROUND.name, "f2", _key(2), 1)
        self.damage(store, name)
        again = open_store(store.location)
        with caplog.at_level(logging.WARNING):
            assert again.get(name) is None
            assert again.entry(name) is None
        assert sum(name in record.getMessage() for record in caplog.records) == 1
        assert all(again.get(other) is not None for other in _entries() if other != name)

    def test_the_recipe_finds_its_artifacts(self, store: Store) -> None:
        (record,) = store.recipes()
        assert record == _RECORD
        reader = Reader(store, record)
        matte = reader.get(MATTE, _key(1))
        assert matte is not None
        assert not matte.unusable
        assert reader.get(BACKGROUND, _key(1), 1) is not None
        assert reader.get(BACKGROUND, _key(1), 2) is None
        assert reader.any_variant(BACKGROUND, _key(1), 2, 0.99) is not None
        assert (reader.group(_key(1)), reader.group(_key(2)), reader.group(_key(9))) == ("cup", None, None)

    def test_the_pool_holds_the_images_that_others_may_use(self, store: Store) -> None:
        assert {key: entry.group for key, entry in store.pool(_RECORD).entries().items()} == {
            _key(1): "cup",
            _key(2): None,
            _key(3): "cup",
        }

    def test_the_scenes_are_drawn_equally_often(self, store: Store) -> None:
        scenes = pickle.loads(pickle.dumps(store.scenes()))
        assert list(scenes) == _SCENES
        assert [next(scenes.draw(uniform)) for uniform in (0, 0.49, 0.5, 0.99)] == [_SCENES[n] for n in (0, 0, 1, 1)]
        for fingerprint, key, variant in scenes:
            assert Reader(store, _RECORD).get(SCENE, key, variant, fingerprint=fingerprint) is not None

    def test_paths_lead_to_keys(self, store: Store) -> None:
        assert store.keys_at("/images/1.png") == [_key(1)]
        assert store.keys_at("/images/2.png") == []

    def test_reading_writes_nothing(self, store: Store) -> None:
        again = open_store(store.location)
        again.names()  # opens the store
        before = _contents(Path(store.location))
        _use(again)
        assert _contents(Path(store.location)) == before

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_other_processes_can_read_it(self, store: Store, method: str) -> None:
        store.get("nothing")  # opened before the fork
        with get_context(method).Pool(2) as pool:
            assert pool.map(_use, [store] * 4) == [_use(store)] * 4

    @pytest.mark.parametrize(
        "call", ["names", "recipes", "pool", "scenes", "keys_at", "entry", "provenance", "note_miss"]
    )
    def test_any_method_may_be_the_first_one_called_in_a_process(self, store: Store, call: str) -> None:
        arguments: dict[str, tuple[Any, ...]] = {
            "names": (),
            "recipes": (),
            "pool": (_RECORD,),
            "scenes": (),
            "keys_at": ("/images/1.png",),
            "entry": (entry_name(MATTE.name, "f1", _key(1)),),
            "provenance": (entry_name(MATTE.name, "f1", _key(1)),),
            "note_miss": (_RECORD, _key(9)),
        }
        with get_context("spawn").Pool(1) as pool:
            done = pool.apply_async(_first_call, (pickle.dumps(store), call, arguments[call]))
            assert done.get(timeout=60)


def _use(store: Store) -> int:
    """Read everything; returns the number of entries found."""
    for record in store.recipes():
        store.pool(record)
    store.scenes()
    return sum(store.get(name) is not None for name in store.names()) + len(store.keys_at("/images/1.png"))


def _first_call(data: bytes, call: str, arguments: tuple[Any, ...]) -> bool:
    store = pickle.loads(data)
    result = getattr(store, call)(*arguments)
    return result is not None or call == "note_miss"


def _contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, except SQLite's shared memory, which only coordinates open connections."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
