"""The first prototype's chain through its real libraries: rembg, OpenCV, GIT, GPT4All, Stable Diffusion, on the CPU.

ISNet and SmolLM2 are real models; GIT and Stable Diffusion are real classes and files with tiny, untrained weights.
"""

import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import skimage.data

from augment import Cache, Recipe, prewarm
from augment.chain import Chain
from augment.stages.generate.diffusers import Diffusers
from augment.stages.remove.rembg import Rembg
from augment.testing.tiny import tiny_git, tiny_stable_diffusion


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory, isnet, smollm2):
    """The preset sd15 with the models that are at hand, as a file."""
    folder = tmp_path_factory.mktemp("models")
    tiny_git(folder / "git")
    tiny_stable_diffusion(folder / "sd")
    recipe = Recipe.load("sd15").changed(
        {
            "remove.model": str(isnet),
            "caption.model": str(folder / "git"),
            "refine.model": str(smollm2),
            "refine.threads": 1,
            "generate.model": str(folder / "sd"),
            "generate.steps": 2,
            "generate.size": 64,
        }
    )
    path = folder / "original.toml"
    path.write_text(recipe.to_toml())
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photographs in class folders."""
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in {
        "person/astronaut": skimage.data.astronaut()[::2, ::2],
        "cup/coffee": skimage.data.coffee()[::2, ::2],
        "rocket/rocket": skimage.data.rocket()[::2, ::2],
    }.items():
        path = folder / f"{name}.png"
        path.parent.mkdir()
        PIL.Image.fromarray(pixels).save(path)
    return folder


def augment(*arguments):
    command = [sys.executable, "-m", "augment", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_run_writes_what_the_prototype_wrote_and_a_trace(recipe_file, photos, tmp_path):
    out = tmp_path / "out"
    augment(
        "run", photos / "person" / "astronaut.png", "-o", out, "-r", recipe_file, "--variants", 2, "--group", "person"
    )
    pictures = {
        "cutout.png": "RGBA",
        "bg_only.png": "RGB",
        "generated_image.png": "RGB",
        "generated_image_1.png": "RGB",
        "composite.png": "RGB",
        "composite_1.png": "RGB",
    }
    for name, mode in pictures.items():
        with PIL.Image.open(out / name) as picture:
            assert (picture.size, picture.mode) == ((256, 256), mode)
    alpha = np.asarray(PIL.Image.open(out / "cutout.png"))[..., 3]
    assert 0.25 < (alpha > 127).mean() < 0.75
    trace = json.loads((out / "trace.json").read_text())
    assert trace["caption"]
    assert [stage["backend"] for stage in trace["stages"].values()] == ["rembg", "telea", "transformers"]
    assert all(stage["seconds"] > 0 for stage in trace["stages"].values())
    assert [variant["refine"]["backend"] for variant in trace["variants"]] == ["gpt4all", "gpt4all"]
    assert [variant["generate"]["backend"] for variant in trace["variants"]] == ["diffusers", "diffusers"]
    prompts = [variant["prompt"] for variant in trace["variants"]]
    assert prompts[0]["prompt"] != prompts[1]["prompt"]
    for prompt in prompts:
        assert prompt["origin"].startswith(("llm", "template"))
        assert "person" not in prompt["prompt"].lower()
        assert "person" in prompt["negative"]
    assert len({variant["seed"] for variant in trace["variants"]}) == 2
    assert "1 complete" in (out / "pipeline.log").read_text()


def test_prewarm_does_the_whole_chain_and_more_steps_recompute_backgrounds_alone(
    recipe_file, photos, tmp_path, monkeypatch
):
    out = augment("prewarm", photos, "--cache", tmp_path / "cache", "-r", recipe_file)
    assert out.startswith("3 images: 3 complete")
    assert (
        augment("prewarm", photos, "--cache", tmp_path / "cache", "-r", recipe_file).count(" 0 computed, 3 found") == 5
    )

    calls = {"remove": 0, "generate": 0}
    for kind, stage in (("remove", Rembg), ("generate", Diffusers)):

        def counted(self, kind=kind, before=stage.__call__, **given):
            calls[kind] += len(next(iter(given.values())))
            return before(self, **given)

        monkeypatch.setattr(stage, "__call__", counted)
    changed = Recipe.load(recipe_file).changed({"generate.steps": 3})
    report = prewarm(photos, tmp_path / "cache", changed, workers=0, progress=False)
    assert {kind: (stage.computed, stage.found) for kind, stage in report.stages.items()} == {
        "remove": (0, 3),
        "inpaint": (0, 3),
        "caption": (0, 3),
        "refine": (0, 3),
        "generate": (3, 0),
    }
    assert calls == {"remove": 0, "generate": 3}
    cache = Cache(tmp_path / "cache")
    key = next(name.split("/")[-1] for name in cache.names() if name.startswith("matte/"))
    old, new = (Chain(recipe, cache).artifact(Diffusers.kind, key, 0) for recipe in (Recipe.load(recipe_file), changed))
    assert (old != new).any()


def test_a_missing_model_is_said_before_any_work_is_done(recipe_file, photos, tmp_path):
    command = [
        "prewarm",
        photos,
        "--cache",
        tmp_path / "cache",
        "-r",
        recipe_file,
        "--set",
        "caption.model=nobody/nothing",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "augment", *map(str, command)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "nobody/nothing: not on this machine" in done.stderr
    assert "hf download nobody/nothing" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Cache(tmp_path / "cache").names()


def test_doctor_tells_what_is_there_and_what_is_not(recipe_file, tmp_path):
    table = augment("doctor", "-r", recipe_file)
    assert "memory: " in table
    assert "disk: " in table
    assert " no " not in table
    done = subprocess.run(
        [sys.executable, "-m", "augment", "doctor", "-r", "sd15"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "generate: stable-diffusion-v1-5/stable-diffusion-v1-5: not on this machine" in done.stdout
