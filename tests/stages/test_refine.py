"""Prompts from templates, and what becomes of a language model's answer."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest

from augment.artifacts import Prompt
from augment.imaging.light import LIGHTS, find_lights
from augment.models.chat import Message
from augment.stages.refine.llm import refine
from augment.stages.refine.templates import Templates, plan
from augment.stages.text import class_pattern, clean_answer, clip_tokens, cut

MEASURED = (
    "a bright pale blue upper part over a dark green lower part, in cool light, rich coarse texture, in sharp focus"
)
CAPTIONS = ("a dog on a beach", "a bathroom with a toilet and a sink", "two cars parked on a street", "", MEASURED)


def templates(caption: str, group: str | None = None, variants: int = 1, seed: int = 7) -> list[Prompt]:
    return Templates()(
        captions=[caption] * variants, groups=[group] * variants, variants=range(variants), seeds=[seed] * variants
    )


# Templates


@pytest.mark.parametrize("caption", CAPTIONS)
def test_variants_name_different_lights_until_all_that_fit_are_used(caption: str) -> None:
    named = [find_lights(prompt.text) for prompt in templates(caption, variants=6)]
    assert all(len(lights) == 1 for lights in named)
    assert len({lights[0].name for lights in named}) == 6


@pytest.mark.parametrize("caption", CAPTIONS)
def test_no_prompt_comes_twice_among_many_variants(caption: str) -> None:
    assert len({prompt.text for prompt in templates(caption, variants=60)}) == 60


@pytest.mark.parametrize("caption", [*CAPTIONS, "a very long tale of a place " * 30])
def test_prompts_fit_the_text_encoder(caption: str) -> None:
    for prompt in templates(caption, "golden_retriever", variants=30):
        assert clip_tokens(prompt.text) <= 75
        assert clip_tokens(prompt.negative) <= 75
        assert len(prompt.text.split()) < 60


def test_a_prompt_depends_on_its_own_entry_alone() -> None:
    groups, variants, seeds = ["dog", None, "car", None, None], [0, 3, 1, 2, 5], [1, 2, 3, 4, 5]
    together = Templates()(captions=CAPTIONS, groups=groups, variants=variants, seeds=seeds)
    entries = zip(CAPTIONS, groups, variants, seeds, strict=True)
    assert together == [Templates()(captions=[c], groups=[g], variants=[v], seeds=[s])[0] for c, g, v, s in entries]


def test_images_with_one_caption_start_with_different_lights() -> None:
    first = {find_lights(templates("a lawn", seed=seed)[0].text)[0].name for seed in range(30)}
    assert len(first) > 5


def test_the_place_in_a_caption_stays_and_its_own_light_goes() -> None:
    for prompt in templates("two ducks on a frozen lake at sunset", variants=8):
        assert prompt.text.startswith("two ducks on a frozen lake, ")
        assert "sunset" not in prompt.text


@pytest.mark.parametrize(
    ("caption", "group", "start"),
    [
        ("a dog on a beach", "dog", "a beach, "),
        ("Two dogs playing in the snow", "Dog", "the snow, "),
        ("a golden retriever lying on a sofa, a red rug", "golden_retriever", "a sofa, a red rug, "),
        ("a hotdog on a plate", "dog", "a hotdog on a plate, "),
        ("a dog on a beach", "n02084071", "a dog on a beach, "),
    ],
)
def test_the_object_s_class_leaves_the_prompt_with_what_it_does(caption: str, group: str, start: str) -> None:
    assert templates(caption, group)[0].text.startswith(start)


def test_a_caption_of_nothing_but_the_object_still_gives_a_scene() -> None:
    prompt = templates("a close up of a cat", "cat")[0]
    assert "cat" not in prompt.text
    assert len(prompt.text.split(", ")) >= 3


@pytest.mark.parametrize(
    ("caption", "group"), [("a kitchen table", "bench"), ("a gravel bank", "Rocks"), ("a shore", "shell")]
)
def test_no_setting_brings_the_object_s_class_back(caption: str, group: str) -> None:
    pattern = class_pattern(group)
    assert pattern is not None
    assert not [prompt for prompt in templates(caption, group, variants=40) if pattern.search(prompt.text)]


def test_the_negative_prompt_names_the_class_where_it_is_known() -> None:
    assert templates("a lawn", "golden_retriever")[0].negative.startswith("golden retriever, ")
    for unknown in (None, "3", "n02084071", "class_12"):
        assert templates("a lawn", unknown)[0].negative.startswith("people, ")


def test_indoor_captions_get_no_open_sky_and_outdoor_ones_no_lamps() -> None:
    kinds = {light.name: light.kind for light in LIGHTS}
    for caption, wrong in (("a kitchen table", "outdoor"), ("a sandy beach", "indoor"), (MEASURED, "indoor")):
        names = {find_lights(prompt.text)[0].name for prompt in templates(caption, variants=30)}
        assert not {name for name in names if kinds[name] == wrong}


def test_a_measured_caption_becomes_a_place_of_its_colors_and_texture() -> None:
    for variant in range(20):
        scene = plan(MEASURED, None, variant, 3)
        assert "in pale blue and dark green tones, rich coarse texture" in scene.text
        assert "upper part" not in scene.text
        assert "cool light" not in scene.text


# Answers

SCENE = "A wide valley with pines. Low clouds hang over the ridge."


@pytest.mark.parametrize(
    "answer",
    [
        SCENE,
        f'"{SCENE}"',
        f"\N{LEFT DOUBLE QUOTATION MARK}{SCENE}\N{RIGHT DOUBLE QUOTATION MARK}",
        f"Sure, here is a description of the scene:\n\n{SCENE}",
        f'Certainly! Here\'s a refined prompt for your image generator:\n\n"{SCENE}"\n\nLet me know if you need more!',
        f"**Prompt:** {SCENE}",
        f"### Scene\n{SCENE}".replace("### Scene\n", "# "),
        f"Background: *{SCENE}*",
        f"1. {SCENE}\n2. A narrow street with shops and lamps in the old town of a small port.",
        f"{SCENE} {SCENE} {SCENE}",
        f"{SCENE} I hope this helps!",
        f"{SCENE}\n\nNote: the object was left out.",
        f"{SCENE} In the dista",
        f"<think>The user wants scenery.\nHm.</think>\n{SCENE}",
        f"{SCENE}<|im_end|>",
        f"The image shows a wide valley with pines. {SCENE.split('. ')[1]}",
        "A wide wide wide wide valley with pines. Low clouds hang over the ridge.",
    ],
)
def test_an_answer_is_freed_of_all_that_is_not_the_scene(answer: str) -> None:
    assert clean_answer(answer) == SCENE


def test_short_list_items_are_features_of_one_scene() -> None:
    assert (
        clean_answer("Here are some ideas:\n- tall pines\n- mossy ground\n* low fog\n")
        == "Tall pines, mossy ground, low fog"
    )


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "  \n ",
        "ok",
        "!!! ??? ###",
        "I'm sorry, but I can't help with that request.",
        "As an AI language model, I do not see images.",
        "the the the the the the the the",
        "A dog.",
        "The dogs run. A dog barks at the DOG.",
        "<think>and so on and so on",
        "12 34 56 78 {90} [12] ==== ----",
    ],
)
def test_an_answer_without_a_scene_is_none(answer: str) -> None:
    assert clean_answer(answer, "dog") is None


@pytest.mark.parametrize(
    ("answer", "group", "kept"),
    [
        ("Waves roll in. A dog runs along. The sky is grey.", "dog", "Waves roll in. The sky is grey."),
        ("Waves roll in. Dogs run along. The sky is grey.", "dog", "Waves roll in. The sky is grey."),
        ("Waves roll in. Two PEOPLE walk. The sky is grey.", "person", "Waves roll in. The sky is grey."),
        ("Waves roll in. Two buses pass. The sky is grey.", "bus", "Waves roll in. The sky is grey."),
        ("Rows of shops. A butterfly sits. Ferns grow.", "butterflies", "Rows of shops. Ferns grow."),
        ("Tall grass. A Golden-Retriever sits. Ferns grow.", "golden_retriever", "Tall grass. Ferns grow."),
        ("A dogwood tree by the water. Ferns grow.", "dog", "A dogwood tree by the water. Ferns grow."),
        ("A dog on a lawn, tall trees behind, its tail high, a pale sky", "dog", "Tall trees behind, a pale sky"),
    ],
)
def test_sentences_that_name_the_class_are_dropped(answer: str, group: str, kept: str) -> None:
    assert clean_answer(answer, group) == kept


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("mouse", "three mice"),
        ("leaf", "leaves"),
        ("box", "Boxes"),
        ("lorry", "lorries"),
        ("glass", "a glass"),
        ("dogs", "a dog"),
    ],
)
def test_a_class_is_found_in_its_plural_and_its_singular(group: str, text: str) -> None:
    pattern = class_pattern(group)
    assert pattern is not None
    assert pattern.search(text)


def test_a_long_answer_is_cut_at_a_sentence_or_a_clause() -> None:
    sentences = "A row of old stone houses stands along the quay, each with a painted door. "
    places = ("north", "south", "east", "west", "upper", "lower")
    answer = clean_answer(" ".join(sentences.replace("quay", f"{place} quay") for place in places))
    assert answer is not None
    assert answer.endswith("door.")
    assert 35 < clip_tokens(answer) <= 75
    clauses = ", ".join(
        f"a {place} wall of rough stone" for place in (*places, "far", "near", "high", "low", "old", "new")
    )
    assert re.fullmatch(r"(a \w+ wall of rough stone(, )?)+", cut(clauses, 40))
    assert 20 < clip_tokens(cut(clauses, 40)) <= 40
    assert clip_tokens(cut("pebble " * 200, 40)) == 40


def test_the_token_estimate_counts_long_words_digits_and_foreign_letters_as_several() -> None:
    assert clip_tokens("a dog on a beach, in fog") == 8  # CLIP's own count
    assert clip_tokens("heterogeneously") > 1
    assert clip_tokens("1920") == 4
    assert clip_tokens("\N{CJK UNIFIED IDEOGRAPH-5C71}") == 3


def test_a_hostile_answer_is_read_in_no_time() -> None:
    started = time.process_time()
    for answer in (
        "ab cd ef gh ij " * 4000 + "z",
        "a" * 100_000,
        "<think>" * 20_000,
        '"' * 50_000,
        "a, " * 40_000,
        "(" * 9_999,
    ):
        clean_answer(answer, "dog")
    assert time.process_time() - started < 5


# What both language model refiners share


def test_the_model_is_asked_for_scenery_without_the_class_and_in_the_variant_s_light() -> None:
    asked: list[Sequence[Message]] = []

    def chat(messages: Sequence[Message], seed: int = 0) -> str:
        asked.append(messages)
        return "Wet sand stretches to a row of low dunes."

    prompts = [refine(chat, "a dog on a beach", "dog", variant, 7) for variant in range(4)]
    for messages in asked:
        assert [message["role"] for message in messages] == ["system", "user"]
        assert "scenery only" in messages[0]["content"]
        assert "no dog" in messages[0]["content"]
        assert "beach" in messages[1]["content"]
        assert "dog" not in messages[1]["content"]
    assert len({messages[1]["content"] for messages in asked}) == 4
    assert len({find_lights(prompt.text)[0].name for prompt in prompts}) == 4  # although the answers are all alike
    assert all(prompt.origin == "llm" for prompt in prompts)
    assert all(prompt.negative.startswith("dog, ") for prompt in prompts)


def test_a_light_that_the_answer_already_names_is_not_named_again() -> None:
    light = plan("a beach", None, 0, 7).light
    prompt = refine(lambda messages, seed=0: f"Wet sand and dunes {light.phrase}.", "a beach", None, 0, 7)
    assert prompt.text.count(light.phrase) == 1


@pytest.mark.parametrize("answer", ["", "I'm sorry, I can't do that.", "A dog.", "loop " * 50])
def test_without_a_usable_answer_the_prompt_is_the_template_s_and_says_so(answer: str) -> None:
    prompt = refine(lambda messages, seed=0: answer, "a dog on a beach", "dog", 2, 7)
    (expected,) = Templates()(captions=["a dog on a beach"], groups=["dog"], variants=[2], seeds=[7])
    assert (prompt.text, prompt.negative) == (expected.text, expected.negative)
    assert prompt.origin == "template (nothing usable in the answer)"


def test_a_model_s_prompt_fits_the_text_encoder_with_its_light() -> None:
    answer = " ".join(f"A row of number{chr(97 + n)} stone houses stands along the quay." for n in range(20))
    for variant in range(12):
        assert clip_tokens(refine(lambda messages, seed=0: answer, "a quay", None, variant, 1).text) <= 75
