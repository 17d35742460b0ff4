"""Images that were resized before the transform, to any aspect ratio, and carry their keys."""

import copy
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import augment.albumentations
from augment import Cache, prewarm
from augment.keys import image_key
from augment.testing.pictures import scene
from augment.torchvision import Key, KeyedImageFolder, ReplaceBackground, ReplaceBackgroundBatch
from tests import simple
from tests.filled import counted

SIZES = ((96, 112), (112, 96), (80, 160), (96, 96))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache of a folder of mixed aspect ratios."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "images" / "a").mkdir(parents=True)
    for number, size in enumerate(SIZES):
        PIL.Image.fromarray(scene(number, size)[0]).save(folder / "images" / "a" / f"{number}.png")
    prewarm(folder / "images", folder / "cache", simple.recipe(), workers=0, progress=False)
    return Cache(folder / "cache"), folder / "images"


def red(pixels):
    pixels = np.asarray(pixels).astype(int)
    return pixels[..., 0] - pixels[..., 1] > 90


def same(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize(
    "resize",
    [
        v2.Resize((64, 64)),
        v2.Resize((224, 224)),
        v2.Resize((50, 130)),
        v2.Compose([v2.ToImage(), v2.Resize((64, 64)), v2.ToPILImage()]),
        v2.Compose([v2.Resize((90, 200)), v2.RGB(), v2.Resize((64, 64))]),
        v2.RandomChoice([v2.Resize((64, 70)), v2.Resize(48)]),
    ],
    ids=str,
)
def test_a_squash_is_a_resize(filled, resize):
    cache, folder = filled
    replace = ReplaceBackground(cache, p=1)
    before = KeyedImageFolder(folder, resize)
    after = KeyedImageFolder(folder, v2.Compose([resize, replace]))
    for index, size in enumerate(SIZES):
        torch.manual_seed(index)
        image = before[index][0]
        torch.manual_seed(index)
        result = after[index][0]
        assert result.size == image.size
        assert same(red(result), red(image)) > 0.9, size
        assert (np.asarray(result) != np.asarray(image)).any()
    assert counted(replace) == {"hits": 4}


@pytest.mark.parametrize(
    "change",
    [
        v2.RandomCrop((96, 96)),
        v2.CenterCrop(60),
        v2.RandomResizedCrop((64, 64), scale=(0.3, 0.5)),
        v2.RandomHorizontalFlip(1.0),
        v2.RandomVerticalFlip(1.0),
        v2.Pad(20),
        v2.Compose([v2.CenterCrop((48, 56)), v2.Resize((96, 112))]),
        v2.RandomRotation((90, 90), expand=True),
    ],
    ids=str,
)
def test_anything_else_is_found_out_and_stays_as_it_is(filled, change):
    cache, folder = filled
    replace = ReplaceBackground(cache, p=1)
    dataset = KeyedImageFolder(folder, v2.Compose([change, replace]))
    torch.manual_seed(0)
    dataset[0]
    assert counted(replace) == {"mismatched": 1}


def test_a_resize_of_the_image_alone_counts_by_its_aspect_ratio(filled):
    cache, folder = filled
    replace = ReplaceBackground(cache, p=1)
    half = v2.Lambda(lambda image: image.resize((image.width // 2, image.height // 2)), PIL.Image.Image)
    square = v2.Lambda(lambda image: image.resize((64, 64)), PIL.Image.Image)
    KeyedImageFolder(folder, v2.Compose([half, replace]))[0]
    KeyedImageFolder(folder, v2.Compose([square, replace]))[0]
    assert counted(replace) == {"hits": 1, "mismatched": 1}


def test_a_loader_of_ones_own_may_squash_too(filled):
    cache, folder = filled
    replace = ReplaceBackground(cache, p=1)
    transform = v2.Compose([v2.Resize((64, 64)), replace])
    dataset = KeyedImageFolder(folder, transform, loader=lambda path: PIL.Image.open(path).convert("RGB"))
    for index in range(4):
        dataset[index]
    assert counted(replace) == {"hits": 4}


def test_a_key_may_promise_its_images_original_size(filled):
    cache, folder = filled
    image = PIL.Image.open(folder / "a" / "2.png")
    small = image.resize((64, 64))
    replace = ReplaceBackground(cache, p=1)
    for name in (image_key(image), folder / "a" / "2.png"):
        assert replace(small, Key(name, size=(80, 160)))[0] is not small
        assert replace(small, Key(name))[0] is small
        assert replace(small, Key(name, size=(160, 80)))[0] is small
    assert counted(replace) == {"hits": 2, "mismatched": 4}
    other = augment.albumentations.ReplaceBackground(cache, p=1)
    other(image=np.array(small), key=Key(image_key(image), size=(80, 160)))
    assert counted(other) == {"hits": 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_serves_a_folder_of_mixed_aspect_ratios(filled, workers):
    cache, folder = filled
    batch = ReplaceBackgroundBatch(cache, p=1)
    dataset = KeyedImageFolder(folder, v2.Resize((64, 64)), with_key=True)
    ((layers, keys), labels) = next(iter(DataLoader(dataset, 4, num_workers=workers, collate_fn=batch.collate)))
    assert batch(layers).shape == (4, 3, 64, 64)
    assert labels.tolist() == [0] * 4
    assert [len(key) for key in keys] == [32] * 4
    assert counted(batch) == {"hits": 4}


def test_a_batch_of_crops_stays_as_it_is(filled):
    cache, folder = filled
    batch = ReplaceBackgroundBatch(cache, p=1)
    dataset = KeyedImageFolder(folder, v2.Compose([v2.CenterCrop((48, 56)), v2.Resize((64, 64))]), with_key=True)
    batch.collate([dataset[index] for index in range(4)])
    assert counted(batch) == {"mismatched": 4}


def test_a_key_without_a_transform_is_that_of_the_image(filled):
    (image, key), _ = KeyedImageFolder(filled[1], with_key=True)[1]
    assert key == image_key(image)
    assert key.size == (112, 96)


def test_a_key_keeps_its_size_on_its_way():
    for key in (Key("a", size=(3, 4)), Key("a")):
        for one in (pickle.loads(pickle.dumps(key)), copy.deepcopy(key)):
            assert (one, one.size, type(one)) == (key, key.size, Key)
