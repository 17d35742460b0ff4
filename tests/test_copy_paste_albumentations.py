"""Copy-paste of samples in albumentations' form."""

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from augment import Placement
from augment.albumentations import CopyPaste, ReplaceBackground
from augment.errors import InputError
from augment.testing.pictures import scene

HEIGHT, WIDTH = 96, 112
SMALL = Placement(scale=(0.35, 0.5), translate="uniform")


class Discs:
    """The scenes of the filled cache as dicts, with boxes of a format."""

    def __init__(self, paths, form, masks=True):
        self.paths = sorted(paths, key=lambda path: path.name)[:5]
        self.form, self.masks = form, masks

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        mask = (scene(index)[1] >= 128).astype(np.uint8)
        with PIL.Image.open(self.paths[index]) as file:
            image = np.asarray(file.convert("RGB"))
        sample = {
            "image": image,
            "bboxes": [written(cv2.boundingRect(mask), self.form)],
            "labels": ["cat" if index else "rare"],
        }
        return sample | ({"masks": [mask]} if self.masks else {})


def written(rect, form):
    x, y, w, h = rect
    return {
        "coco": [x, y, w, h],
        "pascal_voc": [x, y, x + w, y + h],
        "albumentations": [x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT],
        "yolo": [(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT],
    }[form]


def red(image):
    pixels = np.asarray(image).astype(int)
    return (pixels[..., 0] - pixels[..., 1] > 75) & (pixels[..., 0] - pixels[..., 2] > 100)


@pytest.mark.parametrize("form", ["coco", "pascal_voc", "albumentations", "yolo"])
@pytest.mark.parametrize("masks", [True, False])
def test_a_pasted_object_has_its_box_label_and_mask(cache, filled, form, masks):
    donors = Discs(filled[1], form, masks)
    copy_paste = CopyPaste(cache, donors, bboxes=form, p=1, objects=(1, 1), placement=SMALL)
    assert copy_paste.found == {"cat": 4, "rare": 1}
    torch.manual_seed(0)
    empty = {"image": np.full((HEIGHT, WIDTH, 3), 90, np.uint8), "bboxes": [], "labels": []}
    result = copy_paste(**empty | ({"masks": []} if masks else {}))
    rect = cv2.boundingRect(red(result["image"]).astype(np.uint8))
    scale = np.array([WIDTH, HEIGHT] * 2) if form in ("albumentations", "yolo") else 1
    np.testing.assert_allclose(result["bboxes"][0] * scale, written(rect, form) * scale, atol=1.5)
    assert result["labels"][0] in ("cat", "rare")
    if masks:
        (mask,) = result["masks"]
        assert np.count_nonzero((mask > 0) != red(result["image"])) < 0.2 * mask.sum()


def test_it_goes_before_a_pipeline_and_after_new_backgrounds(cache, filled):
    donors = Discs(filled[1], "pascal_voc")
    params = A.BboxParams("pascal_voc", label_fields=["labels"])
    replace = ReplaceBackground(cache, p=1)
    first, later = A.Compose([replace], bbox_params=params), A.Compose([A.HorizontalFlip(p=1)], bbox_params=params)
    copy_paste = CopyPaste(cache, donors, p=1, objects=(2, 2), placement=SMALL, min_visibility=0)
    sample = copy_paste(**first(**donors[1]))
    assert replace.counts["hits"] == 1
    assert sample["labels"][0] == "cat"
    assert len(sample["bboxes"]) == len(sample["labels"]) == len(sample["masks"]) == 3
    result = later(**sample)
    left, _, right, _ = sample["bboxes"][2]
    np.testing.assert_allclose(np.asarray(result["bboxes"][2])[[0, 2]], [WIDTH - right, WIDTH - left], atol=0.01)
    assert result["labels"] == sample["labels"]


def test_arrays_and_floats_and_further_columns_keep_their_form(cache, filled):
    class More(Discs):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {
                "bboxes": np.array([[*sample["bboxes"][0], index]], np.float32),
                "labels": np.array(sample["labels"]),
                "weights": (0.5,),
                "area": [float(sample["masks"][0].sum())],
            }

    donors = More(filled[1], "coco")
    copy_paste = CopyPaste(cache, donors, bboxes="coco", p=1, objects=(1, 1), placement=SMALL)
    sample = donors[2]
    sample["image"] = sample["image"].astype(np.float32) / 255
    result = copy_paste(**sample)
    assert (result["image"].dtype, result["bboxes"].dtype, result["bboxes"].shape) == (np.float32, np.float32, (2, 5))
    assert result["bboxes"][0, 4] == 2
    assert type(result["labels"]) is np.ndarray
    assert result["weights"] == (0.5, 0.5)
    assert abs(result["area"][1] - result["masks"][1].sum()) < 0.1 * result["area"][1]


@pytest.mark.parametrize("more", [{"keypoints": [(1, 2)]}, {"mask": np.zeros((HEIGHT, WIDTH))}, {"labels": []}])
def test_what_is_not_understood_stays_as_it_is_and_is_counted(cache, filled, more):
    donors = Discs(filled[1], "pascal_voc")
    copy_paste = CopyPaste(cache, donors, p=1)
    sample = donors[0] | more
    result = copy_paste(**sample)
    assert all(result[name] is sample[name] for name in sample)
    assert copy_paste.counts["doubtful"] == 1


def test_wrong_arguments_are_refused(cache, filled):
    with pytest.raises(InputError, match="bboxes: 'voc' is not one of pascal_voc, coco"):
        CopyPaste(cache, Discs(filled[1], "coco"), bboxes="voc")
    with pytest.raises(InputError, match="1 in samples with another form than image, bboxes and classes"):
        CopyPaste(cache, [Discs(filled[1], "coco")[0]], labels="classes")
