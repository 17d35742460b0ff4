"""Weights as people have them: one file, a LoRA, a learned word, the fp16 variant only, no safety checker."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from augment.artifacts import Image, Prompt
from augment.errors import UnavailableError
from augment.models.diffusion_files import CheckpointFile, Embedding, Lora
from augment.models.diffusion_loading import Runtime
from augment.recipe import Recipe
from augment.stages.generate.diffusers import Diffusers
from augment.testing.tiny_diffusion import tiny_sdxl, tiny_stable_diffusion
from augment.testing.tiny_files import single_file, tiny_lora

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

CPU = Runtime(device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def stage(folder: Path) -> Diffusers:
    return Diffusers(str(folder), steps=2, runtime=CPU)


def _draw(stage: Diffusers, prompt: str = "a grey road") -> Image:
    (image,) = stage(prompts=[Prompt(prompt)], plates=[np.zeros((64, 64, 3), np.uint8)], seeds=[1])
    assert isinstance(image, np.ndarray), image
    return image


def _difference(one: Image, other: Image) -> int:
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_is_the_same_model_as_its_folder(
    suffix: str, folder: Path, stage: Diffusers, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = single_file(folder, tmp_path / f"model{suffix}")
    capfd.readouterr()
    single = replace(stage, model=str(path), config=str(folder))
    single.check()
    assert "_loaded" not in vars(single)
    assert _difference(_draw(single), _draw(stage)) <= 1
    assert capfd.readouterr() == ("", "")


def test_a_single_files_layout_is_told_by_its_tensors(folder: Path, tmp_path: Path) -> None:
    path = single_file(folder, tmp_path / "model.safetensors")
    assert CheckpointFile(str(path)).layout().model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, other)
    # diffusers takes whatever it does not know for version 1, so the config that is missing is named.
    with pytest.raises(UnavailableError):
        Diffusers(str(other), runtime=CPU).check()


class _Code:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


def test_a_ckpt_with_code_is_refused_before_anything_runs(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}, "callbacks": _Code()}, tmp_path / "new.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps(_Code()))
    for name in ("new.ckpt", "old.ckpt"):
        with pytest.raises(UnavailableError, match=r"holds more than tensors.* use its \.safetensors"):
            Diffusers(str(tmp_path / name), config=str(folder), runtime=CPU).check()
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize("content", [b"", b"torn", b"\xff" * 100])
def test_a_broken_single_file_is_named(content: bytes, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "torn.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnavailableError, match=r"torn\.safetensors is not a whole safetensors file"):
        Diffusers(str(path), config=str(folder), runtime=CPU).check()
    with pytest.raises(UnavailableError, match="there is no such file"):
        Diffusers(str(tmp_path / "none.safetensors"), runtime=CPU).check()


def test_a_lora_changes_the_image_by_its_weight(stage: Diffusers, tmp_path: Path) -> None:
    path = tiny_lora(stage._pipeline, tmp_path / "style.safetensors")
    plain = _draw(stage)
    whole, half, none = (_draw(replace(stage, lora=(Lora(str(path), weight=weight),))) for weight in (1.0, 0.5, 0.0))
    assert _difference(none, plain) <= 1
    assert _difference(whole, plain) > 5
    assert _difference(half, whole) > 2
    # the folder of the file, and the table of a recipe
    assert _difference(_draw(replace(stage, lora=(Lora(str(tmp_path)),))), whole) <= 1
    recipe = Recipe.load("sd15").changed({"generate.lora": [{"model": str(path), "weight": 0.5}]})
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert recipe.fingerprints()["generate"] != Recipe.load("sd15").fingerprints()["generate"]


@pytest.mark.parametrize(
    ("name", "scheduler", "steps"),
    [
        ("lcm-lora.safetensors", "LCMScheduler", 4),
        ("sd_lightning_2step_lora.safetensors", "EulerDiscreteScheduler", 2),
        ("Hyper-SD15-8steps-lora.safetensors", "DDIMScheduler", 8),
        ("Hyper-SD15-1step-lora.safetensors", "TCDScheduler", 1),
    ],
)
def test_a_distilling_lora_brings_its_scheduler_and_steps(
    name: str, scheduler: str, steps: int, stage: Diffusers, tmp_path: Path
) -> None:
    path = tiny_lora(stage._pipeline, tmp_path / name)
    fast = replace(stage, steps=None, lora=(Lora(str(path)),))
    pipeline, own = fast._loaded
    assert type(pipeline.scheduler).__name__ == scheduler
    assert (own.steps, own.distilled) == (steps, True)
    assert own.guidance <= 1
    if scheduler in ("EulerDiscreteScheduler", "DDIMScheduler"):
        assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert _draw(fast).std() > 1


def test_a_lora_that_does_not_fit_or_is_not_there_is_named(stage: Diffusers, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    other = replace(stage, lora=(Lora(str(tmp_path / "other.safetensors")),))
    with pytest.raises(UnavailableError, match=r"generate\.lora: .*other\.safetensors does not fit this model"):
        _draw(other)
    with pytest.raises(UnavailableError, match="none.safetensors"):
        replace(stage, lora=(Lora(str(tmp_path / "none.safetensors")),)).check()
    with pytest.raises(UnavailableError, match="no/such-lora"):
        replace(stage, lora=(Lora("no/such-lora"),)).check()


@pytest.mark.parametrize(("key", "token"), [("<fog>", "<fog>"), ("emb_params", "fog")])
def test_a_learned_word_is_used_by_its_token(key: str, token: str, stage: Diffusers, tmp_path: Path) -> None:
    path = tmp_path / "fog.safetensors"
    save_file({key: torch.randn(2, 32) * 3}, path)
    learned = replace(stage, embeddings=(Embedding(str(path)),))
    learned.check()
    assert _difference(_draw(learned, f"a road {token}"), _draw(stage, f"a road {token}")) > 2
    assert _difference(_draw(learned, "a road"), _draw(stage, "a road")) <= 1


def test_a_learned_word_of_sdxl_goes_to_both_text_encoders(tmp_path: Path) -> None:
    model, path = tiny_sdxl(tmp_path / "sdxl"), tmp_path / "fog.safetensors"
    save_file({"clip_l": torch.randn(1, 32), "clip_g": torch.randn(1, 32)}, path)
    stage = Diffusers(str(model), steps=1, embeddings=(Embedding(str(path), token="<fog>"),), runtime=CPU)
    _draw(stage, "a road <fog>")
    assert "<fog>" in stage._pipeline.tokenizer.get_vocab()
    assert "<fog>" in stage._pipeline.tokenizer_2.get_vocab()


def test_a_folder_that_has_only_a_variant_is_loaded_without_naming_it(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "half"
    shutil.copytree(folder, copy)
    for path in list(copy.rglob("*.safetensors")):
        half = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(half, path.with_name(path.stem + ".fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()
    stage = Diffusers(str(copy), steps=2, runtime=CPU)
    stage.check()
    assert _difference(_draw(stage), _draw(replace(stage, model=str(folder)))) <= 8
    with pytest.raises(UnavailableError, match=r"\*\.bf16\.safetensors"):
        replace(stage, variant="bf16").check()


def test_a_pipeline_does_without_the_safety_checker_that_its_index_names(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "unchecked"
    shutil.copytree(folder, copy)
    index = json.loads((copy / "model_index.json").read_bytes())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": True,
    }
    (copy / "model_index.json").write_text(json.dumps(index))
    stage = Diffusers(str(copy), steps=2, runtime=CPU)
    with pytest.raises(UnavailableError, match="safety_checker = false does without"):
        stage.check()
    without = replace(stage, safety_checker=False)
    without.check()
    assert _difference(_draw(without), _draw(replace(stage, model=str(folder)))) <= 1
