"""A run without effect does not look healthy: it is said once, with the leading reason and the way out."""

import copy
import logging
import pickle
import shutil

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import augment.albumentations
from augment import Cache, prewarm
from augment.sampling.placement import Placement
from augment.testing.pictures import scene
from augment.torchvision import Key, ReplaceBackground
from tests import simple
from tests.filled import boxed, counted

STRANGER = PIL.Image.new("RGB", (9, 9), (1, 2, 3))


@pytest.fixture
def said(tmp_path):
    """A function that gives what this process and its workers warned of."""
    handler = logging.FileHandler(tmp_path / "log.txt")
    logger = logging.getLogger("augment.sampling.watch")
    logger.addHandler(handler)
    yield lambda: (tmp_path / "log.txt").read_text().splitlines()
    logger.removeHandler(handler)
    handler.close()


def warned(caplog, room="watch"):
    return [record.message for record in caplog.records if record.name == f"augment.sampling.{room}"]


def test_a_resize_before_the_transform_is_said_after_ten_images(filled, caplog):
    cache, paths = filled
    pipeline = v2.Compose([v2.Resize(64), ReplaceBackground(cache, p=1)])
    dataset = ImageFolder(paths[0].parents[1], pipeline)
    for _ in range(3):
        for index in range(8):
            dataset[index]
    (message,) = warned(caplog)
    assert message.startswith("0 of the first 10 images were given another background")
    assert "10 stayed unchanged as 'misses'" in message
    assert "put it first" in message


def test_a_small_share_is_said_after_a_hundred_images(cache, image, caplog):
    replace = ReplaceBackground(cache, p=1)
    for _ in range(60):
        replace(image)
        replace(STRANGER)
        replace(STRANGER)
    (message,) = warned(caplog)
    assert " of the first 1" in message
    assert "'misses'" in message


def test_nothing_is_said_while_most_images_are_changed(cache, image, caplog):
    replace = ReplaceBackground(cache, p=1)
    for number in range(300):
        replace(image if number % 3 else STRANGER)
    assert not warned(caplog)


