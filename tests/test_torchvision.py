"""The torchvision transform: types in and out, labels, randomness, workers."""

import logging
import pickle

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from augment import Cache, prewarm
from augment.chain import Chain
from augment.composite import composite
from augment.errors import InputError, MissError, StoreError
from augment.keys import image_key
from augment.torchvision import ReplaceBackground
from tests import simple
from tests.pictures import scene, write_folder

VARIANTS = 3


@pytest.fixture(autouse=True)
def _simple_stages(monkeypatch):
    simple.register(monkeypatch)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with three variants of eight scenes, and the scenes' paths."""
    folder = tmp_path_factory.mktemp("filled")
    paths = write_folder(folder / "images", 8)
    with pytest.MonkeyPatch.context() as patch:
        simple.register(patch)
        report = prewarm(paths, folder / "cache", simple.recipe(), variants=VARIANTS, workers=0, progress=False)
    assert report.complete == 8
    return Cache(folder / "cache"), paths


@pytest.fixture
def cache(filled):
    return filled[0]


@pytest.fixture
def image(filled):
    with PIL.Image.open(filled[1][0]) as file:
        return file.convert("RGB")


def possible(cache, image):
    """What the transform may give for the image, one for each variant."""
    chain, key, pixels = Chain(simple.recipe(), cache), image_key(image), np.asarray(image)
    matte = chain.artifact("remove", key)
    return [composite(pixels, matte, chain.artifact("generate", key, v)) for v in range(VARIANTS)]


def is_one_of(pixels, expected, tolerance=0):
    return any(np.abs(pixels.astype(int) - one).max() <= tolerance for one in expected)


def test_a_pil_image_comes_back_as_one(cache, image):
    result = ReplaceBackground(cache, p=1)(image)
    assert isinstance(result, PIL.Image.Image)
    assert is_one_of(np.asarray(result), possible(cache, image))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("wrap", [torch.as_tensor, tv_tensors.Image])
def test_a_tensor_comes_back_as_it_was(cache, image, dtype, wrap):
    tensor = wrap(F.to_dtype(F.pil_to_tensor(image), dtype, scale=True))
    result = ReplaceBackground(cache, p=1)(tensor)
    assert type(result) is type(tensor)
    assert (result.dtype, result.shape) == (tensor.dtype, tensor.shape)
    back = F.to_dtype(torch.as_tensor(result), torch.uint8, scale=True).permute(1, 2, 0).numpy()
    assert is_one_of(back, possible(cache, image))


def test_grey_images_stay_grey_and_alpha_stays(tmp_path):
    grey = PIL.Image.fromarray(scene(0)[0]).convert("L")
    with_alpha = grey.copy().convert("LA")
    with_alpha.putalpha(PIL.Image.new("L", grey.size, 77))
    # No red in a grey image: its own mask says where the object is.
    recipe = simple.recipe().changed({"remove.backend": "masks"})
    prewarm([(grey, tv_tensors.Mask(scene(0)[1]))], tmp_path / "c", recipe, workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=1)
    results = replace(grey), replace(with_alpha), replace(F.pil_to_tensor(grey))
    assert [r.mode for r in results[:2]] == ["L", "LA"]
    assert results[2].shape == (1, 96, 112)
    assert np.asarray(results[1])[..., 1].tolist() == np.full((96, 112), 77).tolist()
    assert replace.counts["hits"] == 3
    inside = scene(0)[1] == 255
    for result in (np.asarray(results[0]), results[2][0].numpy()):
        np.testing.assert_array_equal(result[inside], np.asarray(grey)[inside])
        assert (result != np.asarray(grey)).mean() > 0.5


@pytest.mark.parametrize("mode", ["P", "CMYK", "I;16"])
def test_modes_that_cannot_be_written_back_are_refused_with_the_way_out(cache, mode):
    image = PIL.Image.new(mode, (8, 8))
    with pytest.raises(InputError, match=rf'mode {mode}: call .convert\("RGB"\)'):
        ReplaceBackground(cache, p=1)(image)


def test_an_integer_tensor_other_than_uint8_is_refused(cache):
    with pytest.raises(InputError, match="uint16"):
        ReplaceBackground(cache, p=1)(torch.zeros(3, 8, 8, dtype=torch.uint16))


