"""What a DataLoader worker, or anyone who only trains, must never have to load."""

import subprocess
import sys

import pytest

HEAVY = {"diffusers", "transformers", "rembg", "onnxruntime", "gpt4all", "ray", "openai", "accelerate", "skimage"}
# A worker that looks backgrounds up needs no recipe either: neither its stages nor pydantic.
UNNEEDED_IN_A_WORKER = {"pydantic", "typer", "rich", "augment.recipe", "augment.stages", "augment.chain"}


def loaded(statement):
    code = f"{statement}\nimport sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(output.split())


@pytest.mark.parametrize("statement", ["import augment", "import augment.torchvision"])
def test_what_training_imports_brings_no_model_code(statement):
    modules = loaded(statement)
    assert "augment" in modules
    assert not modules & (HEAVY | UNNEEDED_IN_A_WORKER)


def test_the_albumentations_face_brings_no_model_code():
    # albumentations itself brings pydantic along.
    assert not loaded("import augment.albumentations") & (HEAVY | {"augment.recipe", "augment.stages", "augment.chain"})


@pytest.mark.parametrize("statement", ["from augment import prewarm, Recipe", "import augment.cli, augment.stages"])
def test_prewarming_and_the_command_line_load_a_models_library_only_when_it_is_used(statement):
    assert not loaded(statement) & HEAVY


def test_both_public_names_are_what_they_should_be():
    code = "import augment.prewarming; from augment import prewarm, Recipe; assert callable(prewarm) and Recipe.load"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
