"""Plates by networks: one in ONNX with LaMa's inputs, and a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from augment.artifacts import Image, Matte
from augment.errors import ItemFailed, UnavailableError
from augment.models.diffusion_loading import Runtime
from augment.stages.inpaint import Inpainter
from augment.stages.inpaint.diffusers import Diffusers
from augment.stages.inpaint.onnx import Onnx, window
from augment.stages.kinds import find_backend
from augment.testing.tiny_diffusion import tiny_inpaint
from augment.testing.tiny_files import tiny_inpainting_onnx
from tests.imaging.test_resynthesis import ellipse, landscape

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SIZES = [(32, 32), (61, 200), (240, 97), (700, 900)]


def _scene(height: int, width: int) -> tuple[Image, Matte]:
    image = landscape(height, width)
    alpha = ellipse(height, width)
    image[alpha > 0] = (255, 0, 255)
    return image, Matte.from_full(alpha)


@pytest.fixture(scope="module", params=[1.0, 255.0], ids=["0 to 1", "0 to 255"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fills a hole with the mean of what is visible."""
    return tiny_inpainting_onnx(tmp_path_factory.mktemp("onnx") / "lama.onnx", scale=request.param)


@pytest.mark.parametrize("size", SIZES)
def test_onnx_fills_the_hole_at_any_size_and_leaves_the_rest(size: tuple[int, int], network: Path) -> None:
    stage = Onnx(model=str(network))
    stage.check()
    image, matte = _scene(*size)
    (plate,) = stage(images=[image], mattes=[matte])
    hole = matte.hole(stage.grow)
    assert isinstance(plate, np.ndarray)
    assert plate.shape == image.shape
    np.testing.assert_array_equal(plate[~hole], image[~hole])
    rows, columns = window(hole, 512, stage.context)
    seen = image[rows, columns][~hole[rows, columns]].mean(axis=0)
    assert np.abs(plate[hole].mean(axis=0) - seen).max() < 6, "the network's mean of the visible pixels, in RGB"
    np.testing.assert_array_equal(stage(images=[image], mattes=[matte])[0], plate)


def test_the_network_sees_a_small_hole_at_the_images_own_sharpness() -> None:
    hole = np.zeros((2000, 3000), bool)
    hole[1900:1950, 20:60] = True
    assert window(hole, 512, 0.5) == (slice(1488, 2000), slice(0, 512))
    hole[500:1500, 500:1500] = True
    rows, columns = window(hole, 512, 0.5)
    assert hole[rows, columns].sum() == hole.sum()


def test_a_network_of_another_layout_is_one_sentence(tmp_path: Path) -> None:
    image, matte = _scene(64, 64)
    other = tiny_inpainting_onnx(tmp_path / "other.onnx", mask="alpha")
    with pytest.raises(UnavailableError, match='does not take "image" and "mask"'):
        Onnx(model=str(other))(images=[image], mattes=[matte])
    (tmp_path / "torn.onnx").write_bytes(b"torn")
    with pytest.raises(UnavailableError, match="torn.onnx"):
        Onnx(model=str(tmp_path / "torn.onnx"))(images=[image], mattes=[matte])
    with pytest.raises(UnavailableError, match="none.onnx"):
        Onnx(model=str(tmp_path / "none.onnx")).check()


@pytest.mark.parametrize("size", SIZES[:3])
def test_diffusers_fills_the_hole_at_any_size_and_leaves_the_rest(
    size: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tmp_path_factory.getbasetemp() / "inpainting-model"
    if not model.exists():
        tiny_inpaint(model)
    stage = Diffusers(str(model), steps=2, runtime=Runtime(device="cpu"))
    image, matte = _scene(*size)
    full = Matte.from_full(np.full(size, 255, np.uint8))
    empty = Matte.from_full(np.zeros(size, np.uint8))
    plate, failed, same = stage(images=[image] * 3, mattes=[matte, full, empty])
    assert isinstance(failed, ItemFailed)
    np.testing.assert_array_equal(same, image)
    assert isinstance(plate, np.ndarray)
    hole = matte.hole(stage.grow)
    np.testing.assert_array_equal(plate[~hole], image[~hole])
    assert (plate[hole] != (255, 0, 255)).any(axis=1).mean() > 0.99
    again = stage(images=[image], mattes=[matte])[0]
    assert isinstance(again, np.ndarray)
    assert np.abs(again.astype(int) - plate).max() <= 1


def test_both_are_found_by_their_names() -> None:
    assert (find_backend(Inpainter, "onnx"), find_backend(Inpainter, "diffusers")) == (Onnx, Diffusers)