class Same(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 120

    def __getitem__(self, index):
        self.transform(PIL.Image.fromarray(scene(0)[0]))
        return index


@pytest.mark.parametrize("hits", [20, 240])
def test_hits_that_stop_are_said(tmp_path, caplog, hits):
    prewarm([PIL.Image.fromarray(scene(0)[0])], tmp_path / "c", simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=1)
    for index in range(hits):
        Same(replace)[index]
    assert not warned(caplog)
    shutil.rmtree(tmp_path / "c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replace.sampler.store, "_find", lambda name: None)
        for index in range(300):
            Same(replace)[index]
    (message,) = [text for text in warned(caplog) if "given another background" in text]
    assert message.startswith("none of the last 1" if hits == 240 else "20 of the first 1")
    assert "the store was emptied" in message


def test_a_deleted_cache_is_said_once_for_all_workers(tmp_path, said):
    prewarm([PIL.Image.fromarray(scene(0)[0])], tmp_path / "c", simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=1)
    for _ in range(4):
        list(DataLoader(Same(replace), 4, num_workers=2, multiprocessing_context="fork"))
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
    assert replace.counts["hits"] >= 120
    (message,) = said()
    assert message.startswith("none of the last 1")


class Resized(Dataset):
    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return 40

    def __getitem__(self, index):
        with PIL.Image.open(self.paths[index % 8]) as file:
            self.transform(file.convert("RGB").resize((50, 50)))
        return index


@pytest.mark.parametrize("persistent", [False, True])
def test_it_is_said_once_for_all_workers_and_epochs(filled, persistent, said):
    cache, paths = filled
    dataset = Resized(paths, ReplaceBackground(cache, p=1))
    loader = DataLoader(dataset, 2, num_workers=2, multiprocessing_context="fork", persistent_workers=persistent)
    for _ in range(3):
        list(loader)
    (message,) = said()
    assert message.startswith("0 of the first ")


MASK = scene(1)[1] > 127
y, x = np.nonzero(MASK)
SIZE = MASK.shape
CENTER = [x.mean(), y.mean()]


@pytest.mark.parametrize(
    ("label", "outcome", "words"),
    [
        (tv_tensors.Mask(torch.from_numpy(np.where(MASK, 1, 2))), "protected: mask", "0 nowhere"),
        (tv_tensors.Mask(torch.from_numpy(np.where(MASK, 1, 255))), "protected: mask", "0 nowhere"),
        (tv_tensors.Mask(torch.ones(5, 5)), "protected: mask", r"a mask of (5, 5) for an image of (96, 112)"),
        (
            tv_tensors.BoundingBoxes([[30, 20, 9, 40]], format="XYXY", canvas_size=SIZE),
            "protected: box",
            "a box from 30, 20 to 9, 40",
        ),
        (
            tv_tensors.BoundingBoxes([[80, 70, 70, 70]], format="XYWH", canvas_size=SIZE),
            "protected: box",
            "Check the boxes' format",
        ),
        (tv_tensors.KeyPoints([[3, 3]], canvas_size=SIZE), "protected: keypoint", "keypoints lie outside the mattes"),
    ],
    ids=["trimap", "255 is the rest", "another size", "corners mixed up", "wrong format", "point"],
)
def test_labels_that_keep_every_sample_are_said(cache, image, caplog, label, outcome, words):
    replace = ReplaceBackground(cache, p=1)
    for _ in range(300):
        assert replace(image, label)[0] is image
    assert counted(replace) == {outcome: 300}
    (message,) = warned(caplog)
    assert outcome in message
    assert words in message


def test_unusable_mattes_are_said_with_their_reason(tmp_path, caplog):
    grey = PIL.Image.new("RGB", (30, 20), (99, 99, 99))
    prewarm([grey], tmp_path / "c", simple.recipe(), workers=0, progress=False)
    caplog.clear()
    replace = ReplaceBackground(tmp_path / "c", p=1)
    for _ in range(30):
        replace(grey)
    (message,) = warned(caplog)
    assert "'unusable' (empty: no pixel is object)" in message
    assert "another remover" in message


def test_arrays_in_the_torchvision_face_are_counted_and_said(cache, image, caplog):
    replace = ReplaceBackground(cache, p=1)
    pixels = np.array(image)
    for _ in range(30):
        assert replace(pixels, 3)[0] is pixels
    assert counted(replace) == {"no image": 30}
    (message,) = warned(caplog)
    assert "ToImage()" in message
    assert v2.Compose([v2.ToImage(), replace])(pixels, 3)[0].shape == (3, 96, 112)
    assert replace.counts["hits"] == 1


# --- Labels that label nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [(np.nan, np.nan), (-1.0, -1.0), (0.0, 0.0), (np.nan, 5.0), (-np.inf, 3.0)])
@pytest.mark.parametrize("placement", [None, Placement(translate="uniform")], ids=["in place", "moved"])
def test_a_missing_keypoint_forbids_nothing_and_stays_what_it_is(cache, image, missing, placement):
    points = tv_tensors.KeyPoints(torch.tensor([CENTER, missing]), canvas_size=SIZE)
    replace = ReplaceBackground(cache, p=1, placement=placement)
    result, after = replace(image, points)
    assert result is not image
    np.testing.assert_array_equal(after[1].numpy(), np.float32(missing))
    assert counted(replace) == {"hits": 1}
    assert placement is None or not torch.equal(after[0], points[0])


@pytest.mark.parametrize("missing", [[0.0] * 4, [-1.0] * 4, [np.nan] * 4])
@pytest.mark.parametrize("form", ["XYXY", "XYWH", "CXCYWH"])
def test_a_box_that_fills_a_table_forbids_nothing_and_stays_what_it_is(cache, image, missing, form):
    box = v2.functional.convert_bounding_box_format(boxed()["boxes"], new_format=form)
    both = torch.cat([torch.as_tensor(box).float(), torch.tensor([missing])])
    boxes = tv_tensors.BoundingBoxes(both, format=form, canvas_size=SIZE)
    replace = ReplaceBackground(cache, p=1, placement=Placement(translate="uniform"))
    result, after = replace(image, boxes)
    assert result is not image
    np.testing.assert_array_equal(after[1].numpy(), np.float32(missing))
    assert counted(replace) == {"hits": 1}


def test_missing_keypoints_under_albumentations(cache, image):
    replace = augment.albumentations.ReplaceBackground(cache, p=1, placement=Placement(translate="uniform"))
    pipeline = A.Compose([replace], keypoint_params=A.KeypointParams("xy", remove_invisible=False))
    after = pipeline(image=np.asarray(image), keypoints=[CENTER, (0.0, 0.0)])["keypoints"]
    assert counted(replace) == {"hits": 1}
    np.testing.assert_array_equal(after[1], (0, 0))


VOID = cv2.dilate(MASK.astype(np.uint8), np.ones((7, 7))).astype(bool) & ~MASK


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("void", [255, -1, -100])
def test_void_pixels_label_nothing(cache, image, dtype, void):
    if void < 0 and dtype == torch.uint8:
        pytest.skip("no negative numbers")
    values = np.where(MASK, 7, np.where(VOID, void, 0))
    values[:5, :5] = void  # far from the object
    replace = ReplaceBackground(cache, p=1)
    result, after = replace(image, tv_tensors.Mask(torch.from_numpy(values).to(dtype)))
    assert counted(replace) == {"hits": 1}
    assert (np.asarray(result) != np.asarray(image))[VOID].any()
    assert (np.asarray(result) != np.asarray(image))[:5, :5].any()
    np.testing.assert_array_equal(np.asarray(result)[MASK], np.asarray(image)[MASK])
    np.testing.assert_array_equal(after.numpy(), values)


@pytest.mark.parametrize("values", [(0, 255), (0, 255, 300)], ids=["a binary mask", "numbers of instances"])
def test_255_is_an_object_where_it_is_no_void(cache, image, values):
    mask = np.zeros(SIZE, np.int32)
    mask[2:9, 3:30] = 255
    mask[12:16, 3:30] = values[-1]
    replace = ReplaceBackground(cache, p=1)
    result, _ = replace(image, tv_tensors.Mask(torch.from_numpy(mask)))
    assert counted(replace) == {"hits": 1}
    np.testing.assert_array_equal(np.asarray(result)[mask > 0], np.asarray(image)[mask > 0])


# --- Channels in the order BGR ----------------------------------------------------------------------------------------


def test_bgr_is_said_at_the_first_miss(filled, caplog):
    cache, paths = filled
    replace = augment.albumentations.ReplaceBackground(cache, p=1)
    for path in paths:
        pixels = cv2.imread(str(path))
        np.testing.assert_array_equal(A.Compose([replace])(image=pixels)["image"], pixels)
    assert counted(replace) == {"misses": 8}
    (message,) = warned(caplog)
    assert "BGR" in message
    assert "cv2.COLOR_BGR2RGB" in message


@pytest.mark.parametrize("size", [None, (56, 48)], ids=["its own size", "resized"])
def test_bgr_under_a_path_is_said_and_stays_as_it_is(filled, caplog, size):
    cache, paths = filled
    replace = augment.albumentations.ReplaceBackground(cache, p=1)
    for path in paths:
        pixels = cv2.imread(str(path))
        pixels = pixels if size is None else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(replace(image=pixels, key=str(path))["image"], pixels)
    assert counted(replace) == {"doubtful": 8}
    (message,) = warned(caplog)
    assert "BGR" in message
    rgb = np.ascontiguousarray(pixels[..., ::-1])
    assert (replace(image=rgb, key=str(path))["image"] != rgb).any()


def test_bgr_tensors_are_found_out_too(filled, caplog):
    cache, paths = filled
    replace = ReplaceBackground(cache, p=1)
    tensor = torch.from_numpy(cv2.imread(str(paths[0]))).permute(2, 0, 1)
    assert replace(tensor) is tensor
    assert replace(tensor, Key(paths[0]))[0] is tensor
    assert "BGR" in warned(caplog)[0]


def test_bgr_is_never_computed_as_if_it_were_rgb(tmp_path, caplog):
    replace = ReplaceBackground(Cache(tmp_path / "c"), p=1, on_miss="compute", recipe=simple.recipe())
    image = PIL.Image.fromarray(scene(0)[0])
    assert replace(image) is not image
    other = PIL.Image.fromarray(np.ascontiguousarray(scene(0)[0][..., ::-1]))
    assert replace(other) is other
    assert simple.CALLS["remove"] == 1
    assert "BGR" in warned(caplog)[0]


def test_grey_images_have_no_order(tmp_path, caplog):
    grey = PIL.Image.fromarray(scene(0)[0]).convert("L")
    recipe = simple.recipe().changed({"remove.backend": "masks"})
    prewarm([(grey, tv_tensors.Mask(scene(0)[1]))], tmp_path / "c", recipe, workers=0, progress=False)
    caplog.clear()
    replace = augment.albumentations.ReplaceBackground(tmp_path / "c", p=1)
    for _ in range(20):
        replace(image=np.asarray(grey))
    assert counted(replace) == {"hits": 20}
    assert not warned(caplog)


# --- Groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["pool:other", "plates:pool:other", {"own": 1, "pool:same": 2}])
def test_a_relation_without_groups_is_said_at_construction(tmp_path, caplog, source):
    images = [PIL.Image.fromarray(scene(seed)[0]) for seed in range(2)]
    prewarm(images, tmp_path / "c", simple.recipe(), workers=0, progress=False)
    caplog.clear()
    ReplaceBackground(tmp_path / "c", source=source)
    (message,) = warned(caplog, "sampler")
    assert "two groups" in message
    assert "pass `groups` to prewarm" in message


def test_groups_are_no_matter_for_other_sources_or_where_there_are_some(filled, tmp_path, caplog):
    cache, paths = filled
    for source in ("pool", "own", {"own": 1, "pool:same": 0}):
        ReplaceBackground(cache, source=source)
    prewarm(paths[0].parents[1], tmp_path / "c", simple.recipe(), workers=0, progress=False)
    caplog.clear()
    ReplaceBackground(tmp_path / "c", source="pool:other")
    assert not warned(caplog, "sampler")


def test_copies_share_what_was_said(cache, caplog):
    replace = ReplaceBackground(cache, p=1)
    for one in (replace, copy.deepcopy(replace), pickle.loads(pickle.dumps(replace))):
        for _ in range(20):
            one(STRANGER)
    assert len(warned(caplog)) == 1
