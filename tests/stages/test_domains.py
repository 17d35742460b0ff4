"""Pictures that are no landscapes: what their prompts say, and how classic changes them."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from augment.artifacts import Image, Matte, Prompt
from augment.errors import RecipeError, UnavailableError
from augment.imaging.aperture import round_field
from augment.imaging.light import Grade, find_lights, is_gray, relight
from augment.models.chat import Chat
from augment.recipe import Recipe
from augment.stages.base import Item
from augment.stages.caption.measured import describe
from augment.stages.generate.resynthesis import Resynthesis
from augment.stages.refine import domains
from augment.stages.refine.llm import messages, refine
from augment.stages.refine.templates import Templates, plan

CAPTIONS = {
    "a close up of a microscope showing a small amount of water": "microscopy",
    "a brown and blue stained tissue sample under a microscope": "microscopy",
    "a fluorescence microscopy image of green cells on a black background": "microscopy",
    "red blood cells seen through a microscope, like a foggy sky": "microscopy",
    "an x-ray of a chest": "radiology",
    "a black and white x ray of a hand at night": "radiology",
    "a CT scan of a brain": "radiology",
    "an ultrasound image of a baby, a beach at sunset": "radiology",
    "a fundus photograph of a retina": "clinical",
    "an aerial view of a city": "aerial",
    "a satellite image of fields at sunset": "aerial",
    "a drone shot of a forest": "aerial",
    "a thermal image of a person in a street": "thermal",
    "an infrared image with a red and yellow spot": "thermal",
    "a metal part on a conveyor belt": "conveyor",
    "a close up of a circuit board": "conveyor",
    "a coral reef with small fish": "underwater",
    "a scanned page with black text": "document",
    "a drawing of a house under a cloudy sky": "document",
    "a white studio background": "studio",
    "a shoe on a plain grey background": "studio",
}
WEATHER = (
    r"sk(?:y|ies)|cloudy|fog\w*|mist\w*|snow\w*|rain\w*|storm\w*|wind-packed|sunset|dusk|dawn|moonlight|golden hour"
    r"|blue hour"
)
LANDSCAPE = r"meadow|lawn|lake|beach\w*|hills?|forest floor|grass\w*|sand|dunes|horizon|landscape|street|wild flowers"
CAMERA = r"wide shot|eye level|\d+ mm|snapshot|viewpoint|depth of field|film grain|bokeh"
SHOWS = {"aerial": "landscape", "underwater": "landscape"}  # ground or bottom is what they are of


def templates(caption: str, variants: int = 24, **settings: object) -> list[Prompt]:
    stage = Recipe.load("classic").changed({"refine": {"backend": "templates", **settings}}).stages["refine"]
    return list(
        stage(captions=[caption] * variants, groups=[None] * variants, variants=range(variants), seeds=[7] * variants)
    )


@pytest.mark.parametrize(("caption", "domain"), CAPTIONS.items())
def test_no_prompt_speaks_of_weather_landscape_or_camera_where_the_domain_has_none(caption: str, domain: str) -> None:
    prompts = templates(caption)
    assert {prompt.domain for prompt in prompts} == {domain}
    words = [WEATHER, CAMERA] + ([] if domain in SHOWS else [LANDSCAPE])
    wrong = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)
    for prompt in prompts:
        assert not wrong.search(prompt.text), prompt.text
        assert prompt.grade is not None
    assert len({prompt.text for prompt in prompts}) > 15


@pytest.mark.parametrize(
    ("caption", "domain"),
    [
        ("a microscope on a table in a laboratory", "photograph"),
        ("an x-ray machine in a hospital room", "photograph"),
        ("a cat on a sofa in a studio apartment", "photograph"),
        ("a plate of food on a table", "photograph"),
        ("a close up of a flower", "close-up"),
        ("", "photograph"),
    ],
)
def test_a_place_is_not_taken_for_what_an_instrument_sees(caption: str, domain: str) -> None:
    assert plan(caption, None, 0, 7).domain.name == domain


def test_the_time_of_day_leaves_a_caption_of_which_the_rest_stays() -> None:
    (prompt,) = templates("a satellite image of fields at sunset", 1)
    assert prompt.text.startswith("a satellite image of fields, ")


def test_the_instrument_leaves_the_caption_and_what_it_shows_stays() -> None:
    (prompt,) = templates("a close up of a microscope showing a small amount of water", 1)
    assert prompt.text.startswith("a small amount of water, ")
    assert "micrograph" in prompt.text


def rgb(name: str) -> Image:
    image = np.asarray(getattr(data, name)())
    return np.ascontiguousarray(np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3])


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("immunohistochemistry", "microscopy"),
        ("cell", "monochrome"),
        ("microaneurysms", "monochrome"),
        ("retina", "clinical"),
        ("page", "document"),
        ("astronaut", "photograph"),
        ("coffee", "photograph"),
        ("rocket", "photograph"),
        ("chelsea", "photograph"),
    ],
)
def test_the_measured_captioner_tells_the_kind_of_picture(name: str, domain: str) -> None:
    assert plan(describe(rgb(name)), None, 0, 7).domain.name == domain


def test_plain_surrounds_and_color_maps_are_measured() -> None:
    white = np.full((200, 300, 3), 250, np.uint8)
    assert plan(describe(white), None, 0, 7).domain.name == "studio"
    smooth = cv2.GaussianBlur(np.random.default_rng(0).random((200, 300)), (0, 0), 20)
    smooth = ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)
    inferno = cv2.cvtColor(cv2.applyColorMap(smooth, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    assert plan(describe(inferno), None, 0, 7).domain.name == "thermal"


def classic(image: Image, variants: int = 4, caption: str | None = None) -> list[Image]:
    alpha = np.zeros(image.shape[:2], np.uint8)
    height, width = alpha.shape
    alpha[2 * height // 5 : 3 * height // 5, 2 * width // 5 : 3 * width // 5] = 255
    prompts = templates(describe(image) if caption is None else caption, variants)
    return list(
        Resynthesis()(
            prompts=prompts,
            plates=[image] * variants,
            mattes=[Matte.from_full(alpha)] * variants,
            seeds=range(variants),
        )
    )


def test_classic_leaves_gray_instruments_gray_and_in_their_range() -> None:
    image = rgb("microaneurysms")
    for background in classic(image, 6):
        assert is_gray(background)
        assert abs(float(background.mean()) - float(image.mean())) < 45


def test_classic_stains_tissue_and_leaves_glass_white() -> None:
    image = cv2.resize(rgb("immunohistochemistry"), (192, 192), interpolation=cv2.INTER_AREA)
    for background in classic(image, 7):
        assert background.reshape(-1, 3).max(axis=0).min() > 215
        red, _, blue = background.reshape(-1, 3).mean(axis=0)
        assert -5 < red - blue < 60  # neither dusk nor lamp light


def test_classic_keeps_a_round_field_where_it_is() -> None:
    image = cv2.resize(rgb("retina"), (256, 256), interpolation=cv2.INTER_AREA)
    field = round_field(image)
    assert field is not None
    for background in classic(image):
        moved = round_field(background)
        assert moved is not None
        assert (moved != field).mean() < 0.04
    for name in ("astronaut", "coffee", "rocket", "chelsea", "immunohistochemistry"):
        assert round_field(rgb(name)) is None


def test_each_light_of_the_table_is_found_by_its_own_phrase_and_does_something() -> None:
    table = domains.load()
    tissue = cv2.resize(rgb("immunohistochemistry"), (96, 96), interpolation=cv2.INTER_AREA)
    for name in table.own_lights:
        light = table.lights[name]
        assert light in find_lights(f"tissue {light.phrase}, micrograph", [light])
        assert np.abs(relight(tissue, "", 1, light.grade).astype(int) - tissue).mean() > 1


def test_more_hematoxylin_darkens_blue_nuclei_and_not_brown_ones() -> None:
    nucleus, brown, glass = (
        np.full((40, 40, 3), color, np.uint8) for color in ((110, 120, 170), (140, 90, 50), (250,) * 3)
    )
    lit = [relight(one, "", 0, Grade(stain=(1.6, 1.0, 1.0))).mean() - one.mean() for one in (nucleus, brown, glass)]
    assert lit[0] < -15
    assert lit[0] < lit[1] - 8
    assert abs(lit[2]) < 8


# Language models


def says(answer: str) -> Chat:
    return lambda messages, seed=0: answer


def test_a_language_model_is_told_what_the_instrument_sees() -> None:
    scene = plan("an x-ray of a chest", "tumor", 0, 7)
    system, user = (message["content"] for message in messages(scene, "tumor"))
    assert "medical images" in system
    assert "no tumor" in system
    assert "scenery only" not in system
    assert scene.light is not None
    assert scene.light.phrase in user


def test_an_answer_about_the_weather_is_not_used_for_an_instrument() -> None:
    caption = "an x-ray of a chest"
    some = refine(says("Soft tissue fades to black. The sky is cloudy at dusk."), caption, None, 0, 7)
    assert some.text.startswith("Soft tissue fades to black, ")
    assert "sky" not in some.text
    none = refine(says("A wide lake lies under a cloudy sky."), caption, None, 0, 7)
    assert none.origin == "template (the answer speaks of what radiology does not show)"


# The user's say


def test_the_user_s_words_come_before_the_table_s() -> None:
    (prompt,) = templates(
        "a lawn", 1, prefix="macro", suffix="4k", negative="rust", surroundings=["wet moss"], lights=["fog"]
    )
    assert prompt.text.startswith("macro, a lawn, wet moss, in drifting fog, ")
    assert prompt.text.endswith(", 4k")
    assert prompt.negative == "rust"
    assert [prompt.grade for prompt in templates("a lawn", 1, lights=[])] == [None]
    assert not find_lights(templates("a lawn", 1, lights=[])[0].text)
    (own,) = templates("a lawn", 1, lights=["in the glow of a furnace"])
    assert "in the glow of a furnace" in own.text
    assert templates("a lawn", 1, domain="aerial")[0].domain == "aerial"


def test_a_domain_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(RecipeError, match="'arial' is not one of.*aerial"):
        templates("a lawn", 1, domain="arial")


OWN = """
[lights."second laser"]
phrase = "with the second laser on"
stops = 0.3

