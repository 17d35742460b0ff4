"""An enrichment whose rounds have detectors of their own."""

import numpy as np
import pytest

from augment import Recipe
from augment.artifacts import Prompt
from augment.errors import RecipeError
from tests import enriching, simple
from tests.enriching import SetDetector


def recipe(**enrich):
    return simple.recipe().changed({"enrich": enriching.SUBSTAGES | enrich})


def test_each_round_has_its_own_detector_and_the_last_one_all_further_rounds():
    detectors = [{"backend": "fixed-detector", "labels": [label]} for label in ("cup", "dog")]
    several = recipe(depth=3).changed({"enrich.detector": detectors})
    assert Recipe.from_toml(several.to_toml()) == several
    assert "[[enrich.detector]]" in several.to_toml()
    assert several.fingerprints() != several.changed({"enrich.detector": detectors[::-1]}).fingerprints()
    assert [name for name in several.all_stages if "detector" in name] == ["enrich.detector.0", "enrich.detector.1"]
    several.enrich.check()
    draft = np.random.default_rng(0).integers(0, 256, (96, 112, 3), np.uint8)
    (done,) = several.enrich(drafts=[draft], prompts=[Prompt("a city")], groups=[None], seeds=[7])
    assert [(step.round, step.label) for step in done.steps] == [(1, "cup"), (2, "dog"), (3, "dog")]


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        ([SetDetector(), SetDetector()], "2 detectors, one a round, for 1 round: raise enrich.depth"),
        ([], r"enrich.detector: \[\] is not a Detector"),
        ([SetDetector(), 3], "enrich.detector.1: 3 is not a Detector"),
        ("x", "enrich.detector: 'x' is not a Detector"),
    ],
)
def test_detectors_that_cannot_be_used_are_named(detector, message):
    with pytest.raises(RecipeError, match=message):
        recipe().changed({"enrich.detector": detector}).enrich.check()
