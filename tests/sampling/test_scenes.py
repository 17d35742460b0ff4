"""A transform that draws scenes: which ones, how often, and beside what."""

import logging
import pickle
from collections import Counter

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from augment import Cache, Source, prewarm, scenes
from augment.artifacts import BACKGROUND, PLATE, SCENE, decode_image
from augment.chain import Chain
from augment.errors import StoreError
from augment.imaging.composite import composite
from augment.imaging.fit import cover
from augment.keys import image_key
from augment.store.entries import entry_name
from augment.store.packing import export_pack
from augment.testing.pictures import write_folder
from augment.torchvision import ReplaceBackground
from tests import simple

SIZE = (96, 112)
COUNT = 6


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache of four images by one recipe and six scenes by another, and the images' paths."""
    folder = tmp_path_factory.mktemp("filled")
    paths = write_folder(folder / "images", 4)
    cache = Cache(folder / "cache", codec="png")
    prewarm(folder / "images", cache, simple.recipe(), workers=0, progress=False)
    other = simple.recipe(generate={"strength": 20})
    scenes(["a city", "a wood"], cache, other, count=COUNT, size=SIZE, progress=False)
    return cache, paths


def origins(cache, path, source, tries=60, damaged="", **options):
    """What the composites of an image are made of, by the kind of background, and how many different ones; the entry
    called `damaged` cannot be decoded."""
    image = PIL.Image.open(path).convert("RGB")
    chain = Chain(simple.recipe(), cache)
    matte = chain.reader.get(simple.REMOVE.makes, image_key(image))
    kinds = {}
    for name in cache.names():
        kind = name.split("/")[0]
        if kind in (SCENE.name, BACKGROUND.name, PLATE.name) and name != damaged:
            background = cover(decode_image(cache.get(name)), image.height, image.width, 0.5, 0.5)
            kinds[composite(np.asarray(image), matte, background).tobytes()] = kind, name
    torch.manual_seed(0)
    replace = ReplaceBackground(cache, p=1, source=source, **options)
    seen = [kinds.get(np.asarray(replace(image)).tobytes(), ("other", "")) for _ in range(tries)]
    return Counter(kind for kind, _ in seen), {name for _, name in seen}


def test_scenes_are_drawn_whatever_recipe_made_them(filled):
    cache, paths = filled
    counts, names = origins(cache, paths[0], "scenes")
    assert counts == {SCENE.name: 60}
    assert len(names) == COUNT


def test_the_pool_draws_each_scene_as_often_as_each_image(filled):
    cache, paths = filled
    counts, names = origins(cache, paths[0], "pool", tries=200)
    assert 0.45 < counts[SCENE.name] / 200 < 0.75  # 6 of 10
    assert len(names) == COUNT + 4


@pytest.mark.parametrize("source", ["own", "pool:same", "pool:other", "plates:pool", "plates:own"])
def test_nothing_else_draws_scenes(filled, source):
    cache, paths = filled
    assert origins(cache, paths[0], source)[0][SCENE.name] == 0


def test_weights_mix_scenes_with_others(filled):
    cache, paths = filled
    counts, _ = origins(cache, paths[0], {"pool:other": 1, "scenes": 1, "plates:own": 0})
    assert set(counts) == {SCENE.name, BACKGROUND.name}
    assert 15 < counts[SCENE.name] < 45


def test_a_store_without_scenes_says_how_to_make_some(tmp_path, filled):
    prewarm(filled[1][:2], tmp_path / "cache", simple.recipe(), workers=0, progress=False)
    for source in ("scenes", {"own": 1, "scenes": 0.5}):
        with pytest.raises(StoreError, match="needs scenes, and .* has none: make some with `augment scenes PROMPTS"):
            ReplaceBackground(tmp_path / "cache", source=source)
    ReplaceBackground(tmp_path / "cache", source={"own": 1, "scenes": 0})


def test_scenes_that_are_gone_or_damaged_are_passed_over(filled, tmp_path, caplog):
    cache = Cache(tmp_path / "cache", codec="png")
    for name in filled[0].names():
        entry = filled[0].entry(name)
        cache.put(name, entry.payload, entry.provenance)
    cache.add_record(simple.recipe().record(1))
    cache.add_scenes(filled[0].scenes())
    names = [entry_name(SCENE.name, *one) for one in cache.scenes()]
    for name in names[:2]:
        cache.delete(name)
    cache.put(names[2], b"no picture", {})
    with caplog.at_level(logging.WARNING):
        counts, found = origins(Cache(tmp_path / "cache"), filled[1][0], "scenes", damaged=names[2])
    assert counts == {SCENE.name: 60}
    assert found == set(names[3:])
    assert caplog.text.count("counts as missing") == 1


def test_an_image_without_its_own_background_gets_a_scene(tmp_path):
    """Mattes for all, scenes for all: no image has a background of its own."""
    paths = write_folder(tmp_path / "images", 2)
    cache = Cache(tmp_path / "cache", codec="png")
    prewarm(tmp_path / "images", cache, simple.recipe(), workers=0, progress=False)
    scenes(["a city"], cache, simple.recipe(), count=2, size=(200, 300), progress=False)
    for name in [name for name in cache.names() if name.startswith("background/")]:
        cache.delete(name)
    replace = ReplaceBackground(cache, p=1, source=Source("scenes", flip=0.5))
    for path in paths:
        image = PIL.Image.open(path).convert("RGB")
        assert replace(image).size == image.size
    assert replace.counts["hits"] == 2


def test_a_pickled_transform_draws_the_same(filled):
    cache, paths = filled
    image = PIL.Image.open(paths[0]).convert("RGB")
    replace = ReplaceBackground(cache, p=1, source="scenes")
    results = []
    for one in (replace, pickle.loads(pickle.dumps(replace))):
        torch.manual_seed(3)
        results.append(np.asarray(one(image)))
    np.testing.assert_array_equal(*results)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["cache", "pack"])
def test_a_network_trains_from_fifty_scenes_with_two_workers(tmp_path, method, kind):
    write_folder(tmp_path / "images", 8)
    cache = Cache(tmp_path / "cache")
    prewarm(tmp_path / "images", cache, simple.recipe(), workers=0, progress=False)
    made = scenes(["a city", "a wood", "a beach"], cache, simple.recipe(), count=50, size=SIZE, progress=False)
    assert (made.complete, len(cache.scenes())) == (50, 50)
    if kind == "pack":
        export_pack(cache, tmp_path / "pack")
    replace = ReplaceBackground(tmp_path / kind, p=1, source="scenes")
    transform = v2.Compose([replace, v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    dataset = ImageFolder(tmp_path / "images", transform)
    loader = DataLoader(dataset, 4, num_workers=2, multiprocessing_context=method, persistent_workers=True)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    before = network[1].weight.detach().clone()
    seen = set()
    for _ in range(3):
        for images, labels in loader:
            seen |= {image.numpy().tobytes() for image in images}
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert not torch.equal(network[1].weight, before)
    assert {name: count for name, count in replace.counts.items() if count} == {"hits": 24}
    assert len(seen) > 16  # another scene almost every time
