"""GrabCut inside labelled boxes: what it finds there, and when it doubts that."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from augment.artifacts import Matte
from augment.stages.base import Item
from augment.stages.remove.grabcut import GrabCut

GREEN, RED, BLUE = (60, 140, 70), (200, 50, 40), (40, 60, 190)


def meadow(*discs: tuple[int, int, int, tuple[int, int, int]]) -> NDArray[np.uint8]:
    """A textured green image of 240 by 320 with discs of `x, y, radius, color`."""
    image = np.full((240, 320, 3), GREEN, np.uint8)
    for x, y, radius, color in discs:
        cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA)
    noise = np.random.default_rng(0).normal(0, 6, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def cut(image: NDArray[np.uint8], *boxes: tuple[float, ...]) -> Matte:
    (matte,) = GrabCut()(images=[image], boxes=[np.array(boxes, np.float64)])
    return matte


def overlap(matte: Matte, *discs: tuple[int, int, int]) -> float:
    true = np.zeros(matte.size, np.uint8)
    for x, y, radius in discs:
        cv2.circle(true, (x, y), radius, 255, -1)
    found = matte.uncropped() >= 128
    return float((found & (true > 0)).sum() / (found | (true > 0)).sum())


TWO = meadow((200, 130, 70, BLUE), (45, 50, 25, RED))


def test_the_matte_is_of_the_box_and_not_of_what_stands_out() -> None:
    (salient,) = GrabCut()(images=[TWO])
    assert overlap(salient, (200, 130, 70)) > 0.9
    matte = cut(TWO, (20, 25, 70, 75))
    assert matte.unusable is None
    assert overlap(matte, (45, 50, 25)) > 0.9


def test_several_boxes_give_the_union_of_their_objects() -> None:
    matte = cut(TWO, (20, 25, 70, 75), (130, 60, 270, 200))
    assert matte.unusable is None
    assert overlap(matte, (45, 50, 25), (200, 130, 70)) > 0.9


def test_two_of_a_kind_side_by_side_are_both_found() -> None:
    matte = cut(meadow((100, 120, 40, RED), (185, 120, 40, RED)), (60, 80, 140, 160), (145, 80, 225, 160))
    assert matte.unusable is None
    assert overlap(matte, (100, 120, 40), (185, 120, 40)) > 0.9


def test_an_object_that_the_edge_of_the_image_cuts_off_is_found() -> None:
    matte = cut(meadow((0, 120, 60, RED)), (0, 60, 60, 180))
    assert matte.unusable is None
    assert overlap(matte, (0, 120, 60)) > 0.9


@pytest.mark.parametrize(
    "box",
    [(20, 150, 120, 230), (150, 90, 200, 140), (20, 25, 21, 26), (-50, -50, -10, -10), (1000, 1000, 1100, 1100)],
    ids=["nothing in it", "inside of an object", "one pixel", "before the image", "behind the image"],
)
def test_a_box_without_an_object_is_doubtful(box: tuple[float, ...]) -> None:
    matte = cut(TWO, box)
    assert matte.size == (240, 320)
    assert matte.unusable is not None


def test_one_box_without_an_object_makes_the_whole_matte_doubtful() -> None:
    assert cut(TWO, (20, 25, 70, 75), (20, 150, 120, 230)).unusable is not None


def test_a_box_of_the_whole_image_or_no_box_at_all_is_as_if_nothing_was_labelled() -> None:
    (without,) = GrabCut()(images=[TWO])
    (none, empty) = GrabCut()(images=[TWO, TWO], boxes=[None, np.empty((0, 4))])
    assert cut(TWO, (0, 0, 320, 240)).to_bytes() == without.to_bytes()
    assert none.to_bytes() == empty.to_bytes() == without.to_bytes()


def test_it_gives_the_same_whatever_ran_before_and_at_any_size() -> None:
    before = cut(TWO, (20, 25, 70, 75)).to_bytes()
    cv2.setRNGSeed(12345)
    assert cut(TWO, (20, 25, 70, 75)).to_bytes() == before
    large = np.asarray(cv2.resize(TWO, None, fx=4, fy=4), np.uint8)
    assert overlap(cut(large, (80, 100, 280, 300)), (180, 200, 100)) > 0.9


def test_it_reads_boxes_and_nothing_if_there_are_none() -> None:
    box = np.array([[1.0, 2, 3, 4]])
    assert GrabCut().reads(Item(TWO, "0" * 32)) == ""
    assert GrabCut().reads(Item(TWO, "0" * 32, boxes=box)) != GrabCut().reads(Item(TWO, "0" * 32, boxes=box + 1))
