"""Mask R-CNN from a saved checkpoint: untrained weights, but for biases that make it see one class in every box."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torchvision.models.detection as torchvision_detection
from safetensors.torch import load_file, save_file

from augment.artifacts import Image
from augment.errors import RecipeError, UnavailableError
from augment.stages.detect.mask_rcnn import MaskRcnn as Detector
from augment.stages.remove.mask_rcnn import MaskRcnn

# The real network at a fraction of its working size: at 800 pixels the CPU takes many seconds an image.
_SMALL = partial(
    torchvision_detection.maskrcnn_resnet50_fpn_v2,
    min_size=96,
    max_size=160,
    rpn_post_nms_top_n_test=20,
    box_detections_per_img=5,
)
NAMES = ("cat", "dog")


@pytest.fixture(autouse=True, scope="module")
def small_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision_detection, "maskrcnn_resnet50_fpn_v2", _SMALL)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = _SMALL(weights=None, weights_backbone=None, num_classes=3).state_dict()
    state["roi_heads.box_predictor.cls_score.bias"][:] = torch.tensor([-4.0, 4.0, 0.0])  # background, cat, dog
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"][:] = 5.0
    path = tmp_path_factory.mktemp("mask_rcnn") / "cats.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def stage(checkpoint: Path) -> MaskRcnn:
    return MaskRcnn(str(checkpoint), names=NAMES)


@pytest.fixture(scope="module")
def photos() -> list[Image]:
    cat, coffee = skimage.data.chelsea(), skimage.data.coffee()
    return [cat, coffee, np.ascontiguousarray(cat[:, ::-1])]


def test_matte_is_the_union_of_what_was_found_and_has_the_images_size(stage: MaskRcnn, photos: list[Image]) -> None:
    stage.check()
    (matte,) = stage(images=photos[:1])
    (detections,) = stage.detect(photos[:1])
    union = np.any([d.mask for d in detections if d.mask.mean() >= stage.min_area], axis=0)
    assert {d.label for d in detections} == {"cat"}
    assert matte.size == photos[0].shape[:2]
    assert matte.unusable is None
    assert 0.5 < matte.confidence <= 1
    assert np.mean((matte.uncropped() >= 128) == union) > 0.99


def test_matte_does_not_depend_on_its_batch(stage: MaskRcnn, photos: list[Image]) -> None:
    together = stage(images=photos)
    alone = [stage(images=[photo])[0] for photo in photos]
    assert [matte.to_bytes() for matte in together] == [matte.to_bytes() for matte in alone]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"classes": ("cat",)}, None),
        ({"classes": ("dog",)}, "nothing found: no dog scored 0.5 or more"),
        ({"min_area": 1.0}, "nothing found: no object scored 0.5 or more"),
    ],
)
def test_only_chosen_and_large_enough_objects_count(
    stage: MaskRcnn, photos: list[Image], settings: dict[str, Any], reason: str | None
) -> None:
    other = replace(stage, **settings)
    other.__dict__["_network"] = stage._network  # loaded once
    (matte,) = other(images=photos[:1])
    assert matte.unusable == reason


def test_the_detector_is_the_same_network_with_the_same_settings(stage: MaskRcnn, photos: list[Image]) -> None:
    detector = Detector(stage.model, names=NAMES)
    detector.__dict__["_network"] = stage._network  # loaded once
    assert detector.classes == stage.labels == NAMES
    (found,) = detector(images=photos[:1])
    assert [one.box for one in found] == [one.box for one in stage.detect(photos[:1])[0]]
    detector.unload()
    assert set(vars(detector)) == set(detector.settings())


def test_unknown_class_is_named_before_anything_is_loaded() -> None:
    with pytest.raises(RecipeError, match=r"remove\.classes: unicorn not among the model's classes: person, bicycle"):
        MaskRcnn(classes=("person", "unicorn")).check()


def test_torch_checkpoint_gives_the_same_and_draws_no_random_numbers(
    stage: MaskRcnn, checkpoint: Path, photos: list[Image], tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    nested = tmp_path / "nested.pth"
    torch.save({"model": load_file(checkpoint), "epoch": 3}, nested)
    (matte,) = replace(stage, model=str(nested))(images=photos[:1])
    assert matte.to_bytes() == stage(images=photos[:1])[0].to_bytes()
    assert torch.equal(before, torch.get_rng_state())


def test_checkpoint_that_is_a_program_is_refused(tmp_path: Path) -> None:
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps({"model": Path("x")}))
    with pytest.raises(UnavailableError, match=r"evil\.pth: .*\.safetensors"):
        Detector(str(evil), NAMES)(images=[np.zeros((32, 32, 3), np.uint8)])


def test_checkpoint_with_other_classes_says_how_many_it_has(checkpoint: Path) -> None:
    with pytest.raises(UnavailableError, match="has 2 classes besides the background, but 3 names are given"):
        Detector(str(checkpoint), ("a", "b", "c"))(images=[np.zeros((32, 32, 3), np.uint8)])


def test_coco_weights_that_are_not_here_are_asked_for_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"COCO_V1: not on this machine .* fetch it with: python -c"):
        MaskRcnn().check()
