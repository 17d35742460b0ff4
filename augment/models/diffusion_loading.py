"""Load a diffusers pipeline onto its device, with what is laid over it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from augment.errors import AugmentError, UnavailableError
from augment.models.diffusion_control import ControlNet, check_fit
from augment.models.diffusion_files import INDEX, LIBRARIES, CheckpointFile, DiffusersWeights, Embedding, Lora
from augment.models.diffusion_schedule import Own, distillation, own_settings, set_scheduler
from augment.models.quiet import quiet
from augment.models.weights import DtypeName, pick_device, pick_dtype

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Runtime:
    """How a pipeline runs. None of it is part of the fingerprint: it changes the result by rounding at most.

    - `device`: "auto", "cpu", "cuda", "cuda:1", "mps".
    - `dtype`: "auto" is, on CUDA, float16 for a U-Net (bfloat16 costs the decoder precision) and bfloat16 for a
      transformer (float16 overflows in some of them); elsewhere float32.
    - `channels_last`: memory order of the convolutions' weights, faster in half precision; None is on for CUDA.
    - `compile`: `torch.compile` for the denoiser; takes minutes, and again for a new size, so only for large jobs.
    - `vae_slicing`: decode one image after another, which takes hardly more time and bounds the memory of a batch.
    - `vae_tiling`: decode an image in tiles; for sizes far beyond the model's own on a small GPU.
    - `offload`: keep the pipeline in main memory and move one "model" at a time to the GPU (half the memory or less,
      little slower) or one layer at a time ("sequential": least memory, many times slower). No effect on the CPU.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    device: str = "auto"
    dtype: DtypeName = "auto"
    channels_last: bool | None = None
    compile: bool = False
    vae_slicing: bool = True
    vae_tiling: bool = False
    offload: Literal["none", "model", "sequential"] = "none"


def load_pipeline(
    auto_class: str,
    source: DiffusersWeights | CheckpointFile,
    scheduler: str,
    runtime: Runtime,
    table: str,
    loras: Sequence[Lora] = (),
    embeddings: Sequence[Embedding] = (),
    controlnet: ControlNet | None = None,
) -> tuple[Any, Own]:
    """The pipeline `source`, ready to be called on its device, and its own settings; `auto_class` is diffusers'
    `AutoPipelineFor…`.

    Reads only tensors and runs no code of the model's own. `scheduler` as in `choose_scheduler`; `table` is the part of
    the recipe that an error names. Raises UnavailableError if the pipeline cannot be had or loaded.
    """
    path, device = source.resolve(), pick_device(runtime.device)
    with quiet(*LIBRARIES):
        try:
            pipeline = (_from_file if isinstance(source, CheckpointFile) else _from_folder)(
                auto_class, source, path, runtime, device, table, controlnet
            )
        except AugmentError:
            raise
        except (OSError, ValueError, RuntimeError, ImportError, AttributeError, KeyError, TypeError) as error:
            raise UnavailableError(
                f"{table}.model: {auto_class} cannot load {source.model!r} from {path}: {error}"
            ) from error
        names = [source.model]
        for lora in loras:
            names += [lora.model, lora.file or ""]
        _lay_over(pipeline, loras, embeddings, table)
    pipeline.set_progress_bar_config(disable=True)
    distilled = distillation(pipeline, names)
    set_scheduler(pipeline, scheduler, table, distilled)
    own = own_settings(pipeline, distilled)
    _place(pipeline, runtime, device)
    return pipeline, own


def denoiser_of(pipeline: Any) -> Any:
    """The network that is called at every step; None if the pipeline names it otherwise."""
    return getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)


def _from_folder(
    auto_class: str, source: Any, path: Path, runtime: Runtime, device: str, table: str, controlnet: ControlNet | None
) -> Any:
    import diffusers

    dtype = _dtype(runtime, path, device)
    without: dict[str, Any] = dict.fromkeys(source.without)
    if "safety_checker" in without:
        without["requires_safety_checker"] = False
    return getattr(diffusers, auto_class).from_pretrained(
        path,
        variant=source.variant_in(path),
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        **without,
        **_control(controlnet, path, source.model, dtype, table),
    )


