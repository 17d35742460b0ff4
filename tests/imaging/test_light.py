"""Relighting: how the words of a prompt change pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from augment.artifacts import Image
from augment.imaging.light import LIGHTS, Light, find_lights, relight, without_lights


@pytest.fixture(scope="module")
def photo() -> Image:
    return cv2.resize(data.coffee(), (192, 128), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def ramp() -> Image:
    """Every gray level from black to white, left to right."""
    return np.repeat(np.tile(np.arange(256, dtype=np.uint8), (64, 1))[..., None], 3, axis=2)


def mean(image: Image) -> np.ndarray:
    return image.reshape(-1, 3).mean(axis=0)


def warmth(image: Image) -> float:
    red, _, blue = mean(image)
    return float(red - blue)


@pytest.mark.parametrize("light", LIGHTS, ids=lambda light: light.name)
def test_only_its_own_light_is_recognized_in_each_phrase(light: Light) -> None:
    assert find_lights(f"a stony beach, {light.phrase}, wide shot") == [light]
    assert find_lights(light.phrase.upper()) == [light]


def test_lights_are_found_in_text_in_order_of_appearance() -> None:
    text = "Mist hangs over the lane while the sunset fades; lamplight falls from a door."
    assert [light.name for light in find_lights(text)] == ["fog", "golden hour", "lamp light"]
    assert find_lights("a mistake on a landmark, sunsetting the product") == []


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("a beach at sunset", "a beach"),
        ("a street at night, wet asphalt", "a street, wet asphalt"),
        ("under a cloudy sky a wide field", "a wide field"),
        ("a lawn in the early morning light.", "a lawn."),
        ("a red wall", "a red wall"),
    ],
)
def test_lights_are_removed_from_a_text(text: str, rest: str) -> None:
    assert without_lights(text) == rest


@pytest.mark.parametrize("light", LIGHTS, ids=lambda light: light.name)
def test_a_light_keeps_tones_in_order_and_neither_clips_nor_bands(light: Light, ramp: Image) -> None:
    # Tones run down the columns: lights fall off along the rows.
    lit = relight(ramp.transpose(1, 0, 2).copy(), light.phrase, 3)
    assert lit.shape == (256, 64, 3)
    assert lit.dtype == np.uint8
    tones = cv2.GaussianBlur(lit.astype(np.float32), (0, 0), 2).mean(axis=1)
    assert np.diff(tones[8:248], axis=0).min() > -1.5  # falloff and haze take a little back from a slow ramp
    assert (lit[:250] == 255).mean() < 0.02
    assert (lit[20:] == 0).mean() < 0.02


def test_a_smooth_sky_has_no_bands() -> None:
    # A ramp of 40 levels over 400 rows, relit to fewer: without dithering whole rows would step together.
    sky = np.repeat(np.linspace(160, 200, 400)[:, None], 64, axis=1).astype(np.uint8)
    lit = relight(np.repeat(sky[..., None], 3, axis=2), "in faint moonlight", 0)[..., 1]
    mixed_rows = np.mean([len(np.unique(row)) > 1 for row in lit])
    assert mixed_rows > 0.9


def test_lights_differ_as_their_names_say(photo: Image) -> None:
    brightness = {light.name: mean(relight(photo, light.phrase, 1)).mean() for light in LIGHTS}
    tone = {light.name: warmth(relight(photo, light.phrase, 1)) for light in LIGHTS}
    assert brightness["moonlight"] < brightness["blue hour"] < brightness["overcast"] < brightness["noon sun"]
    assert tone["moonlight"] < tone["winter light"] < tone["overcast"] < tone["golden hour"]
    assert tone["lamp light"] > tone["window light"]
    contrast = {name: relight(photo, name, 1).std() for name in ("fog", "noon sun")}
    assert contrast["fog"] < 0.6 * contrast["noon sun"]


def test_any_two_lights_differ_clearly(photo: Image) -> None:
    thumbnails = [cv2.resize(relight(photo, light.phrase, 1), (8, 6), interpolation=cv2.INTER_AREA) for light in LIGHTS]
    lab = [cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for image in thumbnails]
    apart = [
        np.linalg.norm(one - other, axis=2).mean() for n, one in enumerate(lab) for other in lab[:n]
    ]  # ΔE, of which 2.3 is just noticeable
    assert min(apart) > 3
    assert np.median(apart) > 12


def test_fog_veils_the_top_more_than_the_bottom(ramp: Image) -> None:
    dark = np.full((100, 50, 3), 30, np.uint8)
    lit = relight(dark, "fog", 0)
    assert lit[:20].mean() > lit[-20:].mean() + 30


def test_two_lights_named_together_are_averaged(photo: Image) -> None:
    golden, blue, both = (
        warmth(relight(photo, text, 2)) for text in ("golden hour", "blue hour", "golden hour, blue hour")
    )
    assert blue < both < golden


def test_without_a_light_there_is_a_slight_change(photo: Image) -> None:
    changes = [np.abs(relight(photo, "a wide meadow", seed).astype(int) - photo).mean() for seed in range(8)]
    assert all(0.5 < change < 25 for change in changes)
    assert len({relight(photo, "a wide meadow", seed).tobytes() for seed in range(8)}) == 8


def test_the_same_text_and_seed_give_the_same_bytes_and_do_not_change_the_image(photo: Image) -> None:
    before = photo.copy()
    assert relight(photo, "at dusk", 5).tobytes() == relight(photo, "at dusk", 5).tobytes()
    assert relight(photo, "at dusk", 5).tobytes() != relight(photo, "at dusk", 6).tobytes()
    np.testing.assert_array_equal(photo, before)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (40, 1, 3), (33, 17, 3)])
@pytest.mark.parametrize("value", [0, 255])
def test_any_size_and_any_flat_color_can_be_relit(shape: tuple[int, int, int], value: int) -> None:
    for light in LIGHTS:
        assert relight(np.full(shape, value, np.uint8), light.phrase, 0).shape == shape
