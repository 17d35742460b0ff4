"""Image keys: the same pixels give the same key in any form, and different pixels do not."""

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812

from augment.errors import InputError
from augment.keys import image_key, to_rgb

RGB = np.random.default_rng(0).integers(0, 256, (7, 11, 3), np.uint8)
GRAY = RGB[..., 0].copy()


def forms(pixels):
    image = PIL.Image.fromarray(pixels)
    tensor = F.pil_to_tensor(image)
    floats = F.to_dtype(tensor, torch.float32, scale=True)
    return {
        "array": pixels,
        "fortran array": np.asfortranarray(pixels),
        "pil": image,
        "tensor": tensor,
        "contiguous tensor": tensor.contiguous(),
        "tv_tensor": tv_tensors.Image(tensor),
        "float": floats,
        "double": floats.double(),
        "half": floats.half(),
        "float array": floats.numpy().transpose(1, 2, 0),
        "uint16": pixels.astype(np.uint16) << 8 | 7,
        "uint16 tensor": F.to_dtype(tensor, torch.uint16, scale=True),
    }


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_every_form_of_an_image_has_the_same_key(pixels):
    keys = {name: image_key(form) for name, form in forms(pixels).items()}
    assert set(keys.values()) == {image_key(pixels)}, keys


def test_a_key_is_32_hex_digits_and_never_changes():
    assert image_key(np.arange(27, dtype=np.uint8).reshape(3, 3, 3)) == "920aa341faeff02cfaab3fc2f0e63614"


def test_the_shape_is_part_of_the_key():
    flat = np.zeros((4, 6, 3), np.uint8)
    assert len({image_key(flat), image_key(flat.reshape(6, 4, 3)), image_key(flat.reshape(2, 12, 3))}) == 3


def test_a_single_changed_value_changes_the_key():
    other = RGB.copy()
    other[6, 10, 2] ^= 1
    assert image_key(other) != image_key(RGB)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_are_converted_as_pil_does(mode):
    image = PIL.Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(to_rgb(image), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_in_all_forms():
    rgba = np.dstack([RGB, GRAY])
    tensor = torch.from_numpy(rgba).permute(2, 0, 1)
    assert image_key(PIL.Image.fromarray(rgba)) == image_key(rgba) == image_key(tensor) == image_key(RGB)


def test_grayscale_is_repeated_in_all_forms():
    expected = image_key(np.repeat(GRAY[..., None], 3, axis=2))
    forms_of_gray = PIL.Image.fromarray(GRAY), GRAY, GRAY[..., None], torch.from_numpy(GRAY)[None]
    assert [image_key(form) for form in forms_of_gray] == [expected] * 4


def test_only_the_top_8_bits_of_16_are_used():
    values = GRAY.astype(np.uint16) * 257
    image = PIL.Image.fromarray(values)
    assert image.mode == "I;16"
    np.testing.assert_array_equal(to_rgb(image)[..., 0], GRAY)
    np.testing.assert_array_equal(to_rgb(image.convert("I"))[..., 0], GRAY)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("photo.jpg", "not an image: str"),
        (np.zeros((3, 4, 5, 3), np.uint8), r"\(3, 4, 5, 3\)"),
        (np.zeros((3, 4, 2), np.uint8), r"\(3, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), "without pixels"),
        (np.zeros((3, 4, 3), np.int32), "int32"),
        (torch.zeros(5, 8, 8), r"\(5, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), r"\(2, 3, 8, 8\)"),
        (PIL.Image.new("F", (4, 4)), "mode F"),
        (PIL.Image.fromarray(np.full((4, 4), 70000, np.int32)), "outside 0 … 65535"),
    ],
)
def test_anything_else_is_rejected_with_its_type_or_shape(image, message):
    with pytest.raises(InputError, match=message):
        image_key(image)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (64, 48), (2500, 1700)])  # the last one spans several memory blocks
def test_pillow_pixels_are_read_exactly_through_arrow(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image = PIL.Image.fromarray(pixels)
    turned = image.transpose(PIL.Image.Transpose.ROTATE_90)
    found, found_turned = to_rgb(image), to_rgb(turned)
    del image, turned  # frees their memory
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(found_turned, np.rot90(pixels))
