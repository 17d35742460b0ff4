"""The line that a prewarm ends with when too many mattes are unusable."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from augment import Recipe, prewarm
from augment.prewarming.advice import better_remover
from augment.prewarming.report import Report
from augment.stages.remove.masks import Masks
from augment.testing.pictures import write_folder
from tests import simple


def report(images: int, unusable: int) -> Report:
    made = Report(images=images)
    made.unusable.update({"doubtful": unusable})
    return made


@pytest.mark.parametrize(
    ("name", "says"),
    [("classic", r"^20% of the mattes are unusable.*`--recipe light` does better"), ("light", "own masks do better")],
)
def test_it_names_what_does_better_than_the_recipe_at_hand(name: str, says: str) -> None:
    recipe = Recipe.load(name)
    assert better_remover(report(9, 0), recipe) is None
    assert better_remover(report(100, 9), recipe) is None
    line = better_remover(report(100, 20), recipe)
    assert line is not None
    assert line.count("\n") == 0
    assert better_remover(report(100, 10), recipe) is not None
    assert re.search(says, line)


def test_nothing_does_better_than_masks() -> None:
    assert better_remover(report(10, 9), Recipe.load("classic").changed({"remove": Masks()})) is None


def test_a_prewarm_ends_with_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 4)
    grey = np.full((60, 60, 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "images/grey.png"), grey)
    found = prewarm(tmp_path / "images", tmp_path / "cache", simple.recipe(), workers=0, progress=False)
    assert sum(found.unusable.values()) == 1
    assert "20% of the mattes are unusable" in str(found)
