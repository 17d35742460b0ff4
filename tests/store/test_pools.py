"""Backgrounds of other images: how they are drawn, found and left out."""

import os
import pickle
import time

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from augment import Cache, prewarm
from augment.artifacts import decode_image
from augment.chain import Chain
from augment.cli import app
from augment.composite import composite
from augment.errors import CorruptEntry, InputError
from augment.fit import cover
from augment.keys import image_key
from augment.pools import Pool, PoolEntry, Source, read_pool, write_pool
from augment.torchvision import ReplaceBackground
from tests import simple
from tests.pictures import scene, write_folder

entries_of_all_kinds = st.dictionaries(
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.builds(PoolEntry, st.sampled_from([None, "", "cup", "ball"]), st.floats(0, 1, width=32), st.integers(1, 9)),
    max_size=30,
)


@pytest.fixture(autouse=True)
def _simple_stages(monkeypatch):
    simple.register(monkeypatch)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache of two variants of six scenes of two groups, one of them mostly object; and the paths."""
    folder = tmp_path_factory.mktemp("filled")
    paths = write_folder(folder / "images", 6)
    large = np.full((96, 112, 3), (200, 210, 230), np.uint8)
    large[4:92, 2:110] = (220, 40, 30)
    PIL.Image.fromarray(large).save(paths[0])
    with pytest.MonkeyPatch.context() as patch:
        simple.register(patch)
        report = prewarm(folder / "images", folder / "cache", simple.recipe(), variants=2, workers=0, progress=False)
    assert report.complete == 6
    return Cache(folder / "cache", codec="png"), paths


@pytest.fixture
def cache(filled):
    return filled[0]


def group_of(path):
    return path.parent.name


# --- The index --------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(entries_of_all_kinds, st.floats(0, 1, width=32), st.sampled_from([None, "", "cup", "new"]))
def test_every_image_that_may_serve_is_drawn_equally_often_and_no_other(tmp_path_factory, entries, most, group):
    path = tmp_path_factory.getbasetemp() / "pool.index"
    write_pool(path, entries)
    assert read_pool(path) == entries
    pool = pickle.loads(pickle.dumps(Pool(path, most)))
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


def test_opening_and_drawing_take_no_longer_from_a_hundred_times_as_many(tmp_path):
    seconds = []
    for count in (1000, 100_000):
        path = tmp_path / f"{count}.index"
        write_pool(path, {f"{n:032x}": PoolEntry(f"group {n % 10}", n % 97 / 97, 2) for n in range(count)})
        pool = Pool(path, 0.8)
        next(pool.draw("any", None, 0.5))
        assert isinstance(pool._open().records, np.memmap)
        best = []
        for _ in range(5):
            started = time.thread_time()
            for uniform in np.linspace(0, 0.999, 200):
                next(pool.draw("other", "group 3", uniform))
            best.append(time.thread_time() - started)
        seconds.append(min(best))
    assert seconds[1] < 20 * seconds[0]  # a search through all would take a hundred times as long


@pytest.mark.parametrize("damage", [b"", b"torn", None, "cut", "flipped"])
def test_a_damaged_index_is_said_to_be_one(tmp_path, damage):
    path = tmp_path / "pool.index"
    write_pool(path, {f"{n:032x}": PoolEntry("cup", 0.5, 1) for n in range(5)})
    whole = path.read_bytes()
    contents = {"cut": whole[:-7], "flipped": whole[:30] + bytes([whole[30] ^ 1]) + whole[31:]}.get(damage, damage)
    path.unlink() if contents is None else path.write_bytes(contents)
    with pytest.raises(CorruptEntry):
        list(Pool(path).draw("any", None, 0.5))
    assert read_pool(path) == {}


def test_a_prewarm_writes_the_index_and_another_one_adds_to_it(tmp_path):
    cache, recipe = Cache(tmp_path / "cache"), simple.recipe()
    images = [PIL.Image.fromarray(scene(n)[0]) for n in range(4)]
    filled = Chain(recipe, cache).filled(2)
    prewarm(images[:2], cache, recipe, variants=2, groups=["a", "b"], workers=0, progress=False)
    first = read_pool(cache.pool_file(filled))
    assert first.keys() == {image_key(image) for image in images[:2]}
    assert {entry.group for entry in first.values()} == {"a", "b"}
    prewarm(images[1:], cache, recipe, variants=1, groups=["c", None, "a"], workers=0, progress=False)
    both = read_pool(cache.pool_file(filled))
    assert both.keys() == {image_key(image) for image in images}
    assert both[image_key(images[1])].variants == 2
    coverage = Chain(recipe, cache).artifact("remove", image_key(images[0])).coverage
    assert abs(both[image_key(images[0])].coverage - coverage) < 1e-6


@pytest.mark.parametrize("damaged", [False, True])
def test_an_index_that_is_lost_is_made_anew_from_the_entries(tmp_path, monkeypatch, damaged):
    simple.register(monkeypatch)
    cache, recipe = Cache(tmp_path / "cache"), simple.recipe()
    images = [PIL.Image.fromarray(scene(n)[0]) for n in range(3)]
    prewarm(images, cache, recipe, variants=2, groups=["a", None, "a"], workers=0, progress=False)
    filled = cache.recipes()[-1]
    path = cache.pool_file(filled)
    before = read_pool(path)
    path.write_bytes(b"torn") if damaged else path.unlink()
    assert {k: v._replace(coverage=0) for k, v in read_pool(cache.pool_file(filled)).items()} == {
        k: v._replace(coverage=0) for k, v in before.items()
    }


# --- Sources ----------------------------------------------------------------------------------------------------------


def outcomes(cache, path, kind, relation):
    """What each allowed image would give, by its path."""
    chain = Chain(simple.recipe(), cache)
    pixels = np.asarray(PIL.Image.open(path))
    matte = chain.artifact("remove", image_key(pixels))
    found = {}
    for other in sorted(path.parents[1].rglob("*.png")):
        key = image_key(PIL.Image.open(other))
        same = group_of(other) == group_of(path)
        if chain.artifact("remove", key).coverage > 0.8 or {"same": not same, "other": same}.get(relation, False):
            continue
        for variant in range(2) if kind == "background" else (None,):
            name = chain.name("generate" if kind == "background" else "inpaint", key, variant)
            background = decode_image(cache.get(name), at_least=pixels.shape[:2])
            found[composite(pixels, matte, background).tobytes()] = other
    return found


@pytest.mark.parametrize("kind", ["background", "plate"])
@pytest.mark.parametrize(("name", "relation"), [("pool", "any"), ("pool:same", "same"), ("pool:other", "other")])
def test_a_pool_draws_from_all_that_it_should_equally_often(filled, kind, name, relation):
    cache, paths = filled
    image = PIL.Image.open(paths[1]).convert("RGB")
    expected = outcomes(cache, paths[1], kind, relation)
    assert paths[0] not in expected.values()  # nearly all object
    replace = ReplaceBackground(cache, p=1, source=name if kind == "background" else f"plates:{name}")
    torch.manual_seed(0)
    seen = [np.asarray(replace(image)).tobytes() for _ in range(400)]
    counts = np.array([seen.count(one) for one in expected])
    share = 400 / len(expected)
    assert sum(counts) == 400
    assert (np.abs(counts - share) < 5 * np.sqrt(share)).all()
    assert replace.counts["hits"] == 400


def test_own_plates_are_the_images_own(filled):
    cache, paths = filled
    pixels = np.asarray(PIL.Image.open(paths[2]))
    chain, key = Chain(simple.recipe(), cache), image_key(pixels)
    plate = decode_image(cache.get(chain.name("inpaint", key)), at_least=pixels.shape[:2])
    expected = composite(pixels, chain.artifact("remove", key), plate)
    result = ReplaceBackground(cache, p=1, source="plates:own")(PIL.Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(result), expected)


def test_weights_are_the_shares_of_the_sources(filled):
    uniforms = np.random.default_rng(0).random(4000)
    source = Source({"own": 1, "pool:same": 0, "pool": 2, "plates:pool:other": 5})
    drawn = [source.pick(uniform) for uniform in uniforms]
    shares = {choice: drawn.count(choice) / 4000 for choice in set(drawn)}
    assert shares.keys() == {("background", None), ("background", "any"), ("plate", "other")}
    expected = {("background", None): 1 / 8, ("background", "any"): 2 / 8, ("plate", "other"): 5 / 8}
    assert all(abs(shares[choice] - share) < 0.03 for choice, share in expected.items())


def test_a_background_of_another_size_is_covered_and_cropped_at_random_and_mirrored_as_often_as_asked(filled):
    cache, paths = filled
    image = np.asarray(PIL.Image.open(paths[1]))
    alone = Cache(cache.directory.parent / "alone", codec="png")
    tall = PIL.Image.fromarray(scene(5, (128, 80))[0])
    prewarm([tall, image], alone, simple.recipe(), groups=[None, "other"], workers=0, progress=False)
    chain, key = Chain(simple.recipe(), alone), image_key(image)
    matte = chain.artifact("remove", key)
    background = chain.artifact("generate", image_key(tall), 0)
    possible = {}
    for step in range(300):
        fitted = cover(background, *image.shape[:2], 0.5, step / 300)
        for mirrored in (False, True):
            pixels = composite(image, matte, np.ascontiguousarray(fitted[:, ::-1]) if mirrored else fitted)
            possible[pixels.tobytes()] = (mirrored, step)
    replace = ReplaceBackground(alone, p=1, source=Source("pool:other", flip=0.3))
    torch.manual_seed(0)
    seen = [possible[np.asarray(replace(PIL.Image.fromarray(image))).tobytes()] for _ in range(150)]
    assert 0.17 < np.mean([mirrored for mirrored, _ in seen]) < 0.43
    assert np.std([step for _, step in seen]) > 60


def test_an_evicted_neighbour_gives_way_to_another(tmp_path):
    cache = Cache(tmp_path / "cache")
    images = [PIL.Image.fromarray(scene(n)[0]) for n in range(3)]
    prewarm(images, cache, simple.recipe(), workers=0, progress=False)
    for name in cache.names():
        if name.startswith("background/") and image_key(images[2]) not in name:
            cache.delete(name)
    replace = ReplaceBackground(cache, p=1, source="pool")
    results = {np.asarray(replace(images[0])).tobytes() for _ in range(30)}
    assert len(results) == 1
    assert replace.counts["hits"] == 30


def test_a_pool_without_images_keeps_the_sample(filled, tmp_path):
    image = PIL.Image.fromarray(scene(0)[0])
    prewarm([image], tmp_path / "cache", simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "cache", p=1, source="pool:other")
    assert replace(image) is image
    assert replace.counts["misses"] == 1


def test_an_index_torn_during_training_is_reported_once_and_never_breaks_it(tmp_path, monkeypatch, caplog):
    simple.register(monkeypatch)
    image = PIL.Image.fromarray(scene(0)[0])
    cache = Cache(tmp_path / "cache")
    prewarm([image], cache, simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(cache, p=1, source="pool")
    cache.pool_file(cache.recipes()[-1]).write_bytes(b"torn")
    assert replace(image) is image
    assert replace(image) is image
    assert len(caplog.records) == 1
    assert "prewarm again to write it anew" in caplog.text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mine", "source: 'mine' is not one of own, pool"),
        ({"own": -1}, "source: own: -1 is not a weight"),
        ({"own": 0}, "no weight is above 0"),
        ({}, "no weight is above 0"),
        ({"weights": "pool", "max_coverage": 2}, "max_coverage: 2"),
    ],
)
def test_a_source_that_cannot_work_is_named(cache, source, message):
    with pytest.raises(InputError, match=message):
        ReplaceBackground(cache, source=source)


# --- Misses -----------------------------------------------------------------------------------------------------------


def test_misses_are_noted_once_by_all_processes_and_filled_by_prewarm_missing(tmp_path):
    paths = write_folder(tmp_path / "images", 5)
    cache, recipe = Cache(tmp_path / "cache"), simple.recipe()
    prewarm(paths[:2], cache, recipe, workers=0, progress=False)
    replace = ReplaceBackground(cache, p=1)
    stranger = PIL.Image.fromarray(scene(77)[0])
    for _ in range(3):
        for image in (*map(PIL.Image.open, paths[:4]), stranger):
            replace(image)
    pid = os.fork()
    if pid == 0:
        try:
            ReplaceBackground(cache, p=1)(PIL.Image.open(paths[2]))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    file = cache.misses(cache.recipes()[-1])
    missed = [image_key(PIL.Image.open(path)) for path in paths[2:4]] + [image_key(stranger)]
    assert sorted(file.path.read_text().split()) == sorted(missed)
    report = prewarm(tmp_path / "images", cache, recipe, workers=0, progress=False, missing=True)
    assert (report.images, report.complete) == (2, 2)
    assert file.read() == {image_key(stranger)}
    assert replace(PIL.Image.open(paths[2])) is not None
    assert ReplaceBackground(cache, p=1, on_miss="raise")(PIL.Image.open(paths[3])).size == (112, 96)


def test_the_command_line_fills_what_was_missed_and_nothing_else(tmp_path):
    paths = write_folder(tmp_path / "images", 3)
    (tmp_path / "simple.toml").write_text(simple.recipe().to_toml())
    cache = Cache(tmp_path / "cache")
    prewarm(paths[:1], cache, simple.recipe(), workers=0, progress=False)
    ReplaceBackground(cache, p=1)(PIL.Image.open(paths[1]))
    arguments = ["--cache", cache.directory, "--recipe", tmp_path / "simple.toml", "--workers", 0, "--missing"]
    done = CliRunner().invoke(app, ["prewarm", str(tmp_path / "images"), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert "\n1 images: 1 complete" in done.output


def test_misses_are_capped_and_a_folder_that_cannot_be_written_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("augment.misses._MOST", 3)
    cache = Cache(tmp_path / "cache")
    prewarm([scene(0)[0]], cache, simple.recipe(), workers=0, progress=False)
    filled = cache.recipes()[-1]
    noted = cache.misses(filled)
    for n in range(9):
        noted.add(f"{n:032x}")
    assert len(noted.read()) == 3
    blocked = cache.misses(filled)
    blocked.path = tmp_path / "cache" / "store.json" / "x.txt"
    blocked.add("0" * 32)
    assert blocked.read() == set()