[domains.welding]
words = ["weld seams?"]
closed = true
never = ["weather"]
surroundings = ["a brushed steel plate"]
lights = ["second laser", "higher gain"]
endings = ["weld inspection image"]
negative = "sparks"
instructions = "Describe the plate{object}."
question = "Describe {scene} {light}."

[domains.studio]
endings = ["catalog image"]
"""


def test_a_file_of_the_user_s_extends_the_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    prompts = templates("a weld seam on a plate", 2, domains=str(path))
    assert {prompt.domain for prompt in prompts} == {"welding"}
    assert all(prompt.text.endswith("weld inspection image") for prompt in prompts)
    assert {"stops": 0.3} in [prompt.grade for prompt in prompts]
    (studio,) = templates("a white background", 1, domains=str(path))
    assert studio.text.endswith("catalog image")
    stage = Templates(domains=str(path))
    before = stage.reads(Item(None, "0" * 32))
    path.write_text(OWN + "# changed")
    assert Templates(domains=str(path)).reads(Item(None, "0" * 32)) != before != Templates().reads(Item(None, "0" * 32))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[domains.x", "not TOML"),
        ("[other]", "no such table: 'other'"),
        ("[domains.studio]\nlamps = 1", "domains.studio: no such field: 'lamps'"),
        ('[domains.studio]\nnever = ["cats"]', "no such topic: 'cats'"),
        ('[domains.studio]\nlights = ["laser"]', "no such light: 'laser'"),
        ('[domains.studio]\nwords = ["(a"]', "is not a pattern"),
        ('[lights.a]\nblur = "much"', r"lights\.a\.blur"),
        ("[domains.new]\nclosed = true", "domains.new.surroundings: .*required"),
    ],
)
def test_an_error_in_the_user_s_file_names_the_field(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=f"mine.toml: .*{words}"):
        Templates(domains=str(path)).check()


def test_a_file_that_is_not_there_is_said_before_the_work() -> None:
    with pytest.raises(UnavailableError, match=r"nowhere\.toml: cannot be read"):
        Templates(domains="nowhere.toml").check()
