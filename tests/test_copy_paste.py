"""Objects of other images over an image, with their labels."""

import pickle

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from augment import Placement
from augment.errors import InputError
from augment.testing.pictures import scene
from augment.torchvision import CopyPaste, ReplaceBackground
from tests.filled import counted

SIZE = (96, 112)
STAY = Placement()  # where they are in their own images
SMALL = Placement(scale=(0.2, 0.2), translate="uniform")


class Discs:
    """The scenes of the filled cache as a detection dataset: one disc each, of two classes, one of them rare."""

    def __init__(self, paths, masks=True, count=6):
        self.paths = sorted(paths, key=lambda path: path.name)[:count]
        self.masks = masks

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        mask = scene(index)[1] >= 128
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        target = {
            "image_id": torch.tensor([index]),
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor([[left, top, width, height]]), format="XYWH", canvas_size=SIZE
            ),
            "labels": torch.tensor([7 if index else 3]),
            "area": torch.tensor([float(mask.sum())]),
            "iscrowd": torch.tensor([0]),
            "keypoints": tv_tensors.KeyPoints(
                torch.tensor([[[left + width / 2 - 0.5, top + height / 2 - 0.5], [0.0, 0.0]]]), canvas_size=SIZE
            ),
            "names": ["disc"],
        }
        if self.masks:
            target["masks"] = tv_tensors.Mask(torch.from_numpy(mask.astype(np.uint8))[None])
        return PIL.Image.open(self.paths[index]).convert("RGB"), target


@pytest.fixture
def discs(filled):
    return Discs(filled[1])


def red(image):
    pixels = np.asarray(image).astype(int)
    return (pixels[..., 0] - pixels[..., 1] > 75) & (pixels[..., 0] - pixels[..., 2] > 100)


def blank(size=SIZE, masks=True):
    """A sample without objects."""
    target = {
        "boxes": tv_tensors.BoundingBoxes(torch.empty(0, 4), format="XYXY", canvas_size=size),
        "labels": torch.empty(0, dtype=torch.int64),
    }
    if masks:
        target["masks"] = tv_tensors.Mask(torch.empty(0, *size, dtype=torch.uint8))
    return PIL.Image.new("RGB", size[::-1], (90, 90, 90)), target


@pytest.mark.parametrize(
    "placement", [STAY, SMALL, Placement(scale=(0.5, 0.9), translate="uniform", rotate=40, flip=0.5)]
)
@pytest.mark.parametrize("size", [SIZE, (60, 200), (300, 310)], ids=str)
def test_a_pasted_object_brings_its_labels_along(cache, discs, placement, size):
    transform = CopyPaste(cache, discs, p=1, objects=(1, 1), placement=placement)
    for seed in range(4):
        torch.manual_seed(seed)
        image, target = transform(blank(size))
        seen = red(image)
        (mask,) = target["masks"].numpy() > 0
        assert np.count_nonzero(mask & seen) > 0.8 * np.count_nonzero(mask | seen) > 0
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        np.testing.assert_allclose(target["boxes"][0], [left, top, left + width, top + height], atol=1.5)
        assert image.size == size[::-1]
        assert (np.asarray(image)[~cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))).astype(bool)] == 90).all()
    assert counted_of(transform) == {"pasted": 4, "objects": 4}


def counted_of(transform):
    return {name: count for name, count in transform.counts.items() if count}


def test_boxes_alone_are_enough(cache, filled):
    transform = CopyPaste(cache, Discs(filled[1], masks=False), p=1, objects=(1, 1), placement=SMALL)
    image, target = transform(blank(masks=False))
    left, top, width, height = cv2.boundingRect(red(image).astype(np.uint8))
    np.testing.assert_allclose(target["boxes"][0], [left, top, left + width, top + height], atol=1.5)


