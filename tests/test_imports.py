"""What a DataLoader worker, or anyone who only trains, must never have to load."""

import pickle
import subprocess
import sys

import pytest

import augment
from augment import Placement
from augment.torchvision import ReplaceBackground
from tests import simple
from tests.filled import fill

HEAVY = {"diffusers", "transformers", "rembg", "onnxruntime", "gpt4all", "ray", "openai", "accelerate", "skimage"}
# A worker that looks backgrounds up needs no recipe either: neither its stages nor pydantic.
UNNEEDED_IN_A_WORKER = {
    *("pydantic", "typer", "rich"),
    *("augment.recipe", "augment.chain", "augment.stages", "augment.models", "augment.prewarming", "augment.commands"),
}

PUBLIC = {
    *("AugmentError", "Cache", "Cosine", "Linear", "Placement", "Recipe", "Source"),
    *("open_store", "prewarm", "scenes"),
}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def loaded(statement):
    return packages(run(f"{statement}\nimport sys; print(*sys.modules)").split())


def packages(modules):
    """The modules and every package that they are in."""
    parts = [module.split(".") for module in modules]
    return {".".join(names[: n + 1]) for names in parts for n in range(len(names))}


@pytest.mark.parametrize(
    "statement",
    [
        "import augment",
        "import augment.torchvision",
        "import augment.bias",
        "from augment import Cache, Cosine, Linear, Placement, Source, open_store",
    ],
)
def test_what_training_imports_brings_no_model_code(statement):
    modules = loaded(statement)
    assert "augment" in modules
    assert not modules & (HEAVY | UNNEEDED_IN_A_WORKER)


def test_the_albumentations_face_brings_no_model_code():
    # albumentations itself brings pydantic along.
    assert not loaded("import augment.albumentations") & (HEAVY | UNNEEDED_IN_A_WORKER - {"pydantic"})


@pytest.mark.parametrize("statement", ["from augment import prewarm, Recipe", "import augment.cli, augment.stages"])
def test_prewarming_and_the_command_line_load_a_models_library_only_when_it_is_used(statement):
    assert not loaded(statement) & HEAVY


def test_import_augment_loads_neither_torch_nor_opencv():
    assert not loaded("import augment") & {"torch", "torchvision", "cv2", "numpy", "diskcache"}


def test_the_public_names_are_listed_and_each_is_what_it_says():
    assert set(augment.__all__) == PUBLIC
    assert set(dir(augment)) >= PUBLIC
    for name in PUBLIC:
        assert getattr(augment, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'augment' has no attribute 'replace'"):
        _ = augment.replace


def test_a_public_name_is_not_hidden_by_the_module_that_holds_it():
    code = "import augment.prewarming; from augment import prewarm, Recipe; print(callable(prewarm), Recipe.__name__)"
    assert run(code).split() == ["True", "Recipe"]


def test_what_a_spawned_worker_gets_looks_up_without_recipes_or_stages(tmp_path):
    cache, paths = fill(tmp_path)
    # A Recipe is not handed on, only its record.
    replace = ReplaceBackground(cache, p=1, source="pool", placement=Placement(flip=0.5), recipe=simple.recipe())
    (tmp_path / "transform").write_bytes(pickle.dumps(replace))
    modules = loaded(
        f"""
import pickle, PIL.Image
replace = pickle.load(open({str(tmp_path / "transform")!r}, "rb"))
image = PIL.Image.open({str(paths[0])!r})
assert replace(image) is not image and replace.counts["hits"] == 1
"""
    )
    assert "augment.sampling.sampler" in modules
    assert not modules & (HEAVY | UNNEEDED_IN_A_WORKER)
