"""Steps, guidance and scheduler are what each model was made for; each preset runs through its model's real classes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from augment.artifacts import Image, Prompt
from augment.errors import RecipeError
from augment.models.diffusers import DiffusersModel
from augment.models.diffusion_loading import Runtime
from augment.models.diffusion_schedule import named_distillation, own_settings
from augment.recipe import Recipe
from augment.stages.generate.diffusers import Diffusers
from augment.testing import tiny_diffusion

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

CPU = Runtime(device="cpu")
PRESETS: dict[str, tuple[Callable[[Path], Path], str, int, float]] = {
    "sd15": (tiny_diffusion.tiny_stable_diffusion, "StableDiffusionPipeline", 20, 7.5),
    "sd-turbo": (tiny_diffusion.tiny_sd_turbo, "StableDiffusionPipeline", 2, 0.0),
    "sdxl": (tiny_diffusion.tiny_sdxl, "StableDiffusionXLPipeline", 20, 5.0),
    "sdxl-turbo": (tiny_diffusion.tiny_sdxl_turbo, "StableDiffusionXLPipeline", 2, 0.0),
    "flux-schnell": (tiny_diffusion.tiny_flux, "FluxPipeline", 4, 0.0),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the tiny model of a preset."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = PRESETS[name][0](tmp_path_factory.mktemp(name))
        return made[name]

    return folder


def _calls(monkeypatch: pytest.MonkeyPatch, stage: DiffusersModel) -> list[dict[str, Any]]:
    """The arguments with which the pipeline is called from now on; it makes gray images without running the model."""
    import torch

    calls: list[dict[str, Any]] = []
    cls = type(stage._pipeline)
    signature = cls.__call__

    def record(self: Any, **arguments: Any) -> Any:
        calls.append(arguments)
        shape = (len(arguments["prompt"]), 3, arguments["height"], arguments["width"])
        return SimpleNamespace(images=torch.full(shape, 0.5))

    record.__wrapped__ = signature  # type: ignore[attr-defined]  # so that its signature is still the pipeline's
    monkeypatch.setattr(cls, "__call__", record)
    return calls


def _draw(stage: Diffusers) -> Image:
    (image,) = stage(prompts=[Prompt("a grey road", "people")], plates=[np.zeros((60, 80, 3), np.uint8)], seeds=[1])
    assert isinstance(image, np.ndarray), image
    return image


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs_its_real_classes_with_the_models_own_settings(
    name: str, models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, pipeline, steps, guidance = PRESETS[name]
    recipe = Recipe.load(name).changed({"generate.model": str(models(name)), "generate.runtime": {"device": "cpu"}})
    stage = replace(recipe.stages["generate"], variant=None)
    assert isinstance(stage, Diffusers)
    stage.check()
    with caplog.at_level(logging.WARNING):
        assert _draw(replace(stage, steps=1)).shape == (60, 80, 3)
    assert type(stage._pipeline).__name__ == pipeline
    calls = _calls(monkeypatch, stage)
    _draw(stage)
    assert (calls[0]["num_inference_steps"], calls[0]["guidance_scale"]) == (steps, guidance)
    assert ("negative_prompt" in calls[0]) == (guidance > 1)
    assert not caplog.records


def test_settings_that_are_given_go_before_the_models_own_and_a_distilled_model_that_gets_more_is_warned_of(
    models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Diffusers(str(models("sdxl-turbo")), steps=30, guidance=7.5, runtime=CPU)
    with caplog.at_level(logging.WARNING):
        calls = _calls(monkeypatch, stage)
        _draw(stage)
        _draw(stage)
    assert (calls[0]["num_inference_steps"], calls[0]["guidance_scale"]) == (30, 7.5)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "generate.steps = 30",
        "generate.guidance = 7.5",
    ]


def test_a_model_whose_guidance_is_an_input_keeps_it(tmp_path: Path) -> None:
    own = Diffusers(str(tiny_diffusion.tiny_flux(tmp_path, dev=True)), runtime=CPU)._loaded[1]
    assert (own.steps, own.guidance, own.argument, own.distilled) == (28, 3.5, "guidance_scale", False)


def test_true_cfg_scale_is_what_counts_where_the_signature_has_no_guidance() -> None:
    import diffusers

    pipeline: Any = object.__new__(diffusers.QwenImagePipeline)
    vars(pipeline).update(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), transformer=None, _internal_dict={})
    own = own_settings(pipeline)
    assert (own.steps, own.guidance, own.argument) == (50, 4.0, "true_cfg_scale")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["latent-consistency/lcm-lora-sdv1-5"], (4, 1.0, "LCMScheduler")),
        (["stabilityai/sdxl", "ByteDance/SDXL-Lightning", "sdxl_lightning_8step_lora.safetensors"], (8, 0.0, "Euler")),
        (["/models/dreamshaperXL_lightning.safetensors"], (4, 0.0, "Euler")),
        (["ByteDance/Hyper-SD", "Hyper-SD15-8steps-lora.safetensors"], (8, 0.0, "DDIM")),
        (["Hyper-SDXL-1step-lora.safetensors"], (1, 0.0, "TCD")),
        (["Tongyi-MAI/Z-Image-Turbo"], (4, 0.0, None)),
        (["stabilityai/stable-diffusion-3.5-large-turbo"], (4, 0.0, None)),
        (["someone/hyperrealism-v3"], None),
        (["stabilityai/stable-diffusion-xl-base-1.0"], None),
    ],
)
def test_names_tell_how_a_model_was_distilled(names: list[str], expected: tuple[int, float, str | None] | None) -> None:
    found = named_distillation(names)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        steps, guidance, scheduler = expected
        assert (found.steps, found.guidance) == (steps, guidance)
        assert found.scheduler == scheduler or (scheduler and str(found.scheduler).startswith(scheduler))


def test_z_image_turbo_takes_its_own_nine_steps() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    from augment.models.diffusion_schedule import distillation

    pipeline: Any = object.__new__(ZImagePipeline)
    transformer = object.__new__(ZImageTransformer2DModel)
    vars(transformer).update(_internal_dict={}, _modules={})
    vars(pipeline).update(
        scheduler=FlowMatchEulerDiscreteScheduler(), transformer=transformer, unet=None, _internal_dict={}
    )
    found = distillation(pipeline, ["Tongyi-MAI/Z-Image-Turbo"])
    assert found is not None
    assert (found.steps, found.guidance) == (9, 0.0)


def test_a_scheduler_that_no_class_names_as_compatible_fits_where_it_names_the_models(
    models: Callable[[str], Path],
) -> None:
    stage = Diffusers(str(models("sd15")), steps=2, scheduler="LCMScheduler", runtime=CPU)
    stage.check()
    assert type(stage._pipeline.scheduler).__name__ == "LCMScheduler"
    assert _draw(stage).shape == (60, 80, 3)


@pytest.mark.parametrize(("name", "scheduler"), [("sd15", "NoSuch"), ("flux-schnell", "DDIMScheduler")])
def test_check_says_that_a_scheduler_does_not_fit_and_loads_nothing(
    name: str, scheduler: str, models: Callable[[str], Path]
) -> None:
    stage = Diffusers(str(models(name)), scheduler=scheduler, runtime=CPU)
    with pytest.raises(RecipeError, match=rf"generate\.scheduler: '{scheduler}' does not fit this model"):
        stage.check()
    assert "_loaded" not in vars(stage)
