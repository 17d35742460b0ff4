"""The torchvision transform: types in and out, labels, randomness, workers."""

import logging
import pickle
from dataclasses import replace as replace_stage

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
from augment.placement import Placement
from augment.schedules import Cosine, Linear
from augment.torchvision import Key, KeyedImageFolder, Layers, ReplaceBackground, ReplaceBackgroundBatch
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
        store = Cache(folder / "cache", codec="png")
        report = prewarm(paths, store, simple.recipe(), variants=VARIANTS, workers=0, progress=False)
    assert report.complete == 8
    return store, paths


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


def counted(replace):
    """The counts that are not 0."""
    return {name: count for name, count in replace.counts.items() if count}


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
        ({"p": lambda epoch: 2}, "p: 2 is not within"),
        ({"on_miss": "ignore"}, "on_miss: 'ignore' is not one of keep, pool, compute, raise"),
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
    assert "recipe=simple, p=0.25, source=own, on_miss=keep, blend=feather, harmonize=0.0, protect_labels=True" in text
    text = repr(ReplaceBackground(cache, p=Linear(0, 1, 9), placement=Placement(flip=0.5)))
    assert "p=Linear(start=0, end=1, epochs=9), placement=Placement(scale=(1.0, 1.0), " in text


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
    assert counted(replace) == {"hits": 48}


def test_the_number_of_draws_is_the_same_whatever_is_asked_and_found(cache, image):
    draws = set()
    other = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    for source in ("own", "pool:other", {"plates:pool": 1, "own": 3}):
        for placement in (None, Placement(scale=(0.5, 2), translate="uniform", flip=0.5, rotate=30)):
            for one in (image, other):
                torch.manual_seed(3)
                ReplaceBackground(cache, p=0.5, source=source, placement=placement)(one)
                draws.add(torch.rand(1).item())
    assert len(draws) == 1


# --- Schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(Linear(0.2, 1.0, 5), [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]), (Cosine(0.0, 1.0, 3), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0])],
)
def test_a_schedule_goes_from_its_start_to_its_end_and_stays_there(cache, schedule, expected):
    replace = ReplaceBackground(cache, p=pickle.loads(pickle.dumps(schedule)))
    found = []
    for epoch in range(6):
        replace.set_epoch(epoch)
        found.append(replace._chance.now())
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("settings", [(-0.1, 1, 3), (0, 1.1, 3), (0, 1, 0)])
def test_a_schedule_that_cannot_be_is_refused(settings):
    with pytest.raises(InputError):
        Linear(*settings)
    with pytest.raises(InputError):
        Cosine(*settings)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_persist_follow_the_epoch(filled, method):
    cache, paths = filled
    replace = ReplaceBackground(cache, p=Linear(0, 1, 2))
    loader = DataLoader(
        Scenes(paths, replace), 4, num_workers=1, multiprocessing_context=method, persistent_workers=True
    )
    hits = []
    for epoch in (0, 1, 0):
        replace.set_epoch(epoch)
        assert sum(len(batch) for batch in loader) == 8
        hits.append(replace.counts["hits"])
    assert hits == [0, 8, 8]


# --- Keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["key", "path", "relative path"])
def test_a_resized_image_is_found_by_its_key_or_path(filled, image, name, monkeypatch):
    cache, paths = filled
    monkeypatch.chdir(paths[0].parent)
    key = {"key": image_key(image), "path": str(paths[0]), "relative path": paths[0].name}[name]
    small = image.resize((56, 48), PIL.Image.Resampling.BOX)
    replace = ReplaceBackground(cache, p=1)
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
    with pytest.MonkeyPatch.context() as patch:
        simple.register(patch)
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


# --- Misses -----------------------------------------------------------------------------------------------------------


