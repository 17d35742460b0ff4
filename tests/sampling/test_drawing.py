"""Backgrounds of other images: how they are drawn, fitted, and left out."""

import pickle

import numpy as np
import PIL.Image
import pytest
import torch

from augment import Cache, Source, prewarm
from augment.artifacts import BACKGROUND, PLATE, decode_image
from augment.chain import Chain
from augment.errors import InputError
from augment.imaging.composite import composite
from augment.imaging.fit import cover
from augment.keys import image_key
from augment.testing.pictures import scene, write_folder
from augment.torchvision import ReplaceBackground
from tests import simple
from tests.simple import GENERATE, INPAINT, REMOVE


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache of two variants of six scenes of two groups, one of them mostly object; and the paths."""
    folder = tmp_path_factory.mktemp("filled")
    paths = write_folder(folder / "images", 6)
    large = np.full((96, 112, 3), (200, 210, 230), np.uint8)
    large[4:92, 2:110] = (220, 40, 30)
    PIL.Image.fromarray(large).save(paths[0])
    report = prewarm(folder / "images", folder / "cache", simple.recipe(), variants=2, workers=0, progress=False)
    assert report.complete == 6
    return Cache(folder / "cache", codec="png"), paths


@pytest.fixture
def cache(filled):
    return filled[0]


def group_of(path):
    return path.parent.name


def outcomes(cache, path, kind, relation):
    """What each allowed image would give, by its path."""
    chain = Chain(simple.recipe(), cache)
    pixels = np.asarray(PIL.Image.open(path))
    matte = chain.artifact(REMOVE, image_key(pixels))
    found = {}
    for other in sorted(path.parents[1].rglob("*.png")):
        key = image_key(PIL.Image.open(other))
        same = group_of(other) == group_of(path)
        if chain.artifact(REMOVE, key).coverage > 0.8 or {"same": not same, "other": same}.get(relation, False):
            continue
        for variant in range(2) if kind == "background" else (None,):
            name = chain.name(GENERATE if kind == "background" else INPAINT, key, variant)
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
    plate = decode_image(cache.get(chain.name(INPAINT, key)), at_least=pixels.shape[:2])
    expected = composite(pixels, chain.artifact(REMOVE, key), plate)
    result = ReplaceBackground(cache, p=1, source="plates:own")(PIL.Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(result), expected)


def test_weights_are_the_shares_of_the_sources(filled):
    uniforms = np.random.default_rng(0).random(4000)
    source = Source({"own": 1, "pool:same": 0, "pool": 2, "plates:pool:other": 5})
    drawn = [source.pick(uniform) for uniform in uniforms]
    shares = {choice: drawn.count(choice) / 4000 for choice in set(drawn)}
    own, pool = ("own", BACKGROUND, None), ("pool", BACKGROUND, "any")
    plates = ("plates:pool:other", PLATE, "other")
    assert shares.keys() == {own, pool, plates}
    expected = {own: 1 / 8, pool: 2 / 8, plates: 5 / 8}
    assert all(abs(shares[choice] - share) < 0.03 for choice, share in expected.items())


def test_a_background_of_another_size_is_covered_and_cropped_at_random_and_mirrored_as_often_as_asked(filled):
    cache, paths = filled
    image = np.asarray(PIL.Image.open(paths[1]))
    alone = Cache(cache.directory.parent / "alone", codec="png")
    tall = PIL.Image.fromarray(scene(5, (128, 80))[0])
    prewarm([tall, image], alone, simple.recipe(), groups=[None, "other"], workers=0, progress=False)
    chain, key = Chain(simple.recipe(), alone), image_key(image)
    matte = chain.artifact(REMOVE, key)
    background = chain.artifact(GENERATE, image_key(tall), 0)
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


def test_an_index_torn_before_a_worker_opens_it_is_said_once_and_never_breaks_training(tmp_path, caplog):
    image = PIL.Image.fromarray(scene(0)[0])
    cache = Cache(tmp_path / "cache")
    prewarm([image], cache, simple.recipe(), workers=0, progress=False)
    data = pickle.dumps(ReplaceBackground(cache, p=1, source="pool"))
    for path in (cache.directory / "pools").glob("*.index"):
        path.write_bytes(b"torn")
    replace = pickle.loads(data)
    for _ in range(2):
        assert replace(image) is not image  # its own background
    assert sum("prewarm again to write it anew" in record.getMessage() for record in caplog.records) == 1


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
