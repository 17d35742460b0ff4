"""Prompts of the user's own, a fixed caption, and what the report says of prompts that a template replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from augment.artifacts import PROMPT, Prompt
from augment.errors import RecipeError, UnavailableError
from augment.prewarming.report import Report, StageReport
from augment.recipe import Recipe
from augment.stages.base import Item
from augment.stages.caption.fixed import Fixed
from augment.stages.refine.prompts import Prompts

MINE = ("a lab bench", "a steel shelf", "a windowsill in fog")


def ask(
    stage: Prompts, variants: int, caption: str = "a lawn", seed: int = 1, group: str | None = None
) -> list[Prompt]:
    return stage(
        captions=[caption] * variants, groups=[group] * variants, variants=range(variants), seeds=[seed] * variants
    )


def test_every_image_walks_through_all_prompts_before_one_is_repeated() -> None:
    texts = [prompt.text for prompt in ask(Prompts(prompts=MINE), 6)]
    assert sorted(texts[:3]) == sorted(MINE)
    assert texts[3:] == texts[:3]
    assert len({ask(Prompts(prompts=MINE), 1, seed=seed)[0].text for seed in range(20)}) == 3


def test_prompts_come_from_a_file_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# mine\na lab bench\n\n a steel shelf \n")
    stage = Prompts(file=str(path), prefix="empty", negative="rust")
    prompts = ask(stage, 2, group="dog")
    assert {prompt.text for prompt in prompts} == {"empty, a lab bench", "empty, a steel shelf"}
    assert prompts[0].negative == "dog, rust"
    before = stage.reads(Item(None, "0" * 32))
    path.write_text("a kitchen\n")
    assert Prompts(file=str(path)).reads(Item(None, "0" * 32)) != before


def test_the_caption_can_be_part_of_a_prompt() -> None:
    (prompt,) = ask(Prompts(prompts=("an oil-stained {caption}",)), 1, "a dog on a workbench", group="dog")
    assert prompt.text == "an oil-stained a workbench"


def test_a_prompt_for_an_instrument_brings_its_grade() -> None:
    stage = Prompts(prompts=("stained tissue with stronger hematoxylin, micrograph",))
    (prompt,) = ask(stage, 1)
    assert (prompt.domain, prompt.grade) == ("microscopy", {"stain": [1.45, 1.0, 1.0]})
    (plain,) = ask(Prompts(prompts=("a bench in fog",)), 1)
    assert plain.grade is None
    assert PROMPT.decode(prompt.to_bytes()) == prompt


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "either a list"),
        ({"prompts": ["a"], "file": "b"}, "either a list"),
        ({"prompts": ["a"], "lights": []}, "lights"),
    ],
)
def test_settings_that_say_nothing_or_two_things_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe.load("classic").changed({"refine": {"backend": "prompts", **settings}})


def test_a_file_without_prompts_is_said_before_the_work(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("# nothing\n")
    with pytest.raises(RecipeError, match="holds no prompt"):
        Prompts(file=str(path)).check()
    with pytest.raises(UnavailableError, match="gone.txt"):
        Prompts(file=str(tmp_path / "gone.txt")).check()


def test_a_recipe_with_a_list_of_prompts_survives_toml() -> None:
    recipe = Recipe.load("classic").changed({"refine": {"backend": "prompts", "prompts": list(MINE)}})
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.fingerprints() == recipe.fingerprints()


def test_a_fixed_caption_is_every_plate_s() -> None:
    plate = np.zeros((4, 4, 3), np.uint8)
    assert Fixed(caption="a belt")(plates=[plate, plate]) == ["a belt"] * 2
    with pytest.raises(RecipeError, match=r"caption\.caption"):
        Recipe.load("classic").changed({"caption": {"backend": "fixed", "caption": " "}})


def test_the_report_counts_the_prompts_that_a_template_replaced() -> None:
    assert PROMPT.remark(Prompt("a", origin="llm")) is None
    remark = PROMPT.remark(Prompt("a", origin="template (nothing usable in the answer)"))
    assert remark == "prompts are the template's: nothing usable in the answer"
    stage = StageReport(computed=240)
    stage.remarks[remark] += 240
    assert "refine: 240 of 240 prompts are the template's: nothing usable" in str(Report(stages={"refine": stage}))
