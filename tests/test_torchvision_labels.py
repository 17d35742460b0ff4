"""The torchvision transform with labels, structures of all kinds, and keys."""

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from augment import Cache, prewarm
from augment.errors import InputError
from augment.keys import image_key
from augment.sampling.placement import Placement
from augment.testing.pictures import scene
from augment.torchvision import Key, KeyedImageFolder, ReplaceBackground
from tests import simple
from tests.filled import boxed, counted, is_one_of, possible


def test_any_structure_keeps_its_labels_and_only_the_image_changes(cache, image):
    target = boxed() | {"labels": torch.tensor([3]), "name": "x", "area": 4.5}
    result, after = ReplaceBackground(cache, p=1, source="own")(image, target)
    assert list(after) == list(target)
    for name, value in target.items():
        assert after[name] is value
    assert is_one_of(np.asarray(result), possible(cache, image))


@pytest.mark.parametrize("structure", [lambda i: {"image": i, "label": 1}, lambda i: [i, 2], lambda i: ((i,), "a")])
def test_structures_come_back_as_they_were(cache, image, structure):
    sample = structure(image)
    result = ReplaceBackground(cache, p=1)(sample)
    assert type(result) is type(sample)
    leaves = torch.utils._pytree.tree_leaves(result)
    assert isinstance(leaves[0], PIL.Image.Image)
    assert leaves[1:] == torch.utils._pytree.tree_leaves(sample)[1:]


def test_two_images_in_a_sample_are_each_replaced(filled):
    cache, paths = filled
    images = [PIL.Image.open(path) for path in paths[:2]]
    results = ReplaceBackground(cache, p=1, source="own")(*images)
    for image, result in zip(images, results, strict=True):
        assert is_one_of(np.asarray(result), possible(cache, image))


def test_no_labelled_pixel_is_ever_painted_over(cache, image):
    mask = np.zeros((96, 112), bool)
    mask[2:9, 3:30] = True  # far from the disc
    replace = ReplaceBackground(cache, p=1)
    result, _ = replace(image, tv_tensors.Mask(torch.from_numpy(mask)))
    np.testing.assert_array_equal(np.asarray(result)[mask], np.asarray(image)[mask])
    assert replace.counts["hits"] == 1
    without = ReplaceBackground(cache, p=1, protect_labels=False)(image, tv_tensors.Mask(torch.from_numpy(mask)))[0]
    assert (np.asarray(without) != np.asarray(image))[mask].any()


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (tv_tensors.BoundingBoxes([[0, 0, 20, 20]], format="XYXY", canvas_size=(96, 112)), "box"),
        (tv_tensors.BoundingBoxes([[10.0, 10.0, 12.0, 12.0, 30.0]], format="CXCYWHR", canvas_size=(96, 112)), "box"),
        (tv_tensors.KeyPoints([[3, 3]], canvas_size=(96, 112)), "keypoint"),
        (tv_tensors.KeyPoints([[300, 3]], canvas_size=(96, 112)), "keypoint"),
        (tv_tensors.Mask(torch.ones(40, 40)), "mask"),
        (tv_tensors.Mask(torch.ones(96, 112)), "mask"),
    ],
    ids=["box", "rotated box", "point", "point outside", "mask of another size", "mask of everything"],
)
def test_a_label_that_the_matte_does_not_hold_keeps_the_sample_as_it_is(cache, image, label, reason):
    replace = ReplaceBackground(cache, p=1, placement=Placement(translate="uniform"))
    result, after = replace(image, label)
    assert result is image
    assert after is label
    assert counted(replace) == {f"protected: {reason}": 1}


@pytest.mark.parametrize("name", ["key", "path", "relative path"])
def test_a_resized_image_is_found_by_its_key_or_path(filled, image, name, monkeypatch):
    cache, paths = filled
    monkeypatch.chdir(paths[0].parent)
    key = {"key": image_key(image), "path": str(paths[0]), "relative path": paths[0].name}[name]
    small = image.resize((56, 48), PIL.Image.Resampling.BOX)
    replace = ReplaceBackground(cache, p=1, source="own")
    result, after = replace(small, Key(key))
    assert after == key
    assert counted(replace) == {"hits": 1}
    halves = [F.resize(PIL.Image.fromarray(one), [48, 56]) for one in possible(cache, image)]
    errors = [np.abs(np.asarray(half, int) - np.asarray(result)).mean() for half in halves]
    assert min(errors) < 4


def test_a_crop_under_a_key_is_not_a_resize_and_stays_as_it_is(cache, image):
    crop = image.crop((0, 0, 96, 50))
    replace = ReplaceBackground(cache, p=1)
    assert replace(crop, Key(image_key(image)))[0] is crop
    assert counted(replace) == {"mismatched": 1}


def test_a_key_goes_with_a_single_image(cache, image):
    with pytest.raises(InputError, match="a sample of 2 images with 1 keys"):
        ReplaceBackground(cache, p=1)(image, image.copy(), Key(image_key(image)))


def test_an_unknown_key_or_path_is_a_miss_that_is_noted(filled, image, tmp_path):
    cache = Cache(tmp_path / "c")
    prewarm([image], cache, simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(cache, p=1)
    for name in ("0" * 32, "/nowhere/1.png"):
        replace(image, Key(name))
    assert counted(replace) == {"misses": 2}
    assert cache.misses(cache.recipes()[-1]).read() == {"0" * 32, "/nowhere/1.png"}


def test_a_file_that_exif_turns_is_found_by_its_path_in_either_form(tmp_path):
    upright = PIL.Image.fromarray(scene(3)[0])
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "images" / "turned.png"
    path.parent.mkdir()
    upright.save(path, exif=exif)
    prewarm(tmp_path / "images", tmp_path / "cache", simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "cache", p=1)
    for form in (upright, upright.transpose(PIL.Image.Transpose.ROTATE_270)):
        replace(form.resize([side * 3 // 4 for side in form.size]), Key(path))
    assert counted(replace) == {"hits": 2}


@pytest.mark.parametrize("own_loader", [False, True])
def test_a_keyed_folder_lets_a_resize_come_first(filled, own_loader):
    cache, paths = filled
    replace = ReplaceBackground(cache, p=1)
    transform = v2.Compose([v2.Resize((48, 56)), v2.PILToTensor(), replace, v2.RandomCrop(32)])
    loader = {"loader": lambda path: PIL.Image.open(path).convert("RGB").point(lambda v: v ^ 1)} if own_loader else {}
    dataset = KeyedImageFolder(paths[0].parents[1], transform, **loader)
    image, target = dataset[5]
    assert image.shape == (3, 32, 32)
    assert target == dataset.targets[5]
    assert counted(replace) == {"hits": 1}
    assert KeyedImageFolder(paths[0].parents[1])[0][0].size == (112, 96)
