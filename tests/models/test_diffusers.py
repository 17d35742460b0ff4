"""Text-to-image pipelines through the real diffusers classes, with untrained weights on disk."""

from __future__ import annotations

import functools
import gc
import json
import logging
import pickle
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from augment.artifacts import Image, Prompt, Rejected
from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.models.diffusers import Runtime, working_size
from augment.models.diffusion_schedule import set_scheduler
from augment.models.quiet import quiet
from augment.stages.generate.diffusers import Diffusers
from augment.testing.tiny import tiny_stable_diffusion

# diffusers 0.42 converts tensors to arrays in a way that NumPy 2 means to stop; nothing of ours can change it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

PROMPTS = [Prompt("a grey road in the fog", "people"), Prompt("grass"), Prompt("sea and sky", "boat"), Prompt("a wall")]
SEEDS = [1, 2**63 - 1, 3, 4]
CPU = Runtime(device="cpu")


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline whose own size is 64x64 pixels, in steps of 16."""
    return tiny_stable_diffusion(tmp_path_factory.mktemp("tiny-sd"))


@pytest.fixture
def stage(tiny_sd: Path) -> Diffusers:
    return Diffusers(str(tiny_sd), steps=2, runtime=CPU)


def _call(stage: Diffusers, shapes: Sequence[tuple[int, int]], first: int = 0) -> list[Image | Rejected | ItemFailed]:
    """One item a shape, with the prompts and seeds from `first` on."""
    plates = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
    chosen = slice(first, first + len(shapes))
    return stage(prompts=PROMPTS[chosen], plates=plates, seeds=SEEDS[chosen])


def _difference(one: Any, other: Any) -> int:
    """The largest difference of any pixel, in grey levels."""
    return int(np.abs(one.astype(int) - other).max())


def _record_calls(
    monkeypatch: pytest.MonkeyPatch, stage: Diffusers, before: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """The arguments of every call of the pipeline from now on; `before` sees them before it runs."""
    calls: list[dict[str, Any]] = []
    cls = type(stage._pipeline)
    original = cls.__call__

    @functools.wraps(original)
    def recorded(self: Any, **arguments: Any) -> Any:
        calls.append(arguments)
        before(arguments)
        return original(self, **arguments)

    monkeypatch.setattr(cls, "__call__", recorded)
    return calls


def test_backgrounds_have_their_plates_sizes_whatever_mixture_of_sizes_a_batch_holds(stage: Diffusers) -> None:
    shapes = [(64, 64), (30, 90), (200, 151), (64, 64)]
    backgrounds = _call(stage, shapes)
    for background, shape in zip(backgrounds, shapes, strict=True):
        assert isinstance(background, np.ndarray)
        assert background.shape == (*shape, 3)
        assert background.dtype == np.uint8
        assert background.std() > 10


def test_a_seed_gives_the_same_background_in_any_batch_and_another_seed_another(stage: Diffusers) -> None:
    together = _call(stage, [(64, 64)] * 4)
    for index, background in enumerate(together):
        (alone,) = _call(stage, [(64, 64)], first=index)
        assert _difference(background, alone) <= 1  # matrix products round otherwise at another batch size
    pairs = _call(replace(stage, batch_size=2), [(64, 64)] * 4)
    assert max(_difference(*pair) for pair in zip(together, pairs, strict=True)) <= 1
    again = _call(stage, [(64, 64)] * 4)
    assert all(np.array_equal(*pair) for pair in zip(together, again, strict=True))
    assert _difference(together[0], together[1]) > 20


def test_a_stochastic_scheduler_draws_from_the_images_own_seed(tiny_sd: Path) -> None:
    stage = Diffusers(str(tiny_sd), steps=3, scheduler="EulerAncestralDiscreteScheduler", runtime=CPU)
    together = _call(stage, [(64, 64)] * 3)
    (alone,) = _call(stage, [(64, 64)], first=2)
    assert _difference(together[2], alone) <= 1


def test_items_of_one_working_size_share_batches(stage: Diffusers, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _record_calls(monkeypatch, stage, lambda arguments: None)
    _call(replace(stage, batch_size=2), [(64, 64), (32, 64), (500, 500), (100, 101)])
    assert [(call["height"], call["width"], len(call["prompt"])) for call in calls] == [
        (64, 64, 2),
        (64, 64, 1),
        (48, 96, 1),
    ]


@pytest.mark.parametrize(
    ("shape", "size", "working"),
    [
        ((1500, 2000), None, (48, 80)),
        ((2000, 1500), None, (80, 48)),
        ((32, 32), None, (64, 64)),
        ((20, 2000), None, (16, 640)),
        ((512, 512), 256, (256, 256)),
        ((1500, 2000), 512, (448, 592)),
    ],
)
def test_the_working_size_has_the_models_own_area_and_the_plates_aspect(
    stage: Diffusers, shape: tuple[int, int], size: int | None, working: tuple[int, int]
) -> None:
    assert working_size(stage._pipeline, *shape, size) == working


def test_stable_diffusion_1_5_works_at_multiples_of_64_near_512_squared() -> None:
    import diffusers

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(sample_size=64, block_out_channels=(320, 640, 1280, 1280))
    pipeline = type("Pipeline", (), {"unet": unet, "vae_scale_factor": 8})()
    assert working_size(pipeline, 512, 512, None) == (512, 512)
    assert working_size(pipeline, 1500, 2000, None) == (448, 576)
    assert working_size(pipeline, 1500, 2000, 768) == (640, 896)


def test_a_transformer_works_at_multiples_of_its_patches_and_one_without_a_size_asks_for_it() -> None:
    transformer = type("Transformer", (), {"config": {"patch_size": 1}})()
    pipeline = type("Pipeline", (), {"transformer": transformer, "vae_scale_factor": 8, "default_sample_size": 128})()
    assert working_size(pipeline, 300, 400, None) == (880, 1184)
    del type(pipeline).default_sample_size
    with pytest.raises(RecipeError, match="size"):
        working_size(pipeline, 300, 400, None)
    assert working_size(pipeline, 300, 300, 512) == (512, 512)


def test_the_prompts_steps_and_guidance_reach_the_pipeline(stage: Diffusers, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _record_calls(monkeypatch, stage, lambda arguments: None)
    _call(stage, [(64, 64)] * 2)
    assert calls[0]["prompt"] == ["a grey road in the fog", "grass"]
    assert calls[0]["negative_prompt"] == ["people", ""]
    assert (calls[0]["num_inference_steps"], calls[0]["guidance_scale"]) == (2, 7.5)


def test_guidance_zero_and_one_step_work_and_ignore_the_negative_prompt(
    tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Diffusers(str(tiny_sd), steps=1, guidance=0, runtime=CPU)
    calls = _record_calls(monkeypatch, stage, lambda arguments: None)
    (background,) = _call(stage, [(64, 64)])
    assert isinstance(background, np.ndarray)
    assert "negative_prompt" not in calls[0]


def test_the_models_own_scheduler_gives_way_to_dpm_solver_except_where_that_does_not_solve_it(tiny_sd: Path) -> None:
    import diffusers

    def chosen(own: Any, scheduler: str = "auto") -> Any:
        pipeline = type("Pipeline", (), {"scheduler": own})()
        set_scheduler(pipeline, scheduler, "generate")
        return pipeline.scheduler

    better = Diffusers(str(tiny_sd), runtime=CPU)._pipeline.scheduler
    assert type(better) is diffusers.DPMSolverMultistepScheduler
    assert (better.config.beta_schedule, better.config.use_karras_sigmas) == ("scaled_linear", True)
    turbo = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")
    for own in (diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.LCMScheduler(), turbo):
        assert chosen(own) is own
    own = diffusers.PNDMScheduler()
    assert chosen(own, "model") is own
    assert type(chosen(own, "UniPCMultistepScheduler")) is diffusers.UniPCMultistepScheduler
    with pytest.raises(RecipeError, match=r"generate\.scheduler: 'NoSuch' .*UniPCMultistepScheduler"):
        chosen(own, "NoSuch")


def test_out_of_memory_halves_the_batch_goes_on_and_remembers(
    stage: Diffusers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = _call(stage, [(64, 64)] * 4)

    def at_most_two(arguments: dict[str, Any]) -> None:
        if len(arguments["prompt"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    calls = _record_calls(monkeypatch, stage, at_most_two)
    with caplog.at_level(logging.WARNING):
        halved = _call(stage, [(64, 64)] * 4)
    assert [len(call["prompt"]) for call in calls] == [4, 2, 2]
    assert max(_difference(*pair) for pair in zip(whole, halved, strict=True)) <= 1
    assert "going on with 2" in caplog.text
    calls.clear()
    _call(stage, [(64, 64)] * 4)
    assert [len(call["prompt"]) for call in calls] == [2, 2]


def test_an_image_too_large_even_alone_fails_with_the_way_out_and_the_others_go_on(
    stage: Diffusers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_wide_ones(arguments: dict[str, Any]) -> None:
        if arguments["width"] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")

    _record_calls(monkeypatch, stage, no_wide_ones)
    first, wide, last = _call(stage, [(64, 64), (32, 96), (64, 64)])
    assert isinstance(first, np.ndarray)
    assert isinstance(last, np.ndarray)
    assert isinstance(wide, ItemFailed)
    assert "generate.size" in str(wide)


def test_an_image_that_is_not_a_number_is_rejected_and_no_warning_escapes(stage: Diffusers) -> None:
    stage._pipeline.unet.conv_out.bias.data.fill_(float("nan"))
    results = _call(stage, [(64, 64)] * 2)
    assert all(isinstance(result, Rejected) and "NaN" in result.reason for result in results)


def test_what_the_safety_checker_flags_is_rejected(tiny_sd: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=32)
    )
    for weights in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
        weights.data.fill_(2.0)  # a cosine, so nothing reaches it
    size = {"height": 32, "width": 32}
    with quiet("diffusers", "transformers"):
        pipeline = StableDiffusionPipeline.from_pretrained(
            tiny_sd, safety_checker=checker, feature_extractor=CLIPImageProcessor(size=size, crop_size=size)
        )
        pipeline.save_pretrained(tmp_path)
    stage = Diffusers(str(tmp_path), steps=1, runtime=CPU)
    assert all(isinstance(result, np.ndarray) for result in _call(stage, [(64, 64)] * 2))
    stage._pipeline.safety_checker.concept_embeds_weights.data[3] = -2.0
    assert _call(stage, [(64, 64)] * 2) == [Rejected("flagged by the safety checker")] * 2


def test_slicing_tiling_and_memory_order_change_nothing_but_rounding(tiny_sd: Path, stage: Diffusers) -> None:
    (plain,) = _call(stage, [(64, 64)])
    runtime = Runtime(device="cpu", channels_last=True, vae_slicing=False, vae_tiling=True, offload="model")
    other = Diffusers(str(tiny_sd), steps=2, runtime=runtime)
    (background,) = _call(other, [(64, 64)])
    assert other._pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert (other._pipeline.vae.use_slicing, other._pipeline.vae.use_tiling) == (False, True)
    assert (stage._pipeline.vae.use_slicing, stage._pipeline.vae.use_tiling) == (True, False)
    assert _difference(plain, background) <= 1


def test_half_precision_is_taken_on_request_and_float32_by_itself_on_the_cpu(tiny_sd: Path, stage: Diffusers) -> None:
    half = Diffusers(str(tiny_sd), steps=2, runtime=Runtime(device="cpu", dtype="bfloat16"))
    (background,) = _call(half, [(64, 64)])
    assert half._pipeline.unet.dtype == half._pipeline.vae.dtype == torch.bfloat16
    assert isinstance(background, np.ndarray)
    assert stage._pipeline.unet.dtype == stage._pipeline.vae.dtype == torch.float32


def test_unload_frees_the_pipeline_and_the_next_call_loads_it_again(stage: Diffusers) -> None:
    before = _call(stage, [(64, 64)])
    unet = weakref.ref(stage._pipeline.unet)
    stage.unload()
    gc.collect()
    assert unet() is None
    assert np.array_equal(_call(stage, [(64, 64)])[0], before[0])


def test_a_stage_is_pickled_without_its_pipeline(stage: Diffusers) -> None:
    _call(stage, [(64, 64)])
    data = pickle.dumps(stage)
    assert len(data) < 2000
    assert pickle.loads(data) == stage


def test_nothing_is_printed_and_the_libraries_logging_is_left_as_it_was(
    tiny_sd: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    long = [Prompt("light " * 200)]
    Diffusers(str(tiny_sd), steps=1, runtime=CPU)(prompts=long, plates=[np.zeros((64, 64, 3), np.uint8)], seeds=[1])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries] == before


def test_check_loads_nothing_and_says_what_is_missing(stage: Diffusers, tmp_path: Path) -> None:
    stage.check()
    assert "_pipeline" not in stage.__dict__
    with pytest.raises(UnavailableError, match="no/such-model"):
        Diffusers("no/such-model").check()
    with pytest.raises(UnavailableError, match=str(tmp_path)):
        Diffusers(str(tmp_path)).check()
    with pytest.raises(UnavailableError, match="device"):
        replace(stage, runtime=Runtime(device="abacus")).check()


def test_weights_that_are_not_safetensors_are_not_loaded(tiny_sd: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for path in tiny_sd.rglob("*"):
        copy = tmp_path / path.relative_to(tiny_sd)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        elif path.suffix == ".safetensors":
            torch.save(load_file(path), copy.with_suffix(".bin"))
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    with pytest.raises(UnavailableError, match="safetensors"):
        _call(Diffusers(str(tmp_path), runtime=CPU), [(64, 64)])


def test_a_pipeline_of_another_kind_is_one_sentence(tiny_sd: Path, tmp_path: Path) -> None:
    for path in tiny_sd.rglob("*.*"):
        copy = tmp_path / path.relative_to(tiny_sd)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    index = tmp_path / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', '"DDPMPipeline"'))
    with pytest.raises(UnavailableError, match=r"generate\.model: AutoPipelineForText2Image cannot load"):
        _call(Diffusers(str(tmp_path), runtime=CPU), [(64, 64)])


def test_settings_are_read_from_a_table_and_wrong_ones_are_named() -> None:
    adapter = TypeAdapter(Diffusers)
    read = adapter.validate_python({"steps": 4, "guidance": 0, "runtime": {"dtype": "float16", "offload": "model"}})
    assert read == Diffusers(steps=4, guidance=0, runtime=Runtime(dtype="float16", offload="model"))
    for wrong in (
        {"steps": 0},
        {"guidance": -1},
        {"size": 8},
        {"runtime": {"dtpye": "float16"}},
        {"runtime": {"offload": "disk"}},
    ):
        with pytest.raises(ValidationError, match="|".join(wrong)):
            adapter.validate_python(wrong)
    assert Diffusers.execution_only == {"batch_size", "runtime"}


@pytest.mark.slow
def test_the_generation_benchmark_compares_with_the_prototype(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import generation

    generation.main(quick=True, json=tmp_path / "found.json")
    assert "prototype" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(row["steps"], row["batch"]) for row in found["rows"]] == [(5, 1), (5, 1), (2, 1), (2, 2), (2, 2)]
    prototype, half, *fewer = found["rows"]
    assert half["flops"] == prototype["flops"]  # another number format is the same work
    # PNDM evaluates the model once more than it has steps; what does not depend on steps (text, decoding) stays.
    assert all(0.3 < row["flops"] / prototype["flops"] < 0.8 for row in fewer)
    assert all(0 < row["flops"] / row["seconds"] < found["peak"] for row in found["rows"])