def boxed():
    """The labels of the scene in the image: the box, mask and centre of the inner part of its disc."""
    mask = cv2.erode(scene(1)[1], np.ones((5, 5))) == 255
    y, x = np.nonzero(mask)
    size = mask.shape
    box = [[x.min(), y.min(), x.max() + 1, y.max() + 1]]
    return {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor(box), format="XYXY", canvas_size=size),
        "masks": tv_tensors.Mask(torch.from_numpy(mask)[None]),
        "keypoints": tv_tensors.KeyPoints(torch.tensor([[x.mean(), y.mean()]]), canvas_size=size),
    }


def test_any_structure_keeps_its_labels_and_only_the_image_changes(cache, image):
    target = boxed() | {"labels": torch.tensor([3]), "name": "x", "area": 4.5}
    result, after = ReplaceBackground(cache, p=1)(image, target)
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
    results = ReplaceBackground(cache, p=1)(*images)
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
    "label",
    [
        tv_tensors.BoundingBoxes([[0, 0, 20, 20]], format="XYXY", canvas_size=(96, 112)),
        tv_tensors.BoundingBoxes([[10.0, 10.0, 12.0, 12.0, 30.0]], format="CXCYWHR", canvas_size=(96, 112)),
        tv_tensors.KeyPoints([[3, 3]], canvas_size=(96, 112)),
        tv_tensors.KeyPoints([[300, 3]], canvas_size=(96, 112)),
        tv_tensors.Mask(torch.ones(40, 40)),
        tv_tensors.Mask(torch.ones(96, 112)),
    ],
    ids=["box", "rotated box", "point", "point outside", "mask of another size", "mask of everything"],
)
def test_a_label_that_the_matte_does_not_hold_keeps_the_sample_as_it_is(cache, image, label):
    replace = ReplaceBackground(cache, p=1)
    result, after = replace(image, label)
    assert result is image
    assert after is label
    assert replace.counts == {"hits": 0, "misses": 0, "unusable": 0, "protected": 1}


def test_p_is_the_share_that_is_replaced(cache, image):
    torch.manual_seed(0)
    replace = ReplaceBackground(cache, p=0.3)
    replaced = sum(replace(image) is not image for _ in range(600))
    assert 0.24 < replaced / 600 < 0.36
    assert replace.counts["hits"] == replaced
    assert all(ReplaceBackground(cache, p=0)(image) is image for _ in range(20))


def test_every_variant_is_drawn_about_as_often(cache, image):
    torch.manual_seed(0)
    replace = ReplaceBackground(cache, p=1)
    seen = [np.asarray(replace(image)).tobytes() for _ in range(300)]
    counts = [seen.count(one.tobytes()) for one in possible(cache, image)]
    assert sum(counts) == 300
    assert min(counts) > 70


def test_the_same_seed_gives_the_same_sequence(cache, image):
    replace = ReplaceBackground(cache, p=0.5)
    sequences = []
    for _ in range(2):
        torch.manual_seed(7)
        sequences.append([np.asarray(replace(image)).tobytes() for _ in range(20)])
    assert sequences[0] == sequences[1]


def test_what_the_store_holds_does_not_change_later_draws(cache, image):
    other = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    draws = []
    for one in (image, other):
        torch.manual_seed(3)
        ReplaceBackground(cache, p=0.5)(one)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]


def test_a_miss_is_kept_or_raised(cache):
    other = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    keep = ReplaceBackground(cache, p=1)
    assert keep(other) is other
    assert keep.counts["misses"] == 1
    with pytest.raises(
        MissError, match=f"no background for the image {image_key(other)}.*no other transform runs before"
    ):
        ReplaceBackground(cache, p=1, on_miss="raise")(other)


def test_a_miss_is_computed_and_kept_for_the_next_time(tmp_path, monkeypatch):
    image = PIL.Image.fromarray(scene(0)[0])
    replace = ReplaceBackground(Cache(tmp_path / "c"), p=1, on_miss="compute", recipe=simple.recipe())
    first = replace(image)
    assert first is not image
    assert simple.CALLS["generate"] == 1
    np.testing.assert_array_equal(np.asarray(replace(image)), np.asarray(first))
    assert simple.CALLS["generate"] == 1
    assert replace.counts["hits"] == 2


def test_an_unusable_matte_gives_the_original(tmp_path):
    grey = PIL.Image.new("RGB", (30, 20), (99, 99, 99))
    prewarm([grey], tmp_path / "c", simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=1, on_miss="raise")
    assert replace(grey) is grey
    assert replace.counts["unusable"] == 1


