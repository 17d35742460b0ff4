"""Which of a store's recipes is asked for, in every form that a user may give."""

import PIL.Image
import pytest

from augment import Cache, Recipe, prewarm
from augment.errors import InputError, RecipeError, StoreError
from augment.sampling.recipes import recipe_for, record_for
from augment.testing.pictures import scene
from tests import simple

OLD, NEW = simple.recipe(generate={"strength": 5}), simple.recipe()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache that was filled with two recipes of one name."""
    store = Cache(tmp_path_factory.mktemp("recipes") / "cache")
    for recipe in (OLD, NEW):
        prewarm([PIL.Image.fromarray(scene(0)[0])], store, recipe, workers=0, progress=False)
    return store


def test_every_form_finds_the_record(cache, tmp_path):
    old, new = cache.recipes()
    path = tmp_path / "old.toml"
    path.write_text(OLD.to_toml())
    assert [record_for(cache, one) for one in (None, "simple", NEW, new.background)] == [new] * 4
    assert [record_for(cache, one) for one in (OLD, path, str(path), old.background)] == [old] * 4


def test_a_recipe_that_the_store_lacks_is_looked_for_by_its_name(cache):
    assert record_for(cache, simple.recipe(generate={"strength": 7})).background == NEW.record(1).background
    with pytest.raises(StoreError, match="not filled with the recipe 'classic'; it holds: simple"):
        record_for(cache, "classic")
    with pytest.raises(StoreError, match="not filled with the recipe 'mine'; it holds: simple"):
        record_for(cache, "mine")


def test_what_computes_takes_the_same_forms_and_recipes_that_are_new(cache, tmp_path):
    old, _ = cache.recipes()
    path = tmp_path / "old.toml"
    path.write_text(OLD.to_toml())
    assert [recipe_for(cache, one) for one in (None, "simple", NEW)] == [NEW] * 3
    assert [recipe_for(cache, one) for one in (OLD, path, str(path), old.background)] == [OLD] * 4
    assert recipe_for(cache, "sd15") == Recipe.load("sd15")
    assert recipe_for(Cache(tmp_path / "empty"), None) == Recipe.load("classic")
    with pytest.raises(RecipeError, match="no recipe is called 'mine'"):
        recipe_for(cache, "mine")


@pytest.mark.parametrize("find", [record_for, recipe_for])
@pytest.mark.parametrize("wrong", [5, True, ["simple"]])
def test_what_is_no_recipe_is_named(cache, find, wrong):
    with pytest.raises(InputError, match="is not a name, a TOML file or a Recipe"):
        find(cache, wrong)
