"""Boxes of labelled objects: how they are read from a Dataset's items, and that the matte is of what they label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision import tv_tensors

from augment import Cache, Recipe, prewarm
from augment.artifacts import Matte
from augment.chain import Chain
from augment.errors import InputError
from augment.keys import image_key
from augment.prewarming.boxes import boxes_of
from augment.stages.remove import Remover
from augment.testing.pictures import scene
from augment.testing.scenes import places, stamps
from tests import simple
from tests.simple import CALLS, REMOVE

SIZE = (60, 80)


def tv(*boxes: tuple[float, ...], form: str = "XYXY", size: tuple[int, int] = SIZE) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(torch.tensor(boxes, dtype=torch.float32), format=form, canvas_size=size)


@pytest.mark.parametrize(
    "sample",
    [
        ("image", {"boxes": tv((10, 20, 30, 50)), "labels": torch.tensor([1])}),
        {"image": "image", "bboxes": tv((10, 20, 20, 30), form="XYWH")},
        ("image", [tv((20, 35, 20, 30), form="CXCYWH")]),
        ("image", tv((20, 35, 20, 30, 0), form="CXCYWHR")),
        ("image", [{"bbox": [10, 20, 20, 30], "category_id": 3, "iscrowd": 0, "area": 500.0}]),
        (
            "image",
            {"annotation": {"object": [{"bndbox": {"xmin": "11", "ymin": "21", "xmax": "30", "ymax": "50"}}]}},
        ),
    ],
    ids=["XYXY", "XYWH", "CXCYWH", "rotated", "COCO", "VOC"],
)
def test_boxes_of_every_known_form_are_read_as_corners(sample: Any) -> None:
    boxes = boxes_of(sample, SIZE)
    assert boxes is not None
    assert boxes.dtype == np.float64
    assert boxes == pytest.approx(np.array([[10, 20, 30, 50]]))


@pytest.mark.parametrize(
    "sample",
    [
        "image",
        ("image", 3),
        ("image", {"boxes": torch.tensor([[10, 20, 30, 50]])}),
        ("image", {"bbox": [10, 20, 20, 30]}),
        ("image", [{"bbox": [10, 20, 20, 30], "category_id": 3, "iscrowd": 1}]),
        ("image", tv((200, 20, 300, 50))),
    ],
    ids=["image", "class", "plain tensor", "plain list", "crowd", "outside"],
)
def test_numbers_that_may_mean_something_else_are_left_alone(sample: Any) -> None:
    assert boxes_of(sample, SIZE) is None


def test_boxes_are_cut_off_at_the_edge_of_the_image() -> None:
    boxes = boxes_of(("image", tv((-5, 20, 300, 50), (0, 0, 4, 4))), SIZE)
    assert boxes is not None
    assert boxes.tolist() == [[0, 20, 80, 50], [0, 0, 4, 4]]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (tv((0, 0, 4, 4), size=(30, 40)), r"boxes are for an image of \(30, 40\) but its image is \(60, 80\)"),
        (tv((0, 0, float("nan"), 4)), "not a number"),
        ([{"bbox": [1, 2], "category_id": 3}], "COCO boxes is not four numbers"),
        ({"bndbox": {"xmin": "left"}}, "VOC boxes is not four numbers"),
    ],
)
def test_boxes_that_cannot_be_right_are_an_error(sample: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        boxes_of(sample, SIZE)


@dataclass
class Labelled(Dataset[Any]):
    """Images, each with its boxes, as a detection Dataset gives them."""

    images: list[NDArray[np.uint8]]
    boxes: list[tv_tensors.BoundingBoxes | None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        boxes = self.boxes[index]
        return self.images[index], {} if boxes is None else {"boxes": boxes}


@dataclass(frozen=True)
class BoxRemover(Remover):
    """What is inside the boxes is object, or the middle of an image without any."""

    backend: ClassVar[str] = "box"

    def __call__(self, *, images: Any, boxes: Any, **_: Any) -> list[Matte]:
        CALLS["remove"] += len(images)
        mattes = []
        for image, of_image in zip(images, boxes, strict=True):
            alpha = np.zeros(image.shape[:2], np.uint8)
            for left, top, right, bottom in [(40, 40, 60, 60)] if of_image is None else of_image.astype(int):
                alpha[top:bottom, left:right] = 255
            mattes.append(Matte.from_full(alpha))
        return mattes


def fill(dataset: Dataset[Any], cache: Path, recipe: Recipe, **arguments: Any) -> Any:
    return prewarm(dataset, cache, recipe, **({"workers": 0, "progress": False} | arguments))


def test_a_changed_box_recomputes_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    images = [scene(seed, (90, 120))[0] for seed in range(3)]
    size = images[0].shape[:2]
    recipe = simple.recipe().changed({"remove": BoxRemover()})
    dataset = Labelled(images, [tv((10, 10, 50, 50), size=size), tv((20, 20, 50, 50), size=size), None])
    fill(dataset, tmp_path, recipe)
    assert dict.fromkeys(simple.STAGES, 3) == CALLS
    CALLS.clear()
    fill(dataset, tmp_path, recipe)
    assert not CALLS
    dataset.boxes[1] = tv((30, 30, 70, 80), size=size)
    report = fill(dataset, tmp_path, recipe)
    assert dict.fromkeys(simple.STAGES, 1) == CALLS
    assert report.complete == 3
    matte = Chain(recipe, Cache(tmp_path)).artifact(REMOVE, image_key(images[1]))
    assert matte is not None
    assert matte.box == (30, 30, 70, 80)


def test_boxes_cross_to_the_main_process_and_are_nothing_to_a_stage_that_does_not_read_them(tmp_path: Path) -> None:
    images = [scene(seed, (90, 120))[0] for seed in range(2)]
    dataset = Labelled(images, [tv((10, 10, 50, 50), size=images[0].shape[:2])] * 2)
    with_boxes = simple.recipe().changed({"remove": BoxRemover()})
    fill(dataset, tmp_path / "boxes", with_boxes, workers=1)
    matte = Chain(with_boxes, Cache(tmp_path / "boxes")).artifact(REMOVE, image_key(images[0]))
    assert matte is not None
    assert matte.box == (10, 10, 50, 50)
    fill(dataset, tmp_path / "none", simple.recipe())
    CALLS.clear()
    dataset.boxes[:] = [tv((30, 30, 70, 80), size=images[0].shape[:2]), None]
    fill(dataset, tmp_path / "none", simple.recipe())
    assert not CALLS


def two_objects(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """A place with a large object in the middle and a small one in a corner; the image and the masks of both."""
    rng = np.random.default_rng(seed)
    solid = [stamp for stamp in stamps() if (stamp.pixels[..., 3] > 200).mean() > 0.5]
    grounds = places()
    ground = grounds[sorted(grounds)[seed % len(grounds)]][:768, :1024]
    image = ground[::2, ::2].copy()
    masks = []
    for number, (side, left, top) in zip(
        rng.choice(len(solid), 2, replace=False), [(210, 170, 120), (96, 24, 24)], strict=True
    ):
        pixels = solid[number].pixels
        stride = max(pixels.shape[:2]) / side
        rows, columns = (np.arange(0, edge, stride).astype(int)[:side] for edge in pixels.shape[:2])
        small = pixels[rows][:, columns]
        mask = np.zeros(image.shape[:2], bool)
        mask[top : top + len(rows), left : left + len(columns)] = small[..., 3] >= 128
        image[mask] = small[..., :3][small[..., 3] >= 128]
        masks.append(mask)
    return image, masks[0], masks[1]


@pytest.mark.usefixtures("stamps", "wallpapers")
def test_classic_cuts_out_the_labelled_object_and_not_the_salient_one(tmp_path: Path) -> None:
    scenes = [two_objects(seed) for seed in range(6)]
    images = [image for image, _, _ in scenes]
    remover = Recipe.load("classic").remove
    recipe = simple.recipe().changed({"remove": remover})
    boxes = [_around(small) for _, _, small in scenes]
    fill(Labelled(images, boxes), tmp_path, recipe)
    chain = Chain(recipe, Cache(tmp_path))
    overlaps = []
    for image, large, small in scenes:
        matte = chain.artifact(REMOVE, image_key(image))
        assert matte is not None
        found = matte.uncropped() >= 128
        assert np.count_nonzero(found & large & ~small) == 0
        overlaps.append(np.count_nonzero(found & small) / np.count_nonzero(found | small))
    assert np.median(overlaps) > 0.85
    assert min(overlaps) > 0.5


def _around(mask: NDArray[np.bool_]) -> tv_tensors.BoundingBoxes:
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return tv((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), size=mask.shape)  # type: ignore[arg-type]