def test_a_damaged_background_is_a_miss(filled, tmp_path, image):
    cache = Cache(tmp_path / "c")
    prewarm([image], cache, simple.recipe(), workers=0, progress=False)
    name = next(name for name in cache.names() if name.startswith("background/"))
    cache._open().set(name, b"torn")
    assert ReplaceBackground(cache, p=1)(image) is image


def test_a_missing_variant_gives_way_to_another(tmp_path, image):
    cache = Cache(tmp_path / "c")
    prewarm([image], cache, simple.recipe(), variants=3, workers=0, progress=False)
    for name in cache.names():
        if name.startswith("background/") and not name.endswith("/1"):
            cache.delete(name)
    replace = ReplaceBackground(cache, p=1)
    assert len({np.asarray(replace(image)).tobytes() for _ in range(20)}) == 1
    assert replace.counts["hits"] == 20


def test_one_warning_when_the_first_hundred_all_miss(cache, caplog):
    replace = ReplaceBackground(cache, p=1)
    other = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    with caplog.at_level(logging.WARNING):
        for _ in range(250):
            replace(other)
    assert [record.message[:41] for record in caplog.records] == ["none of the first 100 images was found in"]
    assert "another transform ran before ReplaceBackground" in caplog.text


def test_no_warning_when_one_of_them_was_found(cache, image, caplog):
    replace = ReplaceBackground(cache, p=1)
    other = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    with caplog.at_level(logging.WARNING):
        replace(image)
        for _ in range(250):
            replace(other)
    assert not caplog.records


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.5}, "p: 1.5"),
        ({"on_miss": "ignore"}, "on_miss: 'ignore' is not one of keep, raise, compute"),
        ({"blend": "magic"}, "blend: 'magic'"),
        ({"harmonize": 2}, "harmonize: 2"),
    ],
)
def test_an_argument_that_cannot_work_is_named(cache, arguments, message):
    with pytest.raises(InputError, match=message):
        ReplaceBackground(cache, **arguments)


def test_a_store_that_is_not_there_or_empty_is_said_at_once(tmp_path):
    with pytest.raises(StoreError, match="is not a store"):
        ReplaceBackground(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="holds no recipe yet"):
        ReplaceBackground(Cache(tmp_path / "empty"))


def test_the_latest_recipe_serves_unless_another_is_named(tmp_path, image):
    cache = Cache(tmp_path / "c", codec="png")
    pixels = {}
    for strength in (5, 90):
        recipe = simple.recipe(generate={"strength": strength})
        prewarm([image], cache, recipe, workers=0, progress=False)
        pixels[strength] = np.asarray(ReplaceBackground(cache, p=1, recipe=recipe)(image))
    assert (pixels[5] != pixels[90]).any()
    np.testing.assert_array_equal(np.asarray(ReplaceBackground(cache, p=1)(image)), pixels[90])
    with pytest.raises(StoreError, match="not filled with the recipe 'sd15'; it holds: simple"):
        ReplaceBackground(cache, recipe="sd15")


def test_its_repr_is_like_torchvisions(cache):
    text = repr(ReplaceBackground(cache, p=0.25, blend="feather"))
    assert text.startswith("ReplaceBackground(Cache('")
    assert "recipe=simple, p=0.25, on_miss=keep, blend=feather, harmonize=0.0, protect_labels=True" in text


def test_it_works_inside_a_compose_and_survives_pickling(cache, image):
    pipeline = pickle.loads(pickle.dumps(v2.Compose([ReplaceBackground(cache, p=1), v2.RandomResizedCrop(32)])))
    assert pipeline(image).size == (32, 32)
    assert pipeline.transforms[0].counts["hits"] == 1


class Scenes(Dataset):
    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with PIL.Image.open(self.paths[index]) as file:
            return torch.from_numpy(np.array(self.transform(file.convert("RGB"))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_hit_always_differ_between_epochs_and_repeat_with_the_seed(filled, method):
    cache, paths = filled
    cache.get("opened before the fork")
    replace = ReplaceBackground(cache, p=1)
    runs = []
    for _ in range(2):
        torch.manual_seed(11)
        loader = DataLoader(
            Scenes(paths, replace), 1, num_workers=2, multiprocessing_context=method, persistent_workers=True
        )
        runs.append([[batch.numpy().tobytes() for batch in loader] for _ in range(3)])
    assert runs[0] == runs[1]
    epochs = runs[0]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert sum(a != b for a, b in zip(epochs[0], epochs[1], strict=True)) >= 2
    assert replace.counts == {"hits": 48, "misses": 0, "unusable": 0, "protected": 0}
