"""A diffusers pipeline as a model of stages: its settings, the size that it works at, and calls in batches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
from pydantic import Field

from augment.artifacts import Alpha, Image, Prompt, Rejected
from augment.errors import ItemFailed, RecipeError
from augment.imaging.fit import stretch
from augment.models.batches import free_memory, in_batches
from augment.models.diffusion_control import ControlNet, check_fit
from augment.models.diffusion_files import (
    LIBRARIES,
    SUFFIXES,
    CheckpointFile,
    DiffusersWeights,
    Embedding,
    Lora,
)
from augment.models.diffusion_loading import Runtime, denoiser_of, load_pipeline
from augment.models.diffusion_schedule import Own, check_scheduler, warn_of_excess
from augment.models.quiet import quiet
from augment.models.weights import check_libraries, pick_device, read_json

# Further arguments of a pipeline for the items at these indices, which are drawn at this (height, width).
Conditions: TypeAlias = Callable[[Sequence[int], tuple[int, int]], Mapping[str, Any]]


@dataclass(frozen=True)
class DiffusersModel:
    """The settings that every role of a pipeline has. The same seed gives the same image in any batch and on any
    device, up to rounding.

    - `model`: its name on the hub, a folder, or a single .safetensors or .ckpt file, for which `config` names a
      pipeline of the same layout if diffusers does not recognize it; `revision` (branch, tag or commit) and `variant`
      ("fp16"; None takes plain weights, or the only variant there is) of its files.
    - `steps`, `guidance`: denoising steps, and the weight of the prompt; None is the model's own (Stable Diffusion 1.5:
      20 and 7.5; SDXL Turbo: 4 and 0). Up to guidance 1 the negative prompt has no effect.
    - `scheduler`: "auto" (what a distilled model was taught with, or DPM-Solver++ if it suits the model), "model" (the
      model's own), or a diffusers class name.
    - `lora`, `embeddings`: what is laid over the model; see `Lora` and `Embedding`.
    - `controlnet`: keeps what is drawn to the edges of the picture that it is drawn for; see `ControlNet`.
    - `safety_checker`: False does without it; what it flags is rejected. Many models have none.
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
    config: str | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    guidance: Annotated[float, Field(ge=0)] | None = None
    scheduler: str = "auto"
    lora: tuple[Lora, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    controlnet: ControlNet | None = None
    safety_checker: bool = True
    size: Annotated[int, Field(ge=64)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8
    runtime: Runtime = field(default_factory=Runtime)

    def weights(self) -> DiffusersWeights | CheckpointFile:
        if self.model.endswith(SUFFIXES):
            return CheckpointFile(self.model, self.config)
        without = () if self.safety_checker else ("safety_checker",)
        return DiffusersWeights(self.model, self.revision, self.variant, without)

    def target(self) -> str:
        return pick_device(self.runtime.device)

    def check(self) -> None:
        """Raise UnavailableError if a library, the model, what is laid over it or the device is missing, RecipeError if
        the scheduler does not fit the model; loads nothing."""
        weights = self.weights()
        weights.check()
        additions: list[Lora | Embedding] = [*self.lora, *self.embeddings]
        for addition in additions:
            addition.weights().check()
        if self.runtime.offload != "none":
            check_libraries(["accelerate"])
        self.target()
        folder = weights.layout().find() if isinstance(weights, CheckpointFile) else weights.find()
        path = (folder or Path()) / "scheduler" / "scheduler_config.json"
        if self.controlnet is not None:
            self.controlnet.weights().check()
            if folder is not None:
                check_fit(self.controlnet, folder, self.model, self.table)
        if self.scheduler not in ("auto", "model") and folder is not None and path.is_file():
            check_scheduler(read_json(path), self.scheduler, self.table)

    def unload(self) -> None:
        for loaded in ("_loaded", "_fits"):
            self.__dict__.pop(loaded, None)
        free_memory()

    def draw(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        pictures: Sequence[Image],
        conditions: Conditions = lambda indices, size: {},
    ) -> list[Image | Rejected | ItemFailed]:
        """One image for each prompt, in the aspect of its picture `(H, W, 3)` but at the size that the model works at.
        The pictures are what a ControlNet follows.

        Items that are drawn at one size make up the batches. `conditions(indices, size)` gives the pipeline's further
        arguments for the items at `indices`, which are drawn at `size` (height, width).
        """
        sizes = [working_size(self._pipeline, picture.shape[0], picture.shape[1], self.size) for picture in pictures]
        results: dict[int, Image | Rejected | ItemFailed] = {}
        too_large = f'no memory for one image: lower {self.table}.size, or set {self.table}.runtime.offload = "model"'
        for size in dict.fromkeys(sizes):
            indices = [index for index, other in enumerate(sizes) if other == size]
            work = partial(self._draw_batch, prompts, seeds, pictures, size, conditions)
            made, self._fits[size] = in_batches(indices, self._fits.get(size, self.batch_size), work, too_large)
            results |= zip(indices, made, strict=True)
        return [results[index] for index in range(len(sizes))]

    def _draw_batch(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        pictures: Sequence[Image],
        size: tuple[int, int],
        conditions: Conditions,
        indices: Sequence[int],
    ) -> list[Image | Rejected]:
        pipeline, own = self._loaded
        steps = own.steps if self.steps is None else self.steps
        guidance = own.guidance if self.guidance is None else self.guidance
        given = dict(conditions(indices, size))
        if self.controlnet is not None:
            known = inspect.signature(pipeline.__call__).parameters
            given |= self.controlnet.arguments([pictures[index] for index in indices], size, known)
        # Of the steps, only the share `strength` is run: at least one has to be.
        steps = max(steps, math.ceil(1 / given.get("strength", 1)))
        # Pipelines differ in what they make of a negative prompt that guidance does not use, so it is left out.
        guided = {"negative_prompt": [prompts[index].negative for index in indices]} if guidance > 1 else {}
        return call_pipeline(
            pipeline,
            [seeds[index] for index in indices],
            prompt=[prompts[index].text for index in indices],
            height=size[0],
            width=size[1],
            num_inference_steps=steps,
            **{own.argument: guidance},
            **own.extra,
            **guided,
            **given,
        )

    @property
    def _pipeline(self) -> Any:
        return self._loaded[0]

    @cached_property
    def _loaded(self) -> tuple[Any, Own]:
        loaded = load_pipeline(
            *(self.auto_class, self.weights(), self.scheduler, self.runtime, self.table),
            *(self.lora, self.embeddings, self.controlnet),
        )
        own = loaded[1]
        warn_of_excess(own, self.steps or 0, self.guidance or 0, self.model, self.table)
        return loaded

    @cached_property
    def _fits(self) -> dict[tuple[int, int], int]:
        """The batch size that memory has allowed so far at each working size."""
        return {}


def painting(images: Sequence[Image], masks: Sequence[Alpha], strength: float) -> Conditions:
    """The conditions of an inpainting pipeline: images `(H, W, 3)` uint8 RGB and masks `(H, W)` uint8, repainted where
    they are 128 or more. `strength` is how much of what is there is made anew; at 1 nothing of it is left."""

    def conditions(indices: Sequence[int], size: tuple[int, int]) -> Mapping[str, Any]:
        import torch

        holes = np.stack([stretch(masks[index], *size) >= 128 for index in indices])
        return {**starting(images, strength)(indices, size), "mask_image": torch.from_numpy(holes)[:, None].float()}

    return conditions


def starting(images: Sequence[Image], strength: float) -> Conditions:
    """The conditions of an image-to-image pipeline; `images` and `strength` as in `painting`."""

    def conditions(indices: Sequence[int], size: tuple[int, int]) -> Mapping[str, Any]:
        import torch

        pixels = np.stack([stretch(images[index], *size) for index in indices])
        # Tensors, not PIL images: diffusers would resize those by rules of its own.
        return {"image": torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, "strength": strength}

    return conditions


def working_size(pipeline: Any, height: int, width: int, size: int | None) -> tuple[int, int]:
    """Height and width to work at for a picture of `height` by `width`: its aspect, the model's own area (or `size`²).

    Each is a multiple of what the pipeline takes. Raises RecipeError if the model does not say what its size is.
    """
    denoiser = denoiser_of(pipeline)
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
    with quiet(*LIBRARIES), np.errstate(invalid="ignore"):
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
