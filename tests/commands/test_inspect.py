"""`augment inspect` and `augment recipes`: what a store holds, how it was made, and what recipes take."""

import json
import subprocess
import sys

import PIL.Image
import pytest
from typer.testing import CliRunner

from augment import Cache, Recipe, prewarm
from augment.artifacts import MATTE
from augment.cli import app
from augment.commands.inspect import inspect_image, inspect_store
from augment.commands.recipes import models_of, summarize
from augment.errors import InputError, StoreError
from augment.keys import image_key
from augment.models.known import known
from augment.recipe import presets
from augment.store.packing import export_pack
from augment.store.reader import Reader
from augment.testing.pictures import write_folder
from augment.torchvision import ReplaceBackground
from tests import simple


@pytest.fixture
def store(tmp_path):
    """A cache of four scenes, one without an object, and their paths."""
    paths = write_folder(tmp_path / "images", 3)
    PIL.Image.new("RGB", (112, 96), "gray").save(tmp_path / "images" / "cup" / "empty.png")
    cache = Cache(tmp_path / "cache")
    prewarm(tmp_path / "images", cache, simple.recipe(), variants=2, workers=0, progress=False)
    return cache, paths


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout


def test_a_store_is_counted_recipe_by_recipe(store):
    totals = inspect_store(store[0], progress=False)
    assert totals.nbytes == store[0].nbytes()
    (recipe,) = totals.recipes
    assert (recipe.name, recipe.variants, recipe.images, recipe.complete) == ("simple", 2, 4, 3)
    assert recipe.unusable == {"empty": 1}
    assert recipe.groups == {"cup": 3, "ball": 1}
    assert recipe.counts == {"matte": 4, "plate": 3, "caption": 3, "prompt": 6, "background": 6}
    assert recipe.nbytes["background"] > recipe.nbytes["caption"] > 0


def test_what_training_did_not_find_is_counted(store, tmp_path):
    replace = ReplaceBackground(store[0], p=1.0)
    replace(PIL.Image.new("RGB", (20, 20), "red"))
    assert inspect_store(store[0], progress=False).recipes[0].misses == 1


def test_a_pack_is_counted_too(store, tmp_path):
    export_pack(store[0], tmp_path / "pack")
    totals = inspect_store(tmp_path / "pack", progress=False)
    assert (totals.nbytes, totals.recipes[0].misses, totals.recipes[0].complete) == (None, None, 3)


def test_an_image_is_found_by_its_path_and_by_its_key(store):
    cache, paths = store
    with PIL.Image.open(paths[0]) as file:
        key = image_key(file)
    by_path = inspect_image(cache, str(paths[0]))
    assert by_path == inspect_image(cache, key)
    assert list(by_path[key]) == ["remove", "inpaint", "caption", "refine 0", "refine 1", "generate 0", "generate 1"]
    assert by_path[key]["remove"]["backend"] == "red"
    assert by_path[key]["caption"]["text"] == "a plate of 112 by 96"
    assert by_path[key]["generate 1"]["seed"] > 0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "there is no such file"),
        ("text.png", "cannot be read as an image"),
        ("0" * 32, "has nothing of"),
    ],
)
def test_an_image_that_is_not_there_is_one_sentence(store, tmp_path, monkeypatch, image, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=message):
        inspect_image(store[0], image)


def test_a_damaged_matte_is_left_out_and_the_rest_is_counted(store):
    reader = Reader(store[0], simple.recipe().record(2))
    store[0].put(reader.name(MATTE, reader.keys(MATTE)[0]), b"no matte", {})
    assert inspect_store(store[0], progress=False).recipes[0].images == 3


def test_an_empty_cache_holds_no_recipe(tmp_path):
    with pytest.raises(StoreError, match="holds no recipe yet"):
        inspect_store(Cache(tmp_path / "cache"), progress=False)


def test_the_command_prints_tables_or_json(store):
    cache, paths = store
    code, text = run("inspect", cache.directory)
    assert code == 0
    assert "unusable: empty" in text
    code, text = run("inspect", cache.directory, "--json")
    assert json.loads(text)["recipes"][0]["complete"] == 3
    code, text = run("inspect", cache.directory, paths[0], "--json")
    (stages,) = json.loads(text).values()
    assert stages["remove"]["source"] == str(paths[0])


@pytest.mark.parametrize("name", presets())
def test_every_model_of_a_preset_has_a_known_license_and_size(name):
    summary = summarize(Recipe.load(name))
    assert all(summary.models.values()), summary.models
    assert (summary.download > 0) == bool(summary.models)


def test_the_models_of_a_server_are_not_this_machines(tmp_path):
    assert "mistral" not in models_of(Recipe.load("webui"))


def test_a_model_that_nothing_is_known_of_is_said(tmp_path):
    assert known("somebody/model") is None
    assert summarize(Recipe.load("sd15").changed({"generate.model": "somebody/model"})).models["somebody/model"] is None


def test_the_list_of_recipes_names_licenses(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, text = run("recipes")
    assert code == 0
    assert "CreativeML Open RAIL-M" in text


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["inspect", "--help"]])
def test_help_and_the_list_of_recipes_import_no_torch(arguments):
    program = (
        "import sys; from augment.cli import app\n"
        f"try: app({arguments})\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'torchvision', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