def test_everything_of_an_object_is_appended_in_its_own_form(cache, discs):
    transform = CopyPaste(cache, discs, p=1, objects=(2, 2), placement=SMALL)
    torch.manual_seed(3)
    before_image, before = discs[1]
    image, target = transform(before_image, before)
    assert type(image) is PIL.Image.Image
    assert {name: type(value) for name, value in target.items()} == {name: type(v) for name, v in before.items()}
    assert {n: v.dtype for n, v in target.items() if n != "names"} == {
        n: v.dtype for n, v in before.items() if n != "names"
    }
    assert target["boxes"].format == before["boxes"].format
    assert target["image_id"].tolist() == [1]
    assert target["labels"].tolist()[0] == 7
    assert set(target["labels"].tolist()) <= {3, 7}
    assert target["iscrowd"].tolist() == [0, 0, 0]
    assert target["names"] == ["disc"] * 3
    for number in range(3):
        x, y, w, h = target["boxes"][number].tolist()
        mask = target["masks"][number].numpy()
        assert abs(float(target["area"][number]) - mask.sum()) < 0.1 * mask.sum() + 5
        if number:
            np.testing.assert_allclose(target["keypoints"][number, 0], [x + w / 2 - 0.5, y + h / 2 - 0.5], atol=1)
            assert target["keypoints"][number, 1].tolist() == [0, 0]
    assert torch.equal(target["keypoints"][0], before["keypoints"][0])
    assert (np.asarray(image) != np.asarray(before_image)).any(2).sum() > 50


def test_hidden_objects_lose_what_is_hidden_and_then_their_label(cache, discs):
    image, target = discs[0]
    for least, labels in ((0.0, 2), (0.9, 1)):
        transform = CopyPaste(cache, discs, p=1, objects=(1, 1), placement=STAY, min_visibility=least)
        torch.manual_seed(0)
        result = transform(image, target)[1]  # another disc over most of this one
        assert len(result["boxes"]) == len(result["masks"]) == len(result["labels"]) == len(result["names"]) == labels
        assert counted_of(transform).get("hidden", 0) == 2 - labels
    torch.manual_seed(0)
    result = CopyPaste(cache, discs, p=1, objects=(1, 1), placement=STAY, min_visibility=0)(image, target)[1]
    masks = result["masks"].numpy() > 0
    assert not (masks[0] & masks[1]).any()
    assert masks[0].sum() < target["masks"].sum()
    x, y, w, h = result["boxes"][0].tolist()
    assert (x, y, w, h) == cv2.boundingRect(masks[0].astype(np.uint8))
    assert abs(float(result["area"][0]) - masks[0].sum()) < 5


def test_rare_classes_come_as_often_as_common_ones(cache, discs):
    transform = CopyPaste(cache, discs, p=1, objects=(3, 3), placement=SMALL, min_visibility=0)
    assert transform.found == {3: 1, 7: 5}
    torch.manual_seed(0)
    labels = torch.cat([transform(blank())[1]["labels"] for _ in range(40)])
    assert 0.38 < float((labels == 3).float().mean()) < 0.62


def test_many_donors_are_looked_through_by_several_processes(cache, discs):
    many = [discs[number % 6] for number in range(258)]
    assert CopyPaste(cache, many).found == {3: 43, 7: 215}


def test_it_may_follow_a_new_background_and_run_in_workers(cache, discs):
    paste = CopyPaste(cache, discs, p=0.5)
    replace = ReplaceBackground(cache, p=1)
    both = v2.Compose([replace, paste, v2.ToImage()])

    class Transformed(Discs):
        def __getitem__(self, index):
            return both(*super().__getitem__(index))

    loader = DataLoader(Transformed(discs.paths), batch_size=None, num_workers=2)
    torch.manual_seed(1)
    first = [(image, target["boxes"].tolist()) for image, target in loader]
    torch.manual_seed(1)
    second = [(image, target["boxes"].tolist()) for image, target in loader]
    assert all(torch.equal(a, b) and x == y for (a, x), (b, y) in zip(first, second, strict=True))
    assert counted(replace) == {"hits": 12}
    assert 0 < paste.counts["pasted"] < 12
    assert pickle.loads(pickle.dumps(paste)).found == paste.found


