"""Mattes of real objects over real places by U²-Netp through OpenCV."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from augment.errors import UnavailableError
from augment.stages.remove.onnx import Onnx
from augment.testing.scenes import scenes
from benchmarks.mattes import Summary, score


@pytest.fixture(scope="module")
def stage(u2netp: Path) -> Onnx:
    """Its network is loaded at the first use and stays for the tests that follow."""
    return Onnx(model=str(u2netp))


def red_network(path: Path, side: int, maps: int = 1) -> Path:
    """A network that takes red for the object, in images of that side only."""
    from onnx import TensorProto, checker, helper, save

    weights = helper.make_tensor("weights", TensorProto.FLOAT, (maps, 3, 1, 1), [2.0, -2.0, -2.0] * maps)
    shape = helper.make_tensor("shape", TensorProto.INT64, (4,), [1, maps, side, side])
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["chance"]),
        helper.make_node("Reshape", ["chance", "shape"], ["map"]),
    ]
    taken = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])
    given = helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, maps, side, side])
    graph = helper.make_graph(nodes, "red", [taken], [given], [weights, shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, str(path))
    return path


@pytest.mark.usefixtures("stamps", "wallpapers")
def test_most_objects_are_found_and_redrawing_the_edge_brings_less_background_along(stage: Onnx) -> None:
    stage.check()
    made = list(scenes(12, seed=3))
    images = [scene.image for scene in made]
    mattes = stage(images=images)
    assert [matte.size for matte in mattes] == [image.shape[:2] for image in images]
    blurred = replace(stage, redraw_edge=False)
    blurred.__dict__["_network"] = stage._network
    drawn, plain = (
        Summary.of([score(matte, scene) for matte, scene in zip(found, made, strict=True)])
        for found in (mattes, blurred(images=images))
    )
    assert drawn.median_overlap > 0.85
    assert plain.median_overlap > 0.85
    assert drawn.leak < 0.9 * plain.leak


def test_an_image_without_an_object_is_doubtful_or_empty(stage: Onnx) -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).normal(128, 60, (200, 300, 3)), (0, 0), 9)
    for image in (smooth.clip(0, 255).astype(np.uint8), np.full((30, 40, 3), 90, np.uint8)):
        (matte,) = stage(images=[image])
        assert matte.size == image.shape[:2]
        assert matte.unusable is not None


@pytest.mark.parametrize("shape", [(1, 1), (7, 400), (40, 40), (900, 20)])
def test_an_image_of_any_shape_gets_a_matte_of_its_size(stage: Onnx, shape: tuple[int, int]) -> None:
    (matte,) = stage(images=[np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)])
    assert matte.size == shape


def test_a_black_image_is_no_division_by_zero(stage: Onnx) -> None:
    with np.errstate(all="raise"):
        (matte,) = stage(images=[np.zeros((30, 40, 3), np.uint8)])
    assert matte.size == (30, 40)


def test_another_network_is_used_by_its_path_size_and_colors(tmp_path: Path) -> None:
    path = red_network(tmp_path / "red.onnx", 64)
    stage = Onnx(model=str(path), size=64, mean=(0.5, 0, 0), deviation=(0.1, 1, 1))
    image = np.full((100, 120, 3), 90, np.uint8)
    image[20:70, 30:90] = (255, 10, 10)
    (matte,) = stage(images=[image])
    assert matte.unusable is None
    assert matte.confidence > 0.9
    left, top, right, bottom = matte.box
    assert np.abs(np.array([left, top, right, bottom]) - [30, 20, 90, 70]).max() <= 4
    with pytest.raises(UnavailableError, match=r"red\.onnx: it does not take images of 32x32.*remove\.size"):
        replace(stage, size=32)(images=[image])


def test_a_network_that_gives_several_maps_at_once_is_refused(tmp_path: Path) -> None:
    stage = Onnx(model=str(red_network(tmp_path / "many.onnx", 64, maps=2)), size=64)
    with pytest.raises(UnavailableError, match=r"many\.onnx: it gives \(1, 2, 64, 64\), not one map"):
        stage(images=[np.zeros((30, 40, 3), np.uint8)])


def test_a_stage_that_was_used_is_still_its_settings_alone(stage: Onnx) -> None:
    stage(images=[np.zeros((30, 40, 3), np.uint8)])
    assert pickle.loads(pickle.dumps(stage)) == stage
    copy = replace(stage)
    copy.__dict__["_network"] = object()
    copy.unload()
    assert set(vars(copy)) == set(copy.settings())


def test_it_needs_no_library_of_the_models_extra(u2netp: Path) -> None:
    code = (
        "import sys, numpy; from augment.stages.remove.onnx import Onnx;"
        f"Onnx(model={str(u2netp)!r})(images=[numpy.zeros((30, 40, 3), numpy.uint8)]);"
        "assert not {'onnxruntime', 'rembg', 'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
