"""Plates: nothing outside the hole changes, nothing of the object stays, and texture is kept."""

import cv2
import numpy as np
import pytest

from augment.artifacts import Matte
from augment.errors import ItemFailed
from augment.stages.inpaint import Inpainter
from augment.stages.inpaint.comfyui import ComfyUi
from augment.stages.inpaint.diffusers import Diffusers
from augment.stages.inpaint.exemplar import Exemplar
from augment.stages.inpaint.onnx import Onnx
from augment.stages.inpaint.opencv import NavierStokes, Telea
from augment.stages.kinds import find_backend
from tests.imaging.test_resynthesis import MAGENTA, ellipse, landscape, magenta_pixels, painted

STAGES = [Exemplar(), Telea(), NavierStokes()]
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.backend)


def plate_of(stage, image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    plate = stage(images=[image], mattes=[Matte.from_full(alpha)])[0]
    assert isinstance(plate, np.ndarray)
    return plate


def test_each_backend_is_found_by_its_name():
    found = {name: find_backend(Inpainter, name) for name in Inpainter.backends}
    assert found == {
        "exemplar": Exemplar,
        "telea": Telea,
        "navier-stokes": NavierStokes,
        "onnx": Onnx,
        "diffusers": Diffusers,
        "comfyui": ComfyUi,
    }


@each_stage
def test_pixels_outside_the_hole_stay_byte_for_byte(stage):
    image, alpha = painted()
    plate = plate_of(stage, image, alpha)
    outside = ~Matte.from_full(alpha).hole(stage.grow)
    np.testing.assert_array_equal(plate[outside], image[outside])
    assert (plate[~outside] != image[~outside]).any()


@each_stage
def test_no_rim_of_the_object_stays_in_the_plate(stage):
    image, alpha = landscape(), ellipse(120, 160)
    soft = cv2.GaussianBlur(alpha, (0, 0), 1.5)
    weight = soft[..., None] / 255
    image = (image * (1 - weight) + np.array(MAGENTA) * weight).astype(np.uint8)
    plate = plate_of(stage, image, soft)
    assert magenta_pixels(image) > 1000
    assert magenta_pixels(plate) == 0


@each_stage
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (61, 200), (240, 97), (300, 300)])
def test_the_plate_has_the_images_own_size(stage, size):
    image, alpha = painted(*size)
    plate = plate_of(stage, image, alpha)
    assert plate.shape == image.shape
    assert plate.dtype == np.uint8
    assert magenta_pixels(plate) == 0


@each_stage
def test_each_item_is_the_same_in_any_batch(stage):
    scenes = [painted(), painted(90, 90, 0.4, 0.2), painted(60, 130)]
    images, mattes = [image for image, _ in scenes], [Matte.from_full(alpha) for _, alpha in scenes]
    together = stage(images=images, mattes=mattes)
    for image, matte, plate in zip(images, mattes, together, strict=True):
        np.testing.assert_array_equal(stage(images=[image], mattes=[matte])[0], plate)


@each_stage
def test_a_hole_that_covers_the_image_fails_with_a_sentence_and_the_rest_goes_on(stage):
    image, alpha = painted()
    full = Matte.from_full(np.full_like(alpha, 255))
    failed, plate = stage(images=[image, image], mattes=[full, Matte.from_full(alpha)])
    assert isinstance(failed, ItemFailed)
    assert "no visible pixel" in str(failed)
    assert plate.shape == image.shape


@each_stage
def test_without_an_object_the_plate_is_the_image(stage):
    image = landscape()
    np.testing.assert_array_equal(plate_of(stage, image, np.zeros(image.shape[:2], np.uint8)), image)


@each_stage
def test_it_works_when_the_object_covers_almost_everything(stage):
    image, alpha = painted(150, 220)
    alpha[:] = 255
    alpha[:40, :70] = 0
    image[alpha > 0] = MAGENTA
    assert magenta_pixels(plate_of(stage, image, alpha)) == 0


@each_stage
def test_inputs_are_left_as_they_were(stage):
    image, alpha = painted()
    before = image.copy()
    plate_of(stage, image, alpha)
    np.testing.assert_array_equal(image, before)


def test_the_exemplar_fill_keeps_the_texture_that_telea_smears():
    image, alpha = painted(256, 256)
    inside = cv2.erode(alpha, np.ones((9, 9), np.uint8)) > 0
    expected = cv2.Laplacian(landscape(256, 256), cv2.CV_32F)[inside].std()
    sharpness = {
        type(stage): cv2.Laplacian(plate_of(stage, image, alpha), cv2.CV_32F)[inside].std()
        for stage in (Exemplar(), Telea())
    }
    assert sharpness[Exemplar] > 0.8 * expected
    assert sharpness[Telea] < 0.5 * expected


def test_the_exemplar_fill_keeps_the_sky_above_the_ground():
    image, alpha = painted(256, 256)
    plate = plate_of(Exemplar(), image, alpha).astype(int)
    sky = plate[..., 2] > plate[..., 1]
    assert sky[:112].mean() > 0.97
    assert sky[-112:].mean() < 0.03


def test_a_repeating_pattern_is_continued():
    rows, columns = np.mgrid[:128, :192]
    image = np.where(((rows // 8 + columns // 8) % 2)[..., None] > 0, (200, 180, 160), (60, 50, 40)).astype(np.uint8)
    whole = image.copy()
    alpha = ellipse(128, 192, 0.2, 0.15)
    image[alpha > 0] = MAGENTA
    plate = plate_of(Exemplar(), image, alpha).astype(int)
    assert np.abs(plate - whole)[alpha > 0].mean() < 20
