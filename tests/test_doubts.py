"""Whatever goes with an image and is not understood is never left behind: the sample stays unchanged, which is said."""

import logging

import albumentations as A  # noqa: N812
import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812

import augment.albumentations
from augment import Cache
from augment.errors import InputError, MissError
from augment.sampling.placement import Placement
from augment.testing.pictures import scene
from augment.torchvision import ReplaceBackground, ReplaceBackgroundBatch
from tests import simple
from tests.filled import boxed, counted

ANYWHERE = Placement(translate="uniform")


def mask(size=(96, 112)):
    found = np.zeros(size, np.uint8)
    found[size[0] // 4 : size[0] // 2, 8:40] = 1
    return found


def picture(mode):
    return PIL.Image.fromarray(mask() * 255).convert("L").convert(mode)


SECONDS = {
    **{mode: lambda mode=mode: picture(mode) for mode in ("L", "P", "1", "I", "F", "RGB", "CMYK")},
    "I;16": lambda: PIL.Image.fromarray(mask().astype(np.uint16) * 9000),
    "float depth": lambda: tv_tensors.Image(torch.from_numpy(mask()[None] * 7.5)),
    "integer depth": lambda: tv_tensors.Image(torch.from_numpy(mask()[None].astype(np.int32))),
    "image of two channels": lambda: tv_tensors.Image(torch.zeros(2, 96, 112)),
    "video": lambda: tv_tensors.Video(torch.zeros(2, 3, 96, 112)),
    "tensor": lambda: torch.from_numpy(mask()).long(),
    "tensor of masks": lambda: torch.from_numpy(mask()[None]).bool(),
    "array": mask,
    "array (H, W, 2)": lambda: np.zeros((96, 112, 2), np.float32),
    "array at half the size": lambda: mask((48, 56)),
    "boxes as lists": lambda: {"bbox": [[1.0, 2.0, 3.0, 4.0]]},
    "boxes as a tensor": lambda: {"boxes": torch.rand(2, 4), "labels": torch.tensor([1, 2])},
    "COCO": lambda: [{"bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 4, 5, 6]], "category_id": 3}],
    "VOC": lambda: {"annotation": {"object": [{"name": "dog", "bndbox": {"xmin": "3", "xmax": "9"}}]}},
    "polygons": lambda: {"objects": {"polygon": [[1, 2, 3]]}},
}


@pytest.mark.parametrize("placement", [None, ANYWHERE], ids=["in place", "moved"])
@pytest.mark.parametrize("second", SECONDS)
def test_what_is_not_understood_keeps_the_sample_as_it_is(cache, image, second, placement):
    replace = ReplaceBackground(cache, p=1, placement=placement)
    other = SECONDS[second]()
    result, after = replace(image, other)
    assert result is image
    if isinstance(other, dict | list):
        assert str(after) == str(other)
    else:
        assert after is other
    assert counted(replace) == {"doubtful": 1}


@pytest.mark.parametrize(
    "other",
    [
        7,
        None,
        "a/b.png",
        torch.tensor(3),
        torch.tensor([1.0, 0.0, 0.0]),
        torch.zeros(77, 768),
        np.float32(2),
        np.arange(40),
        {"bbox": [], "boxes": torch.zeros(0, 4), "area": 4.5},
        {"mask": None, "keypoints": ()},
    ],
    ids=str,
)
def test_classes_and_other_data_are_no_doubt(cache, image, other):
    replace = ReplaceBackground(cache, p=1, placement=ANYWHERE)
    assert replace(image, other)[0] is not image
    assert counted(replace) == {"hits": 1}


def test_lists_beside_the_labels_that_were_made_of_them_are_no_doubt(cache, image):
    replace = ReplaceBackground(cache, p=1)
    assert replace(image, boxed() | {"bbox": [[1, 2, 3, 4]]})[0] is not image
    assert counted(replace) == {"hits": 1}


def test_a_plain_mask_beside_boxes_that_are_told_is_in_doubt(cache, image):
    replace = ReplaceBackground(cache, p=1)
    assert replace(image, {"boxes": boxed()["boxes"], "masks": torch.from_numpy(mask()[None])})[0] is image
    assert counted(replace) == {"doubtful": 1}


def test_a_tensor_with_a_mask_as_a_tensor_is_in_doubt(cache, image):
    tensor = F.pil_to_tensor(image)
    replace = ReplaceBackground(cache, p=1)
    assert replace(tensor, torch.from_numpy(mask()))[0] is tensor
    assert counted(replace) == {"doubtful": 1}


def test_a_pair_is_replaced_as_a_whole_or_not_at_all(filled, image):
    cache, paths = filled
    with PIL.Image.open(paths[1]) as file:
        other = file.convert("RGB")
    replace = ReplaceBackground(cache, p=1)
    first, second = replace(image, other)
    assert first is not image
    assert second is not other
    stranger = PIL.Image.new("RGB", (30, 20))
    assert replace(image, stranger) == (image, stranger)
    assert replace(stranger, stranger.copy())[0] is stranger
    assert counted(replace) == {"hits": 2, "doubtful": 1, "misses": 2}
    with pytest.raises(MissError):
        ReplaceBackground(cache, p=1, on_miss="raise")(stranger, stranger.copy())


def test_a_mask_beside_an_image_is_never_computed_as_one(tmp_path):
    image, disc = (PIL.Image.fromarray(array) for array in scene(0))
    replace = ReplaceBackground(Cache(tmp_path / "c"), p=1, on_miss="compute", recipe=simple.recipe())
    assert replace(image) is not image
    before = simple.CALLS["remove"]
    assert replace(image, disc)[0] is image
    assert simple.CALLS["remove"] == before
    assert counted(replace) == {"hits": 1, "doubtful": 1}


class Heat(tv_tensors.TVTensor):
    """A class of the user's own."""


def test_a_tv_tensor_class_of_the_users_own_passes_through_and_the_object_stays_in_place(cache, image):
    heat = torch.rand(96, 112).as_subclass(Heat)
    replace = ReplaceBackground(cache, p=1)
    result, after = replace(image, heat)
    assert result is not image
    assert after is heat
    moved = ReplaceBackground(cache, p=1, placement=ANYWHERE)
    assert moved(image, heat)[1] is heat
    assert (counted(replace), counted(moved)) == ({"hits": 1}, {"hits": 1, "unmoved": 1})


def test_a_lone_palette_image_is_still_refused(cache, image):
    for sample in ((image.convert("P"),), (image.convert("P"), picture("P"))):
        with pytest.raises(InputError, match="mode P: call"):
            ReplaceBackground(cache, p=1)(*sample)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_a_batch_keeps_them_as_they_are_too(cache, image, mode):
    batch = ReplaceBackgroundBatch(cache, p=1, placement=ANYWHERE)
    second = SECONDS[mode]()
    layers, other = batch.collate([(image, second), (image, second)])
    assert counted(batch) == {"doubtful": 2}
    assert torch.equal(batch(layers)[1], F.pil_to_tensor(image))
    values = batch(other)[0, 0] if mode == "L" else other[0]
    np.testing.assert_array_equal(values.numpy(), np.asarray(second))


def test_a_batch_with_an_array_beside_the_image_stays_as_it_is(cache, image):
    batch = ReplaceBackgroundBatch(cache, p=1)
    layers, _ = batch.collate([(image, mask())])
    assert torch.equal(batch(layers)[0], F.pil_to_tensor(image))


def test_it_is_said_with_the_way_out(cache, image, caplog):
    replace = ReplaceBackground(cache, p=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            replace(image, picture("P"))
    (record,) = [record for record in caplog.records if record.name == "augment.sampling.watch"]
    assert "0 of the first 10 images" in record.message
    assert "a second picture, such as a mask or a depth map" in record.message
    assert "of mode P" in record.message
    assert "convert" not in record.message
    assert "tv_tensors.Mask" in record.message
    assert "wrap_dataset_for_transforms_v2" in record.message


# --- albumentations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "targets"),
    [
        ({"depth": mask() * 40}, {"depth": "image"}),
        ({"depth": mask().astype(np.uint16)}, {"depth": "image"}),
        ({"depth": mask() * np.float32(7.5)}, {"depth": "image"}),
        ({"semantic": mask()}, {}),
        ({"semantic": torch.from_numpy(mask())}, {}),
        ({"volume": np.zeros((4, 96, 112), np.uint8)}, {}),
        ({"annotations": [{"bbox": [1, 2, 3, 4]}]}, {}),
    ],
    ids=lambda value: str(list(value)),
)
def test_albumentations_keeps_the_sample_as_it_is(cache, image, extra, targets):
    replace = augment.albumentations.ReplaceBackground(cache, p=1, placement=ANYWHERE)
    replace.add_targets(targets)
    pixels = np.array(image)
    result = replace(image=pixels, **extra)
    np.testing.assert_array_equal(result["image"], pixels)
    for name, value in extra.items():
        assert result[name] is value
    assert counted(replace) == {"doubtful": 1}


def test_albumentations_lets_other_data_pass(cache, image):
    replace = augment.albumentations.ReplaceBackground(cache, p=1)
    result = A.Compose([replace])(image=np.array(image), label=3, name="x", embedding=np.zeros((7, 9)))
    assert result["label"] == 3
    assert counted(replace) == {"hits": 1}
