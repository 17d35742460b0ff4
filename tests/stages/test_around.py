"""Backgrounds that belong to the object: image-to-image from the plate, and inpainting around the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from augment import Cache, prewarm
from augment.artifacts import Image, Matte, Prompt, Rejected
from augment.imaging.composite import composite
from augment.models.diffusion_loading import Runtime
from augment.recipe import Recipe
from augment.stages.base import IMAGE, given_by_kind
from augment.stages.generate import Generator
from augment.stages.generate.around import Around, growth
from augment.stages.generate.diffusers import Diffusers
from augment.stages.generate.img2img import ImageToImage
from augment.stages.inpaint.opencv import Telea
from augment.stages.kinds import find_backend
from augment.stages.remove import Remover
from augment.testing.pictures import write_folder
from augment.testing.tiny_diffusion import tiny_inpaint, tiny_sd_turbo, tiny_stable_diffusion
from tests import simple

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

CPU = Runtime(device="cpu")
PROMPT = Prompt("a grey road in the fog", "people")


@dataclass(frozen=True)
class Wide(Remover):
    """Finds the matte of the test's object, `more` pixels wider."""

    backend: ClassVar[str] = "wide"

    more: int = 0

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[Matte]:
        return [_object(*image.shape[:2], self.more) for image in images]


def _object(height: int, width: int, more: int = 0) -> Matte:
    alpha = np.zeros((height, width), np.uint8)
    cv2.circle(alpha, (width // 2, height // 2), 18 + more, 255, -1, cv2.LINE_AA)
    return Matte.from_full(alpha)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_inpaint(tmp_path_factory.mktemp("inpaint"))


@pytest.fixture(scope="module")
def image() -> Image:
    return np.random.default_rng(0).integers(0, 256, (96, 120, 3), dtype=np.uint8)


def _around(model: Path, more: int = 0, **settings: Any) -> Around:
    return Around(str(model), steps=2, remover=Wide(more), inpainter=Telea(grow=0.0), runtime=CPU, **settings)


def _call(stage: Around, image: Image, seed: int = 1) -> Any:
    matte = _object(*image.shape[:2])
    (result,) = stage(images=[image], prompts=[PROMPT], plates=[image], mattes=[matte], seeds=[seed])
    return result


@pytest.mark.parametrize("of_inpainting", [True, False], ids=["inpainting model", "text-to-image model"])
def test_around_keeps_the_objects_own_pixels_and_paints_the_rest(
    of_inpainting: bool, inpainting: Path, plain: Path, image: Image
) -> None:
    stage = _around(inpainting if of_inpainting else plain)
    background, matte = _call(stage, image), _object(*image.shape[:2])
    assert background.shape == image.shape
    inside = matte.uncropped() == 255
    result = composite(image, matte, background)
    np.testing.assert_array_equal(result[inside], image[inside])
    outside = ~matte.hole(0.02)
    assert np.abs(background.astype(int) - image)[outside].mean() > 20
    assert np.abs(background.astype(int) - image)[inside].mean() > 5, "a background is without its object"
    np.testing.assert_array_equal(_call(stage, image), background)
    assert (_call(stage, image, seed=2) != background).any()


def test_around_is_the_same_in_any_batch(inpainting: Path, image: Image) -> None:
    stage, matte = _around(inpainting), _object(*image.shape[:2])
    given = {"images": [image, 255 - image], "prompts": [PROMPT] * 2, "plates": [image] * 2}
    _, second = stage(**given, mattes=[matte] * 2, seeds=[1, 2])
    alone = _call(stage, 255 - image, seed=2)
    assert isinstance(second, np.ndarray)
    assert np.abs(second.astype(int) - alone).max() <= 2


def test_around_rejects_an_object_that_has_grown(inpainting: Path, image: Image) -> None:
    assert isinstance(_call(_around(inpainting, more=1), image), np.ndarray)
    grown = _call(_around(inpainting, more=12), image)
    assert isinstance(grown, Rejected)
    assert "grown around" in grown.reason
    assert isinstance(_call(_around(inpainting, more=12, max_growth=0.3), image), np.ndarray)
    assert isinstance(_call(_around(inpainting, more=12, max_growth=1.0), image), np.ndarray)


def test_growth_is_what_hangs_together_with_the_object() -> None:
    before, alpha = _object(96, 120), _object(96, 120).uncropped()
    alpha[5:15, 5:25] = 255  # another thing, apart from it
    assert growth(before, Matte.from_full(alpha)) == 0
    assert growth(before, before) == 0
    alpha[48:58, 60:110] = 255  # an arm
    assert 0.01 < growth(before, Matte.from_full(alpha)) < 0.05


def test_image_to_image_follows_the_plate_by_its_strength(plain: Path) -> None:
    plate = np.zeros((64, 64, 3), np.uint8)
    plate[:, 32:] = 255
    stage = ImageToImage(str(plain), steps=8, runtime=CPU)
    pictures = [
        replace(stage, strength=strength)(prompts=[PROMPT], plates=[plate], seeds=[1])[0] for strength in (0.13, 0.95)
    ]
    other = stage(prompts=[PROMPT], plates=[255 - plate], seeds=[1])[0]
    weak, strong = pictures
    assert isinstance(weak, np.ndarray)
    assert weak.shape == plate.shape
    assert np.abs(weak.astype(int) - strong).mean() > 3
    assert np.abs(other.astype(int) - stage(prompts=[PROMPT], plates=[plate], seeds=[1])[0]).mean() > 1


def test_image_to_image_of_a_distilled_model_runs_at_least_one_step(tmp_path: Path) -> None:
    stage = ImageToImage(str(tiny_sd_turbo(tmp_path)), strength=0.1, runtime=CPU)
    (picture,) = stage(prompts=[PROMPT], plates=[np.full((64, 64, 3), 99, np.uint8)], seeds=[1])
    assert isinstance(picture, np.ndarray)


def test_only_a_generator_that_names_the_images_is_given_them() -> None:
    assert IMAGE in given_by_kind(Around).values()
    assert IMAGE not in given_by_kind(Diffusers).values()
    assert {find_backend(Generator, name) for name in ("img2img", "around")} == {ImageToImage, Around}


def test_around_is_a_table_of_a_recipe_with_its_remover_and_inpainter_inside() -> None:
    recipe = Recipe.load("sd15").changed(
        {"generate": {"backend": "around", "max_growth": 0.05, "remover": {"backend": "rembg"}}}
    )
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.fingerprints() == recipe.fingerprints()
    assert set(recipe.all_stages) >= {"generate.remover", "generate.inpainter"}


def test_a_prewarm_decodes_the_images_again_for_it(inpainting: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 2)
    stage = Around(str(inpainting), steps=1, max_growth=1.0, inpainter=Telea(grow=0.0), runtime=CPU)
    recipe = simple.recipe().changed({"generate": stage})
    report = prewarm(tmp_path / "images", Cache(tmp_path / "cache"), recipe, variants=2, workers=0, progress=False)
    assert not report.failures
    assert (report.stages["generate"].computed, report.complete) == (4, 2)
