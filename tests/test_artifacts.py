"""Artifacts survive encoding, and damaged entries are detected."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from augment.artifacts import Matte, Prompt, decode_image, encode_image
from augment.errors import CorruptEntry, InputError
from augment.store.entries import Entry, seal

ALPHAS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)))
IMAGES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))


@given(ALPHAS, st.floats(0, 1, width=32), st.sampled_from([None, "doubtful: half of it"]))
def test_a_matte_survives_encoding(alpha, confidence, unusable):
    matte = Matte.from_full(alpha, confidence, unusable)
    back = Matte.from_bytes(memoryview(matte.to_bytes()))
    np.testing.assert_array_equal(back.uncropped(), alpha)
    assert (back.box, back.size, back.confidence, back.unusable) == (matte.box, matte.size, confidence, matte.unusable)


def test_edge_colors_survive_encoding():
    alpha = np.array([[0, 9, 255], [0, 8, 7]], np.uint8)
    colors = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
    whole = Matte.from_full(alpha)
    back = Matte.from_bytes(Matte(whole.alpha, whole.box, whole.size, edge_colors=colors).to_bytes())
    np.testing.assert_array_equal(back.edge_colors, colors)


@pytest.mark.parametrize(("value", "reason"), [(0, "empty"), (255, "full"), (200, "full")])
def test_an_empty_or_full_matte_is_unusable(value, reason):
    assert Matte.from_full(np.full((5, 5), value, np.uint8)).unusable.startswith(reason)


def test_a_matte_keeps_only_its_box():
    alpha = np.zeros((100, 80), np.uint8)
    alpha[10:20, 30:50] = 255
    matte = Matte.from_full(alpha)
    assert matte.box == (30, 10, 50, 20)
    assert matte.alpha.shape == (10, 20)
    assert matte.coverage == pytest.approx(200 / 8000)


def test_a_hole_extends_beyond_the_object_by_a_share_of_the_diagonal():
    alpha = np.zeros((300, 400), np.uint8)
    alpha[150, 200] = 255
    hole = Matte.from_full(alpha).hole(0.02)  # 2 % of 500 pixels
    assert hole[150, 200 - 10]
    assert hole[150 + 10, 200]
    assert not hole[150, 200 - 12]
    assert not hole[150 - 8, 200 - 8], "a disc, not a square"


def test_a_matte_of_another_shape_is_rejected():
    with pytest.raises(InputError, match=r"\(2, 2, 1\) uint8"):
        Matte.from_full(np.zeros((2, 2, 1), np.uint8))


@given(IMAGES, st.sampled_from(["raw", "png"]))
def test_lossless_codecs_preserve_every_pixel(image, codec):
    np.testing.assert_array_equal(decode_image(memoryview(encode_image(image, codec))), image)


def test_jpeg_keeps_colors_close_and_in_channel_order():
    image = np.zeros((32, 32, 3), np.uint8)
    image[...] = (200, 90, 20)
    assert np.abs(decode_image(encode_image(image, "jpeg")).astype(int) - image).max() <= 4


@pytest.mark.parametrize("data", [b"", b"junk", b"RAW3" + bytes(8) + b"x"])
def test_bytes_that_are_not_an_image_are_corrupt(data):
    with pytest.raises(CorruptEntry):
        decode_image(data)


@given(st.text(max_size=50), st.text(max_size=50))
def test_a_prompt_survives_encoding(text, negative):
    prompt = Prompt(text, negative, "llm")
    assert Prompt.from_bytes(prompt.to_bytes()) == prompt


@pytest.mark.parametrize("data", [b"", b"{}x", b"[1]", b'{"other": 1}'])
def test_bytes_that_are_not_a_prompt_are_corrupt(data):
    with pytest.raises(CorruptEntry):
        Prompt.from_bytes(data)


@given(st.binary(max_size=200))
def test_random_bytes_are_corrupt_and_never_crash(data):
    with pytest.raises(CorruptEntry):
        Matte.from_bytes(data)


@given(st.binary(max_size=300))
def test_an_entry_preserves_payload_and_provenance(payload):
    entry = Entry(seal(payload, {"seed": 7, "caption": "ä"}))
    assert bytes(entry.payload) == payload
    assert entry.provenance == {"seed": 7, "caption": "ä"}


@given(st.binary(max_size=60), st.data())
def test_any_flipped_bit_is_detected(payload, data):
    entry = bytearray(seal(payload, {"seed": 7}))
    position = data.draw(st.integers(0, len(entry) - 1))
    entry[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptEntry):
        Entry(bytes(entry))


@given(st.binary(max_size=60), st.data())
def test_any_truncation_is_detected(payload, data):
    entry = seal(payload, {"seed": 7})
    with pytest.raises(CorruptEntry):
        Entry(entry[: data.draw(st.integers(0, len(entry) - 1))])


@pytest.mark.parametrize(
    ("at_least", "expected"), [((0, 0), (96, 128)), ((96, 128), (96, 128)), ((40, 64), (48, 64)), ((49, 10), (96, 128))]
)
def test_a_jpeg_is_decoded_at_half_size_if_that_is_enough(at_least, expected):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8), (0, 0), 6)
    small = decode_image(encode_image(image, "jpeg", 95), at_least)
    assert small.shape[:2] == expected
    wanted = cv2.resize(image, expected[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - wanted).max() <= 8