def _from_file(
    auto_class: str, source: Any, path: Path, runtime: Runtime, device: str, table: str, controlnet: ControlNet | None
) -> Any:
    """A checkpoint in one file, by the class that its layout names, then as the pipeline for the task."""
    import diffusers

    layout = source.layout().resolve()
    index = json.loads((layout / INDEX).read_bytes())
    # Such files hold no safety checker.
    without = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    dtype = _dtype(runtime, layout, device)
    pipeline = getattr(diffusers, index["_class_name"]).from_single_file(
        str(path), config=str(layout), local_files_only=True, dtype=dtype, **without
    )
    control = _control(controlnet, layout, source.model, dtype, table)
    return getattr(diffusers, auto_class).from_pipe(pipeline, dtype=dtype, **control)


def _control(controlnet: ControlNet | None, base: Path, model: str, dtype: torch.dtype, table: str) -> dict[str, Any]:
    """The ControlNet as a component of the pipeline whose configuration is in `base`."""
    if controlnet is None:
        return {}
    controlnet.weights().resolve()
    check_fit(controlnet, base, model, table)
    return {"controlnet": controlnet.weights().load(dtype)}


def _lay_over(pipeline: Any, loras: Sequence[Lora], embeddings: Sequence[Embedding], table: str) -> None:
    for lora in loras:
        try:
            path = lora.weights().resolve()
            pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name="lora", use_safetensors=True)
            # Added to the weights, a LoRA costs no time at each step.
            pipeline.fuse_lora(lora_scale=lora.weight, adapter_names=["lora"])
            pipeline.unload_lora_weights()
        except AugmentError:
            raise
        except Exception as error:
            raise UnavailableError(f"{table}.lora: {lora.model} does not fit this model: {_line(error)}") from error
    for embedding in embeddings:
        try:
            _embed(pipeline, embedding)
        except AugmentError:
            raise
        except Exception as error:
            raise UnavailableError(
                f"{table}.embeddings: {embedding.model} does not fit this model: {_line(error)}"
            ) from error


def _embed(pipeline: Any, embedding: Embedding) -> None:
    from safetensors.torch import load_file

    path = embedding.weights().resolve()
    state = load_file(path)
    token = embedding.token
    if not {"clip_l", "clip_g"} & state.keys():
        pipeline.load_textual_inversion(state, token=token or _stored_token(state, path))
        return
    token = token or path.stem  # files for SDXL store none, and are called by it
    for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
        if key in state:
            pipeline.load_textual_inversion(
                state[key],
                token=token,
                text_encoder=getattr(pipeline, f"text_encoder{suffix}"),
                tokenizer=getattr(pipeline, f"tokenizer{suffix}"),
            )


def _stored_token(state: dict[str, Any], path: Path) -> str:
    """diffusers names the only tensor by its token; WebUI calls it "emb_params" and takes the file's name."""
    (name,) = state if len(state) == 1 else ("emb_params",)
    return path.stem if name == "emb_params" else name


def _place(pipeline: Any, runtime: Runtime, device: str) -> None:
    """Onto its device, in the memory order and with the switches of `runtime`."""
    import torch

    denoiser, vae = denoiser_of(pipeline), getattr(pipeline, "vae", None)
    on_cuda = device.startswith("cuda")
    if on_cuda if runtime.channels_last is None else runtime.channels_last:
        for part in (denoiser, vae):
            if part is not None and any(parameter.ndim == 4 for parameter in part.parameters()):
                part.to(memory_format=torch.channels_last)
    for wanted, switch in ((runtime.vae_slicing, "enable_slicing"), (runtime.vae_tiling, "enable_tiling")):
        if wanted and hasattr(vae, switch):
            getattr(vae, switch)()
    if runtime.offload == "none" or device == "cpu":
        pipeline.to(device)
    elif runtime.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    if runtime.compile and denoiser is not None:
        denoiser.compile()


def _dtype(runtime: Runtime, path: Path, device: str) -> torch.dtype:
    import torch

    transformer = "transformer" in json.loads((path / INDEX).read_text(encoding="utf-8"))
    if runtime.dtype == "auto" and device.startswith("cuda") and not transformer:
        return torch.float16
    return pick_dtype(runtime.dtype, device)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