def test_a_lost_background_is_taken_from_the_pool_where_asked(filled, image, tmp_path):
    paths = filled[1]
    holes = Cache(tmp_path / "c")
    prewarm(paths[:3], holes, simple.recipe(), workers=0, progress=False)
    fingerprint = holes.recipes()[-1].fingerprints["generate"]
    holes.delete(f"background/{fingerprint}/{image_key(image)}/0")
    assert ReplaceBackground(holes, p=1)(image) is image
    replace = ReplaceBackground(holes, p=1, on_miss="pool")
    assert replace(image) is not image
    stranger = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    assert replace(stranger) is stranger
    assert counted(replace) == {"hits": 1, "misses": 1}


class CudaGenerator(simple.NoiseGenerator):
    backend = "cuda noise"

    def where(self):
        return "cuda:0"


class FailsInWorker(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            self.transform(PIL.Image.fromarray(scene(index)[0]))
        except InputError as error:
            return str(error)
        return "computed"


def test_computing_on_cuda_in_a_forked_worker_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(simple.BACKENDS["generate"], CudaGenerator.backend, CudaGenerator)
    recipe = replace_stage(simple.recipe(), generate=CudaGenerator())
    replace = ReplaceBackground(Cache(tmp_path / "c"), p=1, on_miss="compute", recipe=recipe)
    for bad_fork, expected in ((True, "generate (cuda noise) needs CUDA, which a forked"), (False, "computed")):
        monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda bad=bad_fork: bad)
        loader = DataLoader(FailsInWorker(replace), None, num_workers=1, multiprocessing_context="fork")
        (answer,) = list(loader)
        assert expected in answer


class Labelled(Dataset):
    """Images with a class each."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with PIL.Image.open(self.paths[index]) as file:
            return file.convert("RGB"), index


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"p": 1, "blend": "feather", "harmonize": 0.5},
        {"p": 1, "source": "pool", "placement": Placement(scale=(0.5, 1.5), translate="uniform", flip=0.5, rotate=20)},
        {"p": 1, "blend": "poisson"},
    ],
)
def test_a_blended_batch_is_what_the_transform_gives_for_each_image(filled, arguments):
    cache, paths = filled
    one_by_one, batch = ReplaceBackground(cache, **arguments), ReplaceBackgroundBatch(cache, **arguments)
    dataset = Labelled(paths)
    torch.manual_seed(3)
    expected = [F.pil_to_tensor(one_by_one(dataset[n][0])) for n in range(len(dataset))]
    torch.manual_seed(3)
    layers, labels = batch.collate([dataset[n] for n in range(len(dataset))])
    blended = batch(layers)
    assert isinstance(layers, Layers)
    assert blended.shape == (len(dataset), *expected[0].shape)
    assert blended.dtype == torch.uint8
    assert labels.tolist() == list(range(len(dataset)))
    assert (blended.int() - torch.stack(expected).int()).abs().max() <= 1
    assert batch.counts == one_by_one.counts


def test_a_batch_collated_by_workers_is_blended_in_the_loop(filled):
    cache, paths = filled
    batch = ReplaceBackgroundBatch(cache, p=0.5)
    loader = DataLoader(Labelled(paths), 4, num_workers=2, collate_fn=batch.collate)
    dataset = Labelled(paths)
    originals = [F.pil_to_tensor(dataset[n][0]) for n in range(len(dataset))]
    torch.manual_seed(0)
    changed = [
        not torch.equal(image, originals[label])
        for layers, labels in loader
        for image, label in zip(batch(layers), labels.tolist(), strict=True)
    ]
    assert len(changed) == len(paths)
    assert sum(changed) == batch.counts["hits"] > 0
    assert not all(changed)


def test_labels_go_into_the_batch_where_their_objects_are(cache, image):
    batch = ReplaceBackgroundBatch(cache, p=1, placement=Placement(scale=(0.5, 0.5)))
    labels = boxed()
    layers, moved = batch.collate([(image, {name: labels[name] for name in ("boxes", "masks")})])
    assert batch.counts["unmoved"] == 0
    rows, columns = np.nonzero(moved["masks"][0, 0].numpy())
    assert (layers.alpha[0, rows, columns] == 255).all()
    held = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(moved["boxes"][0, 0], held, atol=1)
