"""New backgrounds made only from visible pixels: their contents, their differences, and the supported sizes."""

import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest

from augment.artifacts import Matte, Prompt
from augment.errors import ItemFailed
from augment.imaging import quilting
from augment.imaging.patches import Patch, PatchCosts, choose_patches, shrink
from augment.imaging.seams import join_patches
from augment.stages.generate.resynthesis import Resynthesis

MAGENTA = (255, 0, 255)
COSTS = PatchCosts(window=0.5, noise=25.0, stay=60.0)


def landscape(height: int = 120, width: int = 160, seed: int = 0) -> np.ndarray:
    """A blue sky over a rough green ground; no pixel is anywhere near magenta."""
    rng = np.random.default_rng(seed)
    image = np.empty((height, width, 3), np.float32)
    image[: height // 2] = (90, 130, 220)
    image[height // 2 :] = (70, 140, 50)
    return np.clip(image + cv2.GaussianBlur(rng.normal(0, 60, image.shape), (0, 0), 1.5), 0, 255).astype(np.uint8)


def ellipse(height: int, width: int, ry: float = 0.3, rx: float = 0.25) -> np.ndarray:
    """An alpha `(H, W)` with an ellipse in the middle; radii are shares of the height and of the width."""
    matte = np.zeros((height, width), np.uint8)
    cv2.ellipse(matte, (width // 2, height // 2), (int(rx * width), int(ry * height)), 0, 0, 360, 255, -1)
    return matte


def painted(height: int = 120, width: int = 160, ry: float = 0.3, rx: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """The landscape with a magenta ellipse in front of it, and its matte."""
    image, alpha = landscape(height, width), ellipse(height, width, ry, rx)
    image[alpha > 0] = MAGENTA
    return image, alpha


def magenta_pixels(image: np.ndarray) -> int:
    red, green, blue = np.moveaxis(image.astype(int), 2, 0)
    return int(((red - green > 60) & (blue - green > 60)).sum())


def make(image: np.ndarray, alpha: np.ndarray, seed: int = 1, text: str = "") -> np.ndarray:
    made = Resynthesis()(prompts=[Prompt(text)], plates=[image], mattes=[Matte.from_full(alpha)], seeds=[seed])[0]
    assert isinstance(made, np.ndarray)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_no_pixel_of_the_object_is_in_the_background(seed):
    image, alpha = painted()
    visible = alpha == 0
    assert magenta_pixels(quilting.resynthesize(image, visible, COSTS, np.random.default_rng(seed))) == 0


def test_what_the_plate_shows_behind_the_object_does_not_matter():
    image, alpha = painted()
    other = image.copy()
    other[alpha > 0] = (10, 250, 10)
    np.testing.assert_array_equal(make(image, alpha), make(other, alpha))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (61, 200), (240, 97), (129, 128)])
def test_the_background_has_the_plates_own_size(size):
    made = make(*painted(*size))
    assert made.shape == (*size, 3)
    assert made.dtype == np.uint8
    assert magenta_pixels(made) == 0


def test_a_large_image_is_filled_with_sharp_pixels():
    image, alpha = painted(1500, 2000)
    made = quilting.resynthesize(image, alpha == 0, COSTS, np.random.default_rng(3))
    assert made.shape == image.shape
    assert magenta_pixels(made) == 0
    sharpness = [cv2.Laplacian(picture[1200:], cv2.CV_32F).std() for picture in (made, landscape(1500, 2000))]
    assert sharpness[0] > 0.8 * sharpness[1]


@pytest.mark.parametrize("size", [(64, 64), (150, 220)])
def test_it_works_when_the_object_covers_almost_everything(size):
    image, alpha = painted(*size)
    alpha[:] = 255
    alpha[: size[0] // 4, : size[1] // 3] = 0
    image[alpha > 0] = MAGENTA
    made = quilting.resynthesize(image, alpha == 0, COSTS, np.random.default_rng(5))
    assert magenta_pixels(made) == 0


def test_a_single_visible_pixel_is_enough():
    image, visible = np.full((70, 300, 3), 255, np.uint8), np.zeros((70, 300), bool)
    image[:] = MAGENTA
    image[30, 200], visible[30, 200] = (20, 90, 30), True
    made = quilting.resynthesize(image, visible, COSTS, np.random.default_rng(0))
    assert np.abs(made.astype(int) - (20, 90, 30)).max() <= 4


def test_an_image_without_a_visible_pixel_fails_with_a_clear_message():
    image, alpha = painted()
    alpha[:] = 255
    result = Resynthesis()(prompts=[Prompt("")], plates=[image], mattes=[Matte.from_full(alpha)], seeds=[1])[0]
    assert isinstance(result, ItemFailed)
    assert "no visible pixel" in str(result)


def test_a_gray_image_stays_gray_before_relighting():
    image, alpha = painted()
    image = np.repeat(image[..., 1:2], 3, axis=2)
    made = quilting.resynthesize(image, alpha == 0, COSTS, np.random.default_rng(2)).astype(int)
    assert np.ptp(made, axis=2).max() <= 1


@pytest.mark.parametrize("seed", range(3))
def test_the_sky_stays_above_the_ground(seed):
    image, alpha = painted()
    made = quilting.resynthesize(image, alpha == 0, COSTS, np.random.default_rng(seed)).astype(int)
    sky = made[..., 2] > made[..., 1]
    assert sky[:40].mean() > 0.95
    assert sky[-40:].mean() < 0.05


def test_different_seeds_give_clearly_different_images():
    image = landscape()
    image[:, :, 0] = np.linspace(0, 255, image.shape[1], dtype=np.uint8)  # where a pixel comes from shows
    alpha = ellipse(*image.shape[:2])
    made = [quilting.resynthesize(image, alpha == 0, COSTS, np.random.default_rng(s)).astype(int) for s in range(4)]
    differences = [np.abs(a - b).mean() for i, a in enumerate(made) for b in made[i + 1 :]]
    assert min(differences) > 10
    assert min(np.abs(picture - image).mean() for picture in made) > 10


def test_the_same_seed_gives_the_same_bytes_in_any_batch_and_thread():
    stage = Resynthesis()
    scenes = [painted(), painted(90, 90, 0.4, 0.2), painted(60, 130)]
    items = [(Prompt("at dusk"), image, Matte.from_full(alpha), 7 + i) for i, (image, alpha) in enumerate(scenes)]
    names = ("prompts", "plates", "mattes", "seeds")
    together = stage(**dict(zip(names, zip(*items, strict=True), strict=True)))
    alone: dict[int, np.ndarray] = {}

    def one(index: int) -> None:
        alone[index] = stage(**{name: [value] for name, value in zip(names, items[index], strict=True)})[0]

    threads = [threading.Thread(target=one, args=(index,)) for index in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, picture in enumerate(together):
        np.testing.assert_array_equal(picture, alone[index])


def test_the_prompt_changes_the_light():
    image, alpha = painted()
    day, night = make(image, alpha, text="at noon, bright light"), make(image, alpha, text="at night, dark")
    assert night.mean() < day.mean()


def test_inputs_are_not_changed():
    image, alpha = painted()
    before = image.copy()
    make(image, alpha)
    np.testing.assert_array_equal(image, before)


def test_a_step_in_light_at_a_seam_is_evened_out():
    dark, light = np.full((64, 64, 3), 100, np.uint8), np.full((64, 64, 3), 110, np.uint8)
    halves = [np.zeros((64, 64), bool), np.zeros((64, 64), bool)]
    halves[0][:, :32], halves[1][:, 32:] = True, True
    everywhere, nowhere = np.ones((64, 64), bool), np.zeros((64, 64), bool)
    patches = [Patch(i, 0, 0, 0, 0, half) for i, half in enumerate(halves)]
    made = join_patches([dark, light], [everywhere] * 2, patches, dark, nowhere, reach=0.25).astype(int)
    assert np.abs(np.diff(made[:, :, 0], axis=1)).max() <= 3
    assert made[:, 0].mean() < 103
    assert made[:, -1].mean() > 107


def test_patches_cover_the_canvas_and_use_only_known_pixels():
    image, alpha = painted()
    source = shrink(image, alpha == 0)
    nothing = np.zeros_like(source.known)
    canvas = replace(source, known=nothing, fixed=nothing)
    taken = np.zeros(source.known.shape, bool)
    for patch in choose_patches([source], canvas, COSTS, np.random.default_rng(0)):
        rows, columns = np.nonzero(patch.mask)
        rows, columns = rows + patch.top, columns + patch.left
        assert source.known[rows + patch.dy, columns + patch.dx].all()
        taken[rows, columns] = True
    assert taken.mean() > 0.97
