"""A diffusers pipeline: where its files are, how it is loaded, sized, and run in batches."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from augment.artifacts import Image, Prompt, Rejected
from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.models.batches import free_memory, in_batches
from augment.models.quiet import quiet
from augment.models.weights import DtypeName, HubWeights, missing_safetensors, pick_device, pick_dtype

if TYPE_CHECKING:
    import torch

_LIBRARIES = ("diffusers", "transformers")


@dataclass(frozen=True)
class DiffusersWeights(HubWeights):
    """A pipeline's files; `resolve` gives the folder for `from_pretrained`.

    `variant` chooses among weights of the same model ("fp16"); `without` names components that will not be loaded.
    """

    variant: str | None = None
    without: tuple[str, ...] = ()

    libraries = _LIBRARIES
    index = "model_index.json"

    def _lacks(self, folder: Path) -> str | None:
        if not (folder / self.index).is_file():
            return self.index
        components: dict[str, Any] = json.loads((folder / self.index).read_bytes())
        of_variant = []
        for name, value in components.items():
            if name in self.without or not isinstance(value, list) or value[0] is None:
                continue
            if not (folder / name).is_dir():
                return name
            if (folder / name / "config.json").is_file():
                # If a component has no weights of this variant, diffusers takes the plain ones.
                lacks = missing_safetensors(folder / name, self.variant)
                of_variant.append(lacks is None)
                if lacks and missing_safetensors(folder / name):
                    return f"{name}/{lacks}"
        return f"*.{self.variant}.safetensors" if of_variant and not any(of_variant) else None

    def _fetch(self) -> Path:
        from diffusers import DiffusionPipeline

        # Unlike a snapshot this leaves out what the pipeline does not read: single-file checkpoints, other variants.
        options = dict.fromkeys(self.without)
        folder = DiffusionPipeline.download(
            self.model, revision=self.revision, variant=self.variant, use_safetensors=True, **options
        )
        return Path(folder)

    @property
    def command(self) -> str:
        options = {"revision": self.revision, "variant": self.variant, "use_safetensors": True}
        given = "".join(f", {name}={value!r}" for name, value in options.items() if value)
        return f'python -c "from diffusers import DiffusionPipeline as P; P.download({self.model!r}{given})"'


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


@dataclass(frozen=True)
class DiffusersModel:
    """The settings that every role of a pipeline has. The same seed gives the same image in any batch and on any
    device, up to rounding.

    - `model`: its name on the hub, or a folder; `revision` (branch, tag or commit) and `variant` ("fp16") of its files.
    - `steps`, `guidance`: denoising steps, and the weight of the prompt; up to 1 the negative prompt has no effect.
      A turbo model ("stabilityai/sd-turbo") takes 1 to 4 steps and guidance 0.
    - `scheduler`: "auto" (DPM-Solver++ if it suits the model), "model" (the model's own), or a diffusers class name.
    - `size`: side in pixels of a square of the area to work at; None is the model's own (Stable Diffusion 1.5: 512).
    - `batch_size`: images at once; halved while memory does not suffice.
    - `runtime`: see `Runtime`.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"batch_size", "runtime"})
    auto_class: ClassVar[str]  # diffusers' `AutoPipelineFor…` that loads it
    table: ClassVar[str]  # where its settings are in a recipe, for messages

    model: str
    revision: str | None = None
    variant: str | None = None
    steps: Annotated[int, Field(ge=1)] = 20
    guidance: Annotated[float, Field(ge=0)] = 7.5
    scheduler: str = "auto"
    size: Annotated[int, Field(ge=64)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8
    runtime: Runtime = field(default_factory=Runtime)

    def weights(self) -> DiffusersWeights:
        return DiffusersWeights(self.model, self.revision, self.variant)

    def target(self) -> str:
        return pick_device(self.runtime.device)

    def check(self) -> None:
        """Raise UnavailableError if diffusers, the model or the device is missing; loads nothing."""
        self.weights().check()
        self.target()

    def unload(self) -> None:
        for loaded in ("_pipeline", "_fits"):
            self.__dict__.pop(loaded, None)
        free_memory()

    def draw(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        shapes: Sequence[tuple[int, ...]],
        conditions: Callable[[Sequence[int], tuple[int, int]], Mapping[str, Any]] = lambda indices, size: {},
    ) -> list[Image | Rejected | ItemFailed]:
        """One image for each prompt, in the aspect of its shape `(H, W, …)` but at the size that the model works at.

        Items that are drawn at one size make up the batches. `conditions(indices, size)` gives the pipeline's further
        arguments for the items at `indices`, which are drawn at `size` (height, width).
        """
        sizes = [working_size(self._pipeline, shape[0], shape[1], self.size) for shape in shapes]
        results: dict[int, Image | Rejected | ItemFailed] = {}
        too_large = f'no memory for one image: lower {self.table}.size, or set {self.table}.runtime.offload = "model"'
        for size in dict.fromkeys(sizes):
            indices = [index for index, other in enumerate(sizes) if other == size]
            work = partial(self._draw_batch, prompts, seeds, size, conditions)
            made, self._fits[size] = in_batches(indices, self._fits.get(size, self.batch_size), work, too_large)
            results |= zip(indices, made, strict=True)
        return [results[index] for index in range(len(sizes))]

    def _draw_batch(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        size: tuple[int, int],
        conditions: Callable[[Sequence[int], tuple[int, int]], Mapping[str, Any]],
        indices: Sequence[int],
    ) -> list[Image | Rejected]:
        # Pipelines differ in what they make of a negative prompt that guidance does not use, so it is left out.
        guided = {"negative_prompt": [prompts[index].negative for index in indices]} if self.guidance > 1 else {}
        return call_pipeline(
            self._pipeline,
            [seeds[index] for index in indices],
            prompt=[prompts[index].text for index in indices],
            height=size[0],
            width=size[1],
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            **guided,
            **conditions(indices, size),
        )

    @cached_property
    def _pipeline(self) -> Any:
        return load_pipeline(self.auto_class, self.weights(), self.scheduler, self.runtime, self.table)

    @cached_property
    def _fits(self) -> dict[tuple[int, int], int]:
        """The batch size that memory has allowed so far at each working size."""
        return {}


def load_pipeline(auto_class: str, source: DiffusersWeights, scheduler: str, runtime: Runtime, table: str) -> Any:
    """The pipeline `source`, ready to be called on its device; `auto_class` is diffusers' `AutoPipelineFor…`.

    Reads only `safetensors` and runs no code of the model's own. `scheduler` as in `set_scheduler`; `table` is the part
    of the recipe that an error names. Raises UnavailableError if the pipeline cannot be had or loaded.
    """
    path, device = source.resolve(), pick_device(runtime.device)
    import diffusers
    import torch

    with quiet(*_LIBRARIES):
        try:
            pipeline = getattr(diffusers, auto_class).from_pretrained(
                path,
                variant=source.variant,
                dtype=_dtype(runtime, path, device),
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, RuntimeError, ImportError, AttributeError, KeyError) as error:
            raise UnavailableError(
                f"{table}.model: {auto_class} cannot load {source.model!r} from {path}: {error}"
            ) from error
    pipeline.set_progress_bar_config(disable=True)
    set_scheduler(pipeline, scheduler, table)
    denoiser, vae = _denoiser(pipeline), getattr(pipeline, "vae", None)
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
    return pipeline


def set_scheduler(pipeline: Any, scheduler: str, table: str) -> None:
    """Give the pipeline its scheduler: "model" keeps its own, a diffusers class name replaces it by that class.

    "auto" is second-order DPM-Solver++ over Karras' noise levels (Lu et al. 2022, Karras et al. 2022), which needs
    about 20 steps; the schedulers that models are saved with need 50. It keeps the model's own if that does not apply:
    flow matching, consistency models, and models distilled to a few steps, saved with "trailing" time steps.
    Raises RecipeError if the class does not fit the model, UnavailableError if it needs a library that is missing.
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
            raise RecipeError(f"{table}.scheduler: {scheduler!r} does not fit this model; it takes {known}")
        try:
            pipeline.scheduler = getattr(diffusers, scheduler).from_config(own.config)
        except ImportError as error:
            raise UnavailableError(f"{table}.scheduler: {' '.join(str(error).split())}") from error


def working_size(pipeline: Any, height: int, width: int, size: int | None) -> tuple[int, int]:
    """Height and width to work at for a picture of `height` by `width`: its aspect, the model's own area (or `size`²).

    Each is a multiple of what the pipeline takes. Raises RecipeError if the model does not say what its size is.
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
    """One image per seed, `(H, W, 3)` uint8 RGB, or Rejected if a safety checker flags it or it holds NaN.

    Each image has a generator of its own, on the CPU, so it depends neither on its batch nor on the device, except for
    rounding. Arguments that this pipeline does not have are left out.
    """
    import torch

    known = inspect.signature(pipeline.__call__).parameters
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    # A safety checker casts NaN pixels to integers on its way; they are found and rejected afterwards.
    with quiet(*_LIBRARIES), np.errstate(invalid="ignore"):
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
            results.append(Rejected('the model gave NaN; dtype = "float32" helps if this happens often'))
        else:
            results.append(np.ascontiguousarray(image))
    return results


def _denoiser(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)


def _dtype(runtime: Runtime, path: Path, device: str) -> torch.dtype:
    import torch

    transformer = "transformer" in json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    if runtime.dtype == "auto" and device.startswith("cuda") and not transformer:
        return torch.float16
    return pick_dtype(runtime.dtype, device)
