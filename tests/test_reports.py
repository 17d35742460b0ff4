"""What happened to a sample goes with it, and several views of one object."""

import albumentations as A  # noqa: N812
import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import augment.albumentations
from augment import Placement
from augment.artifacts import BACKGROUND, MATTE
from augment.errors import InputError
from augment.imaging.composite import composite
from augment.keys import image_key
from augment.store.reader import Reader
from augment.torchvision import KeyedImageFolder, ReplaceBackground, ReplaceBackgroundBatch
from tests.filled import boxed, counted

NOT_REPLACED = {"replaced": False, "source": "", "key": "", "variant": -1}


def test_a_report_names_the_background_that_is_under_the_object(cache, image):
    replace = ReplaceBackground(cache, p=1, source={"own": 1, "pool": 1}, report=True)
    reader = Reader(cache, replace.sampler.record)
    sources = set()
    for _ in range(16):
        result, report = replace(image)
        assert (report["replaced"], report["outcome"], report["detail"]) == (True, "hits", "")
        sources.add(report["source"])
        assert report["key"] == image_key(image) or report["source"] == "pool"
        background = reader.get(BACKGROUND, report["key"], report["variant"])
        matte = reader.get(MATTE, image_key(image))
        np.testing.assert_array_equal(np.asarray(result), composite(np.asarray(image), matte, background))
    assert sources == {"own", "pool"}


def test_a_plate_has_no_variant(cache, image):
    report = ReplaceBackground(cache, p=1, source="plates:own", report=True)(image)[1]
    assert (report["source"], report["key"], report["variant"]) == ("plates:own", image_key(image), -1)


def test_a_sample_that_stays_as_it_is_says_why(cache, image):
    replace = ReplaceBackground(cache, p=1, report=True)
    other = PIL.Image.effect_noise((32, 32), 50).convert("RGB")
    assert replace(other, 3) == (other, 3, NOT_REPLACED | {"outcome": "misses", "detail": ""})
    doubtful = replace({"image": image, "depth": torch.zeros(96, 112)})
    assert doubtful["report"] == NOT_REPLACED | {"outcome": "doubtful", "detail": "Tensor of (96, 112)"}
    assert ReplaceBackground(cache, p=0, report=True)([image, 3])[2] == NOT_REPLACED | {
        **{"outcome": "not drawn", "detail": ""},
    }


def test_reports_come_out_of_later_transforms_and_of_a_loader_as_batches(filled):
    cache, paths = filled
    replace = ReplaceBackground(cache, p=0.5, report=True)
    transform = v2.Compose([replace, v2.Resize((32, 32)), v2.ToImage()])
    folder = KeyedImageFolder(paths[0].parents[1], transform)
    torch.manual_seed(1)
    (images, report), labels = next(iter(DataLoader(folder, batch_size=8)))
    assert images.shape == (8, 3, 32, 32)
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert report["replaced"].tolist() == [outcome == "hits" for outcome in report["outcome"]]
    assert 0 < report["replaced"].sum() < 8
    assert (report["variant"] >= 0).tolist() == report["replaced"].tolist()


def test_views_are_composites_of_one_object_each_with_its_own_labels(cache, image):
    replace = ReplaceBackground(cache, p=1, views=2, report=True, placement=Placement(translate="uniform"))
    labels = boxed()
    torch.manual_seed(0)
    images, target, label, reports = replace(image, labels, 7)
    assert label == 7
    assert [type(view) for view in images] == [PIL.Image.Image] * 2
    assert not np.array_equal(images[0], images[1])
    assert [report["replaced"] for report in reports] == [True, True]
    assert not torch.equal(*target["boxes"])
    for view, boxes, mask in zip(images, target["boxes"], target["masks"], strict=True):
        assert isinstance(boxes, tv_tensors.BoundingBoxes)
        left, top, right, bottom = boxes[0].tolist()
        inside = np.asarray(view)[int(top + bottom) // 2, int(left + right) // 2]
        assert inside[0] == 220  # the disc
        assert mask[0, int(top + bottom) // 2, int(left + right) // 2]
    assert counted(replace) == {"hits": 2}


def test_views_are_batched_one_by_one(filled):
    cache, paths = filled
    replace = ReplaceBackgroundBatch(cache, p=1, views=2)
    samples = [(PIL.Image.open(path).convert("RGB"), number) for number, path in enumerate(paths[:3])]
    (first, second), labels = replace.collate(samples)
    assert replace(first).shape == replace(second).shape == (3, 3, 96, 112)
    assert not torch.equal(replace(first), replace(second))
    assert labels.tolist() == [0, 1, 2]


def test_albumentations_reports_the_same(cache, image):
    pixels = np.asarray(image)
    replace = augment.albumentations.ReplaceBackground(cache, p=1, source="own", report=True)
    result = A.Compose([replace, A.Resize(32, 32)], seed=1)(image=pixels)
    assert result["image"].shape == (32, 32, 3)
    assert result["report"] == {
        **{"replaced": True, "outcome": "hits", "detail": "", "source": "own", "key": image_key(image)},
        "variant": result["report"]["variant"],
    }
    missed = replace(image=np.zeros((32, 32, 3), np.uint8))["report"]
    assert missed == NOT_REPLACED | {"outcome": "misses", "detail": ""}
    never = augment.albumentations.ReplaceBackground(cache, p=0, report=True)(image=pixels)
    assert never["report"] == NOT_REPLACED | {"outcome": "not drawn", "detail": ""}
    with pytest.raises(InputError, match="a part 'report' already"):
        replace(image=pixels, report=3)


def test_without_them_a_sample_has_its_form(cache, image):
    assert isinstance(ReplaceBackground(cache, p=1)(image), PIL.Image.Image)
    assert set(augment.albumentations.ReplaceBackground(cache, p=1)(image=np.asarray(image))) == {"image"}


@pytest.mark.parametrize(
    ("face", "settings", "message"),
    [
        (ReplaceBackground, {"views": 0}, "views: 0 is not a number"),
        (ReplaceBackground, {"report": 1}, "report: 1 is not True or False"),
        (augment.albumentations.ReplaceBackground, {"views": 2}, "call the pipeline once for each"),
    ],
)
def test_wrong_arguments_are_refused(cache, face, settings, message):
    with pytest.raises(InputError, match=message):
        face(cache, **settings)
