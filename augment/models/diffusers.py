"""What every backend that runs a diffusers pipeline shares: how it is loaded, run in batches, and sized."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from augment.artifacts import Image, Rejected
from augment.errors import ItemFailed, RecipeError, WeightsError
from augment.weights import DiffusersPipeline, DtypeName, pick_device, pick_dtype

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """How a pipeline runs. None of it is part of the fingerprint: it moves the result by rounding at most.

    - `device`: "auto", "cpu", "cuda", "cuda:1", "mps".
    - `dtype`: "auto" is, on CUDA, float16 for a U-Net (bfloat16 costs the decoder precision) and bfloat16 for a
      transformer (float16 overflows in some of them); elsewhere float32.
    - `channels_last`: memory order of the convolutions' weights, faster in half precision; left out, on where CUDA is.
    - `compile`: `torch.compile` for the denoiser; takes minutes, and again for a new size, so only for large jobs.
    - `vae_slicing`: decode one image after another, which costs next to no time and bounds the memory of a batch.
    - `vae_tiling`: decode an image in tiles; for sizes far beyond the model's own on a small GPU.
    - `offload`: keep the pipeline in main memory and bring over one "model" at a time (half the memory or less, little
      slower) or one layer at a time ("sequential": least memory, many times slower). No effect on the CPU.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    device: str = "auto"
    dtype: DtypeName = "auto"
    channels_last: bool | None = None
    compile: bool = False
    vae_slicing: bool = True
    vae_tiling: bool = False
    offload: Literal["none", "model", "sequential"] = "none"


def load_pipeline(auto_class: str, source: DiffusersPipeline, scheduler: str, run: Run, stage: str) -> Any:
    """The pipeline `source`, ready to be called on its device; `auto_class` is diffusers' `AutoPipelineFor…`.

    Reads `safetensors` alone and runs no code of the model's own. `scheduler` as in `set_scheduler`; `stage` is the
    kind that an error names. Raises WeightsError where the pipeline cannot be had or loaded.
    """
    import diffusers
    import torch

    path, device = source.resolve(), pick_device(run.device)
    with quiet():
        try:
            pipeline = getattr(diffusers, auto_class).from_pretrained(
                path,
                variant=source.variant,
                dtype=_dtype(run, path, device),
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, RuntimeError, ImportError, AttributeError, KeyError) as error:
            raise WeightsError(
                f"{stage}.model: {auto_class} cannot load {source.model!r} from {path}: {error}"
            ) from error
    pipeline.set_progress_bar_config(disable=True)
    set_scheduler(pipeline, scheduler, stage)
    denoiser, vae = _denoiser(pipeline), getattr(pipeline, "vae", None)
    on_cuda = device.startswith("cuda")
    if on_cuda if run.channels_last is None else run.channels_last:
        for part in (denoiser, vae):
            if part is not None and any(parameter.ndim == 4 for parameter in part.parameters()):
                part.to(memory_format=torch.channels_last)
    for wanted, switch in ((run.vae_slicing, "enable_slicing"), (run.vae_tiling, "enable_tiling")):
        if wanted and hasattr(vae, switch):
            getattr(vae, switch)()
    if run.offload == "none" or device == "cpu":
        pipeline.to(device)
    elif run.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    if run.compile and denoiser is not None:
        denoiser.compile()
    return pipeline


def set_scheduler(pipeline: Any, scheduler: str, stage: str) -> None:
    """Give the pipeline its scheduler: "model" keeps its own, a diffusers class name puts that class in its place.

    "auto" is DPM-Solver++ of second order over Karras' noise levels (Lu et al. 2022, Karras et al. 2022), which needs
    about 20 steps where the schedulers that models are saved with need 50. It keeps the model's own where that does not
    apply: flow matching, consistency models, and models distilled to a few steps, saved with "trailing" time steps.
    Raises RecipeError where the class does not fit the model, WeightsError where it needs a library that is not here.
    """
    import diffusers

    own = pipeline.scheduler
    compatible = sorted({cls.__name__ for cls in own.compatibles})
    if scheduler == "auto":
        if "DPMSolverMultistepScheduler" in own._compatibles and own.config.get("timestep_spacing") != "trailing":
            better: Any = diffusers.DPMSolverMultistepScheduler
            pipeline.scheduler = better.from_config(own.config, use_karras_sigmas=True)
    elif scheduler != "model":
        if scheduler not in compatible:
            known = ", ".join(["auto", "model", *compatible])
            raise RecipeError(f"{stage}.scheduler: {scheduler!r} does not fit this model; it takes {known}")
        try:
            pipeline.scheduler = getattr(diffusers, scheduler).from_config(own.config)
        except ImportError as error:
            raise WeightsError(f"{stage}.scheduler: {' '.join(str(error).split())}") from error


