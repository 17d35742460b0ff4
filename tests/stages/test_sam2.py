"""SAM 2 with boxes as prompts: the real classes with random weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from augment.artifacts import Matte
from augment.errors import ItemFailed, UnavailableError
from augment.models.sam2 import Sam2Settings
from augment.stages.base import Item
from augment.stages.remove.sam2 import Sam2
from augment.testing.tiny_sam2 import tiny_sam2

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
BOXES = np.array([[10.0, 10, 60, 70], [70, 20, 110, 80]])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Sam2:
    stage = Sam2(str(tiny_sam2(tmp_path_factory.mktemp("sam2"))), device="cpu", doubt=0.0)
    stage.check()
    return stage


def cut(stage: Sam2, *boxes: np.ndarray | None) -> list[Matte | ItemFailed]:
    return stage(images=[IMAGE] * len(boxes), boxes=boxes, sources=["a.png"] * len(boxes))


def test_each_box_has_its_mask_at_the_image_s_size_and_the_matte_is_their_union(stage: Sam2) -> None:
    chances, scores = stage.segment(IMAGE, BOXES)
    assert chances.shape == (2, 90, 120)
    assert scores.shape == (2,)
    assert not np.array_equal(*chances)
    (matte,) = cut(stage, BOXES)
    assert isinstance(matte, Matte)
    assert np.abs(matte.uncropped() - chances.max(0) * 255).max() <= 1
    assert matte.confidence == pytest.approx(scores.min())


def test_a_batch_of_items_with_different_numbers_of_boxes_gives_the_same_as_each_alone(stage: Sam2) -> None:
    together = cut(stage, BOXES, BOXES[:1], None)
    assert isinstance(together[2], ItemFailed)
    assert "a.png: it has no boxes" in str(together[2])
    for matte, boxes in zip(together, (BOXES, BOXES[:1]), strict=False):
        (alone,) = cut(stage, boxes)
        assert isinstance(alone, Matte)
        assert isinstance(matte, Matte)
        assert alone.to_bytes() == matte.to_bytes()


def test_the_model_s_own_doubt_makes_a_matte_unusable(stage: Sam2) -> None:
    doubting = Sam2(stage.model, device="cpu", doubt=1.0)
    (matte,) = cut(doubting, BOXES)
    assert isinstance(matte, Matte)
    assert matte.unusable is not None
    assert matte.unusable.startswith("doubtful: confidence")


def test_it_reads_the_boxes_and_not_the_mask(stage: Sam2) -> None:
    item = Item(IMAGE, "0" * 32, boxes=BOXES)
    assert stage.reads(item) != stage.reads(Item(IMAGE, "0" * 32, boxes=BOXES + 1))
    assert stage.reads(item) == stage.reads(Item(IMAGE, "0" * 32, boxes=BOXES, mask=IMAGE[..., 0]))


def test_unloaded_it_is_its_settings_alone(stage: Sam2) -> None:
    cut(stage, BOXES)
    assert pickle.loads(pickle.dumps(stage)) == stage
    stage.unload()
    assert set(vars(stage)) == set(stage.settings())


def test_a_model_that_is_not_there_is_named_with_the_command_that_fetches_it() -> None:
    with pytest.raises(UnavailableError, match=r"facebook/sam2\.1-hiera-small.*hf download"):
        Sam2Settings().check()


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnavailableError, match="safetensors"):
        Sam2(str(tmp_path)).check()
