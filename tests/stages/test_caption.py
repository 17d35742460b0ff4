"""Captions without a model, and by a served vision model."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest
from skimage import data

from augment.artifacts import Image, decode_image
from augment.errors import ItemFailed, UnavailableError
from augment.stages.caption.measured import Measured, describe
from augment.stages.caption.openai import OpenAi
from tests.chat_server import ChatServer


def flat(color: tuple[int, int, int], shape: tuple[int, int] = (120, 160)) -> Image:
    return np.full((*shape, 3), color, np.uint8)


def two(first: tuple[int, int, int], second: tuple[int, int, int], axis: int) -> Image:
    return np.concatenate([flat(first), flat(second)], axis=axis)


def noise(sigma: float, strength: float = 60, size: int = 512) -> Image:
    values = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    values = cv2.GaussianBlur(values, (0, 0), sigma) if sigma else values
    grey = 128 + strength * values / values.std()
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def stripes(direction: str) -> Image:
    wave = (128 + 60 * np.sign(np.sin(np.arange(256) / 4))).astype(np.uint8)
    image = np.tile(wave, (256, 1))
    return np.repeat((image if direction == "vertical" else image.T)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ((10, 10, 12), "black scene"),
        ((248, 248, 248), "white scene"),
        ((130, 128, 131), "grey scene"),
        ((60, 140, 55), "green scene"),
        ((165, 200, 235), "pale blue scene"),
        ((130, 80, 50), "brown scene"),
        ((200, 25, 30), "red scene"),
        ((210, 185, 150), "beige scene"),
    ],
)
def test_colors_are_called_by_their_everyday_names(color: tuple[int, int, int], name: str) -> None:
    assert name in describe(flat(color))


def test_a_dark_color_is_not_called_dark_twice() -> None:
    caption = describe(flat((25, 38, 84)))
    assert caption.startswith("a very dark blue scene") or caption.startswith("a dark blue scene")


def test_the_layout_says_which_color_is_where() -> None:
    sky, lawn = (165, 205, 240), (35, 70, 35)
    assert re.match(r"an? (\w+ )?pale blue upper part over a dark green lower part", describe(two(sky, lawn, 0)))
    assert re.match(r"an? (\w+ )?dark green left side beside a pale blue right side", describe(two(lawn, sky, 1)))


@pytest.mark.parametrize(
    ("color", "words"),
    [
        ((250, 235, 200), "bright"),
        ((14, 14, 14), "very dark"),
        ((250, 190, 120), "in warm light"),
        ((120, 170, 250), "in cool light"),
    ],
)
def test_light_is_named_by_brightness_and_color(color: tuple[int, int, int], words: str) -> None:
    assert words in describe(flat(color))


def test_contrast_is_named() -> None:
    assert "very low contrast" in describe(flat((120, 120, 120)))
    assert "strong contrast" in describe(two((10, 10, 10), (245, 245, 245), 1))


def test_texture_goes_from_smooth_to_busy_and_from_fine_to_coarse() -> None:
    assert "smooth texture" in describe(flat((120, 130, 120)))
    assert "fine texture" in describe(noise(0))
    assert "busy" in describe(noise(2))
    assert "coarse texture" in describe(noise(8))
    assert "faint" in describe(noise(8, strength=12))


@pytest.mark.parametrize("direction", ["vertical", "horizontal"])
def test_lines_are_named_by_their_direction(direction: str) -> None:
    assert f"of {direction} lines" in describe(stripes(direction))
    assert "lines" not in describe(noise(3))


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket"])
def test_a_blurred_photograph_is_called_out_of_focus_and_its_original_is_not(name: str) -> None:
    photo = getattr(data, name)()
    assert "focus" not in describe(photo).replace("in sharp focus", "")
    assert "out of focus" in describe(cv2.GaussianBlur(photo, (0, 0), 4))


def test_real_photographs_get_one_plain_sentence_each() -> None:
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    captions = Measured()(plates=photos)
    assert len(set(captions)) == 4
    for caption in captions:
        assert re.fullmatch(r"an? [a-z ]+(, [a-z ]+){1,4}", caption)
        assert len(caption.split()) < 40
    assert "brown" in captions[2]
    assert "dark blue upper part" in captions[3]


def test_a_caption_does_not_depend_on_the_size_of_the_plate_s_batch() -> None:
    photos = [data.chelsea(), data.coffee()]
    assert Measured()(plates=photos) == [*Measured()(plates=photos[:1]), *Measured()(plates=photos[1:])]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (3, 700)])
def test_plates_of_any_size_are_described(shape: tuple[int, int]) -> None:
    assert "pale grey" in describe(flat((180, 180, 180), shape))


def test_a_served_model_is_shown_the_plate_and_its_caption_is_cleaned() -> None:
    with ChatServer() as server:
        server.answer = 'Sure, here is a caption: "A wooden table with a red saucer."'
        plate = np.ascontiguousarray(data.coffee()[:400, :600])
        stage = OpenAi(model="eyes", base_url=server.url, side=300)
        assert stage(plates=[plate, plate[:, ::-1]]) == ["A wooden table with a red saucer."] * 2
        sent = server.requests[0]["messages"][1]["content"][1]["image_url"]["url"]
    header, _, encoded = sent.partition(",")
    assert header == "data:image/jpeg;base64"
    seen = decode_image(base64.b64decode(encoded))
    assert seen.shape == (200, 300, 3)
    small = cv2.resize(plate, (300, 200), interpolation=cv2.INTER_AREA)
    difference = [np.abs(seen.astype(int) - one).mean() for one in (small, small[:, ::-1])]
    assert min(difference) < 5  # the questions go out together, so either plate may be the first


def test_a_served_model_without_a_usable_caption_fails_that_plate_alone() -> None:
    with ChatServer() as server:
        server.answers = ["A quiet field under trees.", "I'm sorry, but I can't see images."]
        stage = OpenAi(model="eyes", base_url=server.url, concurrency=1)
        caption, failed = stage(plates=[flat((1, 2, 3)), flat((3, 2, 1))])
    assert caption == "A quiet field under trees."
    assert isinstance(failed, ItemFailed)
    assert "eyes" in str(failed)


def test_a_server_that_is_not_there_is_said_before_the_work_and_fails_the_item_later() -> None:
    with ChatServer() as server:
        url = server.url
    stage = OpenAi(model="eyes", base_url=url, retries=0)
    (failed,) = stage(plates=[flat((1, 2, 3))])
    assert isinstance(failed, ItemFailed)
    assert url in str(failed)
    with pytest.raises(UnavailableError, match=re.escape(url)):
        stage.check()