def working_size(pipeline: Any, height: int, width: int, size: int | None) -> tuple[int, int]:
    """Height and width to work at for a picture of `height` by `width`: its aspect, the model's own area (or `size`²).

    Each is a multiple of what the pipeline takes. Raises RecipeError where the model does not say what its size is.
    """
    denoiser = _denoiser(pipeline)
    config: Any = {} if denoiser is None else denoiser.config
    scale = getattr(pipeline, "vae_scale_factor", 1)
    # A U-Net halves the latents between its levels; a transformer takes them in patches.
    levels = config.get("block_out_channels")
    multiple = max(8, scale * (2 ** (len(levels) - 1) if levels else max(2, config.get("patch_size") or 2)))
    if size is None:
        latent = getattr(pipeline, "default_sample_size", None) or config.get("sample_size")
        if latent is None:
            raise RecipeError("this model does not say what its size is: set the stage's `size`, in pixels")
        area = float(np.prod(np.broadcast_to(latent, 2), dtype=float)) * scale**2
    else:
        area = float(size) ** 2
    ideal = np.sqrt(area * np.array([height / width, width / height]))
    rows, columns = np.maximum(1, np.round(ideal / multiple)).astype(int).tolist()
    return rows * multiple, columns * multiple


def call_pipeline(pipeline: Any, seeds: Sequence[int], **arguments: Any) -> list[Image | Rejected]:
    """One image a seed, `(H, W, 3)` uint8 RGB, or Rejected where a safety checker flags it or it is not a number.

    Each image has a generator of its own, on the CPU, so it does not depend on its batch nor on the device, but for
    rounding. Arguments that this pipeline does not have are left out.
    """
    import torch

    known = inspect.signature(pipeline.__call__).parameters
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    with quiet():
        made = pipeline(
            generator=generators,
            output_type="pt",
            **{name: value for name, value in arguments.items() if name in known},
        )
    flags = getattr(made, "nsfw_content_detected", None) or [False] * len(seeds)
    pixels = made.images.float()
    broken = (~torch.isfinite(pixels)).flatten(1).any(1).tolist()
    images = (pixels.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    results: list[Image | Rejected] = []
    for image, flagged, nan in zip(images, flags, broken, strict=True):
        if flagged:
            results.append(Rejected("flagged by the safety checker"))
        elif nan:
            results.append(Rejected('the model gave NaN; dtype = "float32" helps where this happens often'))
        else:
            results.append(np.ascontiguousarray(image))
    return results


def in_batches(
    items: Sequence[T], batch_size: int, work: Callable[[Sequence[T]], Sequence[Any]], too_large: str
) -> tuple[list[Any], int]:
    """`work` over `items` in batches, halved whenever the device runs out of memory; also the batch size that held.

    An item for which there is no memory even alone becomes `ItemFailed(too_large)`.
    """
    import torch

    results: list[Any] = []
    while len(results) < len(items):
        batch = items[len(results) : len(results) + batch_size]
        try:
            results += work(batch)
            continue
        except torch.OutOfMemoryError as error:
            log.debug("out of memory: %s", error)
        # Only after the handler, since the error's traceback holds the tensors of the batch that failed.
        free_memory()
        if len(batch) == 1:
            results.append(ItemFailed(too_large))
        else:
            batch_size = len(batch) // 2
            log.warning("out of memory with a batch of %d: going on with %d", len(batch), batch_size)
    return results, batch_size


def free_memory() -> None:
    """Give back what dropped models held, on the GPU too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def quiet() -> Iterator[None]:
    """diffusers and transformers without progress bars and without any message short of an error."""
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        # A safety checker casts NaN pixels to integers on its way; they are found and rejected afterwards.
        with np.errstate(invalid="ignore"):
            yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def _denoiser(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)


def _dtype(run: Run, path: Path, device: str) -> Any:
    import torch

    transformer = "transformer" in json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    if run.dtype == "auto" and device.startswith("cuda") and not transformer:
        return torch.float16
    return pick_dtype(run.dtype, device)
