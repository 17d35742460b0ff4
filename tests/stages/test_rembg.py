"""Mattes by rembg's own session classes with real ISNet weights, of real objects over real places."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from augment.artifacts import Matte
from augment.errors import UnavailableError
from augment.models.rembg import AlphaMatting, count_threads
from augment.stages.remove.rembg import Rembg

OBJECT = "animals/mammals/apes/chimp.png"
PLACE = "Path/contents/images/2560x1600.jpg"


def place(wallpapers: Path, size: tuple[int, int]) -> Image.Image:
    with Image.open(wallpapers / PLACE) as photo:
        return photo.convert("RGB").resize(size)


def iou(matte: Matte, truth: np.ndarray) -> float:
    found, true = matte.uncropped() >= 128, truth >= 128
    return float((found & true).sum() / (found | true).sum())


@pytest.fixture(scope="module")
def scene(stamps: Path, wallpapers: Path) -> tuple[np.ndarray, np.ndarray]:
    """An upright photograph with one object, and the object's true alpha."""
    picture = place(wallpapers, (360, 520))
    with Image.open(stamps / OBJECT) as stamp:
        cutout = stamp.convert("RGBA")
    cutout.thumbnail((280, 280))
    truth = Image.new("L", picture.size)
    truth.paste(cutout.getchannel("A"), (40, 160))
    picture.paste(cutout, (40, 160), cutout)
    return np.asarray(picture), np.asarray(truth)


@pytest.fixture(scope="module")
def stage(isnet: Path) -> Rembg:
    """Its session is built at the first use and stays for the tests that follow."""
    return Rembg(str(isnet))


@pytest.fixture(scope="module")
def mattes(stage: Rembg, scene: tuple[np.ndarray, np.ndarray], wallpapers: Path) -> list[Matte]:
    """Of the scene, and of a place without an object, in one batch."""
    stage.check()
    return stage(images=[scene[0], np.asarray(place(wallpapers, (400, 300)))])


def test_matte_of_a_real_object_is_right_and_has_the_images_geometry(
    mattes: list[Matte], scene: tuple[np.ndarray, np.ndarray]
) -> None:
    image, truth = scene
    assert mattes[0].size == image.shape[:2] == (520, 360)
    assert mattes[0].unusable is None
    assert mattes[0].confidence > 0.9
    assert iou(mattes[0], truth) > 0.95


def test_place_without_an_object_is_doubtful(mattes: list[Matte]) -> None:
    assert mattes[1].size == (300, 400)
    assert mattes[1].unusable is not None
    assert mattes[1].unusable.startswith("doubtful: confidence")


def test_matte_does_not_depend_on_its_batch_and_the_session_is_built_once(
    stage: Rembg, mattes: list[Matte], scene: tuple[np.ndarray, np.ndarray]
) -> None:
    network = stage._network
    (alone,) = stage(images=[scene[0]])
    assert alone.to_bytes() == mattes[0].to_bytes()
    assert stage._network is network


def test_model_in_rembgs_home_is_used_by_its_name(
    isnet: Path,
    mattes: list[Matte],
    scene: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    (tmp_path / "isnet-general-use.onnx").symlink_to(isnet)
    (matte,) = Rembg()(images=[scene[0]])
    assert matte.to_bytes() == mattes[0].to_bytes()


def test_several_images_at_once_give_the_same_as_one_after_another(
    stage: Rembg, mattes: list[Matte], scene: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")  # two images at once; the session keeps its own threads
    both = stage(images=[scene[0], scene[0]])
    assert [matte.to_bytes() for matte in both] == [mattes[0].to_bytes()] * 2


@pytest.mark.parametrize("value", [0.0, 0.7, np.nan])
def test_flat_prediction_is_unusable_not_nan(stage: Rembg, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    prediction = np.full((1, 1, 1024, 1024), value, np.float32)
    recorder = stage._network._session.inner_session

    class Flat:
        def run(self, *args: Any) -> list[np.ndarray]:
            return [prediction]

        get_inputs = recorder._session.get_inputs

    monkeypatch.setattr(recorder, "_session", Flat())
    (matte,) = stage(images=[np.full((30, 40, 3), 90, np.uint8)])
    assert matte.unusable == "flat: the network predicts the same everywhere"
    assert matte.size == (30, 40)
    assert matte.confidence == 0


@pytest.mark.slow
def test_alpha_matting_refines_the_edge_and_frees_its_colors(
    stage: Rembg, mattes: list[Matte], scene: tuple[np.ndarray, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    image, truth = scene
    refining = replace(stage, alpha_matting=AlphaMatting(erode=4))
    refining.__dict__["_network"] = stage._network
    with caplog.at_level(logging.WARNING):
        (matte,) = refining(images=[image])
    soft = (matte.alpha > 0) & (matte.alpha < 255)
    assert matte.size == mattes[0].size
    assert iou(matte, truth) > iou(mattes[0], truth)
    assert matte.edge_colors.shape == (soft.sum(), 3)
    assert all("numba compiles" in record.message for record in caplog.records)


def test_unloaded_stage_is_its_settings_alone(isnet: Path) -> None:
    stage = Rembg(str(isnet))
    stage.__dict__["_network"] = object()
    assert pickle.loads(pickle.dumps(stage)) == stage
    stage.unload()
    assert set(vars(stage)) == set(stage.settings())


def test_broken_file_is_named(tmp_path: Path) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"torn")
    with pytest.raises(UnavailableError, match=r"torn\.onnx: onnxruntime cannot load it"):
        Rembg(str(torn))(images=[np.zeros((8, 8, 3), np.uint8)])


def test_missing_library_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        UnavailableError, match=r'onnxruntime is not installed: pip install "augment-backgrounds\[models\]"'
    ):
        Rembg().check()


def test_cuda_that_is_not_there_is_an_error(isnet: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UnavailableError, match='device = "cuda"'):
        Rembg(str(isnet), device="cuda").check()


def test_sessions_need_neither_numba_nor_the_rest_of_rembg() -> None:
    code = (
        "import sys; from augment.models.rembg import rembg_sessions; assert 'isnet-general-use' in rembg_sessions();"
        "assert not {'numba', 'pymatting', 'rembg', 'rembg.bg'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("value", "threads"), [("8,1", 8), ("3", 3), (" 2 , 1", 2), ("all", None), ("0", None)])
def test_omp_num_threads_may_be_a_list(value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = count_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert count_threads() == (threads or cores)
