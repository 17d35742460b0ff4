"""Compositing: what it may change and what it must not."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from augment.artifacts import Matte
from augment.errors import InputError
from augment.imaging.composite import BLENDS, composite, cutout, with_edge_colors
from augment.testing.pictures import scene

IMAGE, ALPHA = scene(0)
MATTE = Matte.from_full(ALPHA)
BACKGROUND = np.random.default_rng(1).integers(0, 256, IMAGE.shape, np.uint8)


@given(hnp.arrays(np.uint8, (9, 7)), st.integers(0, 2**32 - 1))
def test_alpha_blending_is_the_textbook_formula_within_a_gray_level(alpha, seed):
    image, background = np.random.default_rng(seed).integers(0, 256, (2, 9, 7, 3), np.uint8)
    result = composite(image, Matte.from_full(alpha), background)
    weight = alpha[..., None] / 255
    np.testing.assert_allclose(result, image * weight + background * (1 - weight), atol=1.001)


@pytest.mark.parametrize("blend", BLENDS)
def test_outside_the_matte_nothing_of_the_image_is_left(blend):
    result = composite(IMAGE, MATTE, BACKGROUND, blend=blend, harmonize=0.5)
    np.testing.assert_array_equal(result[ALPHA == 0], BACKGROUND[ALPHA == 0])


def test_opaque_pixels_stay_byte_for_byte():
    result = composite(IMAGE, with_edge_colors(MATTE, IMAGE), BACKGROUND)
    np.testing.assert_array_equal(result[ALPHA == 255], IMAGE[ALPHA == 255])


def test_inputs_are_not_changed():
    image, background = IMAGE.copy(), BACKGROUND.copy()
    for array in (image, background):
        array.flags.writeable = False
    result = composite(image, MATTE, background, blend="feather", harmonize=1.0)
    assert result.flags.writeable
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(background, BACKGROUND)


def test_color_spill_at_soft_edges_is_removed():
    """A red disc photographed in front of green has no green rim on a red background."""
    height, width = 64, 64
    y, x = np.mgrid[:height, :width]
    alpha = (np.clip(24 - np.hypot(x - 32, y - 32), -4, 4) / 8 + 0.5) * 255
    alpha = alpha.round().astype(np.uint8)
    weight = alpha[..., None] / 255
    image = (np.array([200, 20, 20]) * weight + np.array([20, 220, 20]) * (1 - weight)).round().astype(np.uint8)
    red = np.full_like(image, (200, 20, 20))
    matte = Matte.from_full(alpha)
    with_spill = composite(image, matte, red)[..., 1].max()
    without = composite(image, with_edge_colors(matte, image), red)[..., 1].max()
    assert with_spill > 60
    assert without < 35


def test_a_feathered_edge_fades_inwards_only():
    hard = np.zeros((200, 200), np.uint8)
    hard[50:150, 50:150] = 255
    image, background = np.full((200, 200, 3), 250, np.uint8), np.zeros((200, 200, 3), np.uint8)
    result = composite(image, Matte.from_full(hard), background, blend="feather")[..., 0]
    assert not result[hard == 0].any()
    assert 0 < result[50, 100] < 128
    assert result[100, 100] == 250


def test_poisson_blending_keeps_gradients_and_halves_the_step_at_the_edge():
    alpha = cv2.circle(np.zeros((80, 100), np.uint8), (50, 40), 25, 255, -1)
    texture = np.random.default_rng(0).integers(0, 40, (80, 100, 1), np.uint8)
    image = np.full((80, 100, 3), (180, 60, 40), np.uint8) + texture
    background = np.full_like(image, (60, 90, 120))
    ring = cv2.morphologyEx(alpha, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    inner = cv2.erode(alpha, np.ones((9, 9))) > 0
    steps = {}
    for blend in ("alpha", "poisson"):
        result = composite(image, Matte.from_full(alpha), background, blend=blend).astype(int)
        np.testing.assert_array_equal(result[alpha == 0], background[alpha == 0])
        steps[blend] = np.abs(result[ring & (alpha > 0)] - (60, 90, 120)).mean()
        across = np.diff(result[..., 0], axis=1)[inner[:, 1:] & inner[:, :-1]]
        before = np.diff(image[..., 0].astype(int), axis=1)[inner[:, 1:] & inner[:, :-1]]
        assert np.abs(across - before).mean() < 2.5
    assert 0.4 * steps["alpha"] < steps["poisson"] < 0.7 * steps["alpha"]


def test_poisson_blending_leaves_a_slim_plain_object_half_its_contrast():
    """All of it is near an edge, so full Poisson blending would turn it into the background."""
    alpha = np.zeros((80, 100), np.uint8)
    alpha[10:70, 48:54] = 255
    image = np.full((80, 100, 3), 200, np.uint8)
    background = np.full_like(image, 80)
    result = composite(image, Matte.from_full(alpha), background, blend="poisson")
    assert result[alpha == 255].min() >= 138


def test_poisson_blending_falls_back_to_alpha_for_a_tiny_object():
    alpha = np.zeros(IMAGE.shape[:2], np.uint8)
    alpha[5:7, 5:7] = 255
    matte = Matte.from_full(alpha)
    np.testing.assert_array_equal(
        composite(IMAGE, matte, BACKGROUND, blend="poisson"), composite(IMAGE, matte, BACKGROUND)
    )


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("shift", [(-40, -30), (60, 50), (7.5, -3.25)])
def test_a_moved_object_shows_nothing_of_the_old_background(blend, shift):
    image = np.where(ALPHA[..., None] > 0, np.uint8(200), np.uint8(0)) * np.ones(3, np.uint8)
    white = np.full_like(image, 255)
    matrix = np.array([[0.8, 0.3, shift[0]], [-0.3, 0.8, shift[1]]])
    result = composite(image, MATTE, white, blend=blend, matrix=matrix)
    assert result.shape == image.shape
    assert result.min() >= 197  # black lay around the object, and would darken its edge
    assert (result < 255).any() or shift == (-40, -30)


def test_an_object_moved_out_of_sight_leaves_the_background():
    matrix = np.array([[1.0, 0, 500], [0, 1, 0]])
    for blend in BLENDS:
        np.testing.assert_array_equal(composite(IMAGE, MATTE, BACKGROUND, blend=blend, matrix=matrix), BACKGROUND)


def lab_mean(image, inside):
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[inside].mean(0)


def test_harmonize_moves_the_objects_colors_towards_the_background():
    inside = ALPHA == 255
    ground = np.clip(IMAGE[inside].mean(0) + np.array([-20, 6, 8]), 0, 255).astype(np.uint8) * np.ones_like(IMAGE)
    target = lab_mean(ground, inside)
    means = [lab_mean(composite(IMAGE, MATTE, ground, harmonize=strength), inside) for strength in (0.0, 0.5, 1.0)]
    distances = [np.linalg.norm(mean - target) for mean in means]
    assert distances[0] > 1.5 * distances[1] > 2 * distances[2]
    np.testing.assert_array_equal(means[0], lab_mean(IMAGE, inside))


def test_harmonize_does_not_give_an_object_another_color():
    inside = ALPHA == 255
    blue = np.full_like(IMAGE, (10, 30, 250))
    moved = lab_mean(composite(IMAGE, MATTE, blue, harmonize=1.0), inside) - lab_mean(IMAGE, inside)
    assert np.abs(moved).max() > 5
    assert (np.abs(moved) <= (44, 16, 16)).all()


def test_an_empty_matte_gives_the_background():
    empty = Matte.from_full(np.zeros(ALPHA.shape, np.uint8))
    np.testing.assert_array_equal(composite(IMAGE, empty, BACKGROUND), BACKGROUND)


def test_sizes_that_differ_are_named():
    with pytest.raises(InputError, match="background is"):
        composite(IMAGE, MATTE, BACKGROUND[1:])
    with pytest.raises(InputError, match="image is"):
        composite(IMAGE[1:], MATTE, BACKGROUND)


def test_a_cutout_has_the_matte_as_its_alpha():
    result = cutout(IMAGE, MATTE)
    np.testing.assert_array_equal(result[..., 3], ALPHA)
    np.testing.assert_array_equal(result[..., :3], IMAGE)
