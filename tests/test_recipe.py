"""Recipes: there and back through TOML, errors that name the field, fingerprints that chain."""

import pytest

from augment import Recipe
from augment.errors import RecipeError
from augment.recipe import presets
from augment.stages.remove.grabcut import GrabCut
from tests import simple


@pytest.mark.parametrize("name", presets())
def test_a_preset_survives_toml(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.fingerprints() == recipe.fingerprints()


def test_classic_is_what_it_says():
    stages = Recipe.load("classic").stages
    assert {kind: stage.backend for kind, stage in stages.items()} == {
        "remove": "grabcut",
        "inpaint": "exemplar",
        "caption": "measured",
        "refine": "templates",
        "generate": "resynthesis",
    }


def test_a_recipe_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(Recipe.load("classic").to_toml().replace('"classic"', '"mine"'))
    assert Recipe.load(path).name == Recipe.load(str(path)).name == "mine"


def test_defaults_need_not_be_written():
    text = 'name = "x"\n' + "".join(f'[{kind}]\nbackend = "{s.backend}"\n' for kind, s in simple.STAGES.items())
    assert Recipe.from_toml(text).stages == simple.recipe().stages


TABLES = {kind: {"backend": stage.backend} for kind, stage in simple.STAGES.items()}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TABLES | {"generate": {"backend": "noise", "strength": "much"}}, r"generate\.strength: .*\(got 'much'\)"),
        (
            TABLES | {"generate": {"backend": "noise", "steps": 3}},
            r"generate\.steps: .* noise takes: batch_size, strength",
        ),
        (TABLES | {"generate": {"backend": "magic"}}, r"generate\.backend: 'magic' is not one of .*noise"),
        (TABLES | {"generate": {}}, r"generate\.backend: None"),
        (TABLES | {"generate": "noise"}, r"lacks the table \[generate\]"),
        ({kind: TABLES[kind] for kind in TABLES if kind != "refine"}, r"lacks the table \[refine\]"),
        (TABLES | {"speed": 3}, "no such field: 'speed'"),
        (TABLES | {"retries": -1}, "retries: -1"),
        (TABLES | {"generate": {"backend": "folder"}}, r"generate\.folder: "),
    ],
)
def test_an_error_names_the_field(data, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict({"name": "x"} | data)


def test_text_that_is_no_toml_is_said_with_its_line():
    with pytest.raises(RecipeError, match="not TOML.*line 2"):
        Recipe.from_toml("name = 'x'\n[[[")


def test_an_unknown_name_lists_the_presets():
    with pytest.raises(RecipeError, match="'clasic'.*classic.*toml"):
        Recipe.load("clasic")
    with pytest.raises(RecipeError, match="nowhere.toml cannot be read"):
        Recipe.load("nowhere.toml")


def test_a_stage_in_anothers_place_is_refused():
    with pytest.raises(RecipeError, match="inpaint: SizeCaptioner"):
        Recipe("x", simple.recipe().stages, inpaint=simple.SizeCaptioner())


def test_a_stage_built_with_a_wrong_setting_is_refused():
    with pytest.raises(RecipeError, match=r"generate\.strength"):
        simple.recipe(generate={"strength": "much"})


def test_changed_sets_one_field_and_leaves_the_original():
    recipe = simple.recipe()
    changed = recipe.changed({"generate.strength": 7, "retries": 1})
    assert (changed.generate.strength, changed.retries) == (7, 1)
    assert (recipe.generate.strength, recipe.retries) == (40, 3)
    with pytest.raises(RecipeError, match=r"paint\.x: no such stage: 'paint'"):
        recipe.changed({"paint.x": 1})


def test_a_changed_backend_starts_from_its_own_defaults():
    assert simple.recipe(remove={"broken": 7}).changed({"remove.backend": "grabcut"}).remove == GrabCut()


def differing(one, other):
    first, second = one.fingerprints(), other.fingerprints()
    return [kind for kind in first if first[kind] != second[kind]]


def test_a_changed_setting_changes_its_stage_and_those_after_it():
    recipe = simple.recipe()
    assert differing(recipe, simple.recipe(generate={"strength": 1})) == ["generate"]
    assert differing(recipe, simple.recipe(remove={"broken": 7})) == list(simple.STAGES)
    assert differing(recipe, simple.recipe(generate={"batch_size": 9}, retries=0)) == []


def test_a_raised_version_changes_the_fingerprint(monkeypatch):
    before = simple.recipe().fingerprints()
    monkeypatch.setattr(simple.SizeCaptioner, "version", 2)
    after = simple.recipe().fingerprints()
    assert [kind for kind in before if before[kind] != after[kind]] == ["caption", "refine", "generate"]


# What the backgrounds of each preset are stored under. Another value makes every store out there a miss: change it
# knowingly, by a stage's `version`.
PINNED = {
    "classic": "4dbf2a901e6318a6",
    "flux-schnell": "1f0337196bf35efd",
    "light": "221d30bc0b5f6a93",
    "sd-turbo": "b0d2d4846e63edbe",
    "sd15": "8732609e4382266b",
    "sdxl": "e114b889722695fd",
    "sdxl-turbo": "823cc0b1cd708c83",
    "webui": "2a660c929ca80508",
}


def test_the_presets_keep_their_fingerprints_between_versions_of_the_library():
    assert {name: Recipe.load(name).record(1).background for name in presets()} == PINNED


def test_a_setting_that_is_the_default_does_not_count():
    """A later version may add settings, with defaults that change nothing."""
    recipe = Recipe.load("classic")
    written_out = Recipe.from_toml(recipe.to_toml())
    assert written_out.fingerprints() == recipe.fingerprints()
    assert recipe.changed({"remove.doubt": 0.75}).fingerprints() == recipe.fingerprints()
    assert recipe.changed({"remove.doubt": 0.7}).fingerprints() != recipe.fingerprints()


def test_the_backgrounds_of_an_enriching_recipe_are_the_enriched_ones():
    record = Recipe.load("webui").record(2)
    assert record.background == record.fingerprints["enrich"] != record.fingerprints["generate"]