def test_tensors_come_back_as_they_were(cache, discs):
    transform = CopyPaste(cache, discs, p=1)
    image, target = blank()
    for given in (
        F.pil_to_tensor(image),
        tv_tensors.Image(F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)),
    ):
        result = transform([given, target])
        assert isinstance(result, list)
        assert (type(result[0]), result[0].dtype, result[0].shape) == (type(given), given.dtype, given.shape)
        assert not torch.equal(result[0], given)
    assert CopyPaste(cache, discs, p=0)(image, target) == (image, target)


@pytest.mark.parametrize("change", ["no dict", "plain boxes", "depth", "semantic", "labels", "rotated", "alpha"])
def test_what_is_not_understood_stays_as_it_is_and_is_counted(cache, discs, change):
    transform = CopyPaste(cache, discs, p=1)
    image, target = discs[0]
    sample = {
        "no dict": (image, 3),
        "plain boxes": (image, target | {"boxes": [[1, 2, 3, 4]]}),
        "depth": (image, target | {"depth": torch.zeros(SIZE)}),
        "semantic": (image, target | {"classes": tv_tensors.Mask(torch.zeros(SIZE, dtype=torch.uint8))}),
        "labels": (image, target | {"labels": torch.tensor([1, 2])}),
        "rotated": (
            image,
            target | {"boxes": tv_tensors.BoundingBoxes(torch.ones(1, 5), format="CXCYWHR", canvas_size=SIZE)},
        ),
        "alpha": (PIL.Image.fromarray(np.dstack([np.asarray(image), scene(0)[1]])), target),
    }[change]
    assert transform(*sample) == sample
    assert counted_of(transform) == {"doubtful": 1}


def test_donors_that_cannot_be_cut_out_are_told_by_reason(cache, discs, filled):
    class Mixed(Discs):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            if index == 1:
                target["iscrowd"] = torch.tensor([1])
            if index == 2:
                image = PIL.Image.new("RGB", image.size, (1, 2, 3))
            if index == 3:
                raise OSError("gone")
            if index == 4:
                target["masks"] = tv_tensors.Mask(torch.ones(1, *SIZE))
            return image, target

    transform = CopyPaste(cache, Mixed(discs.paths))
    assert transform.found == {3: 1, 7: 1}
    assert transform.refused == {
        "crowds": 1,
        "in images that the store lacks": 1,
        "in samples that cannot be read (OSError)": 1,
        "objects: the matte is not its object": 1,
    }
    with pytest.raises(InputError, match="no object of them can be cut out: 1 in images that the store lacks"):
        CopyPaste(cache, [(PIL.Image.new("RGB", (20, 20)), blank((20, 20))[1])])


def test_a_box_that_holds_parts_of_another_object_gives_no_donor(cache, filled):
    class Pairs(Discs):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            x, y, w, h = target["boxes"][0].tolist()
            boxes = torch.tensor([[x, y, w, h], [x, y, w // 2, h]])
            target = {"labels": torch.tensor([1, 2])} | {
                "boxes": tv_tensors.BoundingBoxes(boxes, format="XYWH", canvas_size=SIZE)
            }
            return image, target

    with pytest.raises(InputError, match="another object is in its box"):
        CopyPaste(cache, Pairs(filled[1], masks=False))


def test_a_donor_that_changed_or_differs_is_skipped_and_counted(cache, discs, filled):
    transform = CopyPaste(cache, discs, p=1, objects=(1, 1))
    image, target = blank()
    sample = image, target | {"weight": torch.empty(0)}
    assert transform(*sample) == sample
    assert counted_of(transform) == {"unlike donors": 1}
    transform.donors = Discs(list(reversed(filled[1])), count=0)
    assert transform(image, target) == (image, target)
    assert counted_of(transform) == {"unlike donors": 1, "changed donors": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"p": 2}, "p: 2"), ({"objects": (0, 1)}, "objects:"), ({"min_visibility": -1}, "min_visibility: -1")],
)
def test_wrong_arguments_are_refused(cache, discs, settings, message):
    with pytest.raises(InputError, match=message):
        CopyPaste(cache, discs, **settings)
