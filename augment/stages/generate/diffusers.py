"""Any text-to-image pipeline of diffusers: Stable Diffusion, SDXL, Turbo, Flux, …"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from augment.artifacts import Image, Matte, Prompt, Rejected
from augment.errors import ItemFailed
from augment.fit import cover
from augment.stages.base import Stage
from augment.stages.diffusion import Run, call_pipeline, free_memory, in_batches, load_pipeline, working_size
from augment.weights import DiffusersPipeline, pick_device

_NO_MEMORY = 'no memory for one image: lower generate.size, or set generate.run.offload = "model"'


@dataclass(frozen=True)
class Diffusers(Stage):
    """Backgrounds by a text-to-image pipeline, loaded through `diffusers.AutoPipelineForText2Image`.

    Uses the prompt and the plate's size. An image is made at the model's own area in the plate's aspect, and brought to
    the plate's size by a centred crop (sides are multiples of 64 for Stable Diffusion) and a resize. The same seed
    gives the same image in any batch and on any device, up to rounding.

    - `model`: its name on the hub, or a folder; `revision` (branch, tag or commit) and `variant` ("fp16") of its files.
    - `steps`, `guidance`: denoising steps, and the weight of the prompt; up to 1 the negative prompt has no effect.
      A turbo model ("stabilityai/sd-turbo") takes 1 to 4 steps and guidance 0.
    - `scheduler`: "auto" (DPM-Solver++ where it suits the model), "model" (the model's own), or a diffusers class name.
    - `size`: side in pixels of a square of the area to generate; left out, the model's own (Stable Diffusion 1.5: 512).
    - `batch_size`: images at once; halved for as long as memory does not suffice. `run`: see `Run`.
    """

    backend: ClassVar[str] = "diffusers"
    execution_only: ClassVar[frozenset[str]] = frozenset({"batch_size", "run"})

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    revision: str | None = None
    variant: str | None = None
    steps: Annotated[int, Field(ge=1)] = 20
    guidance: Annotated[float, Field(ge=0)] = 7.5
    scheduler: str = "auto"
    size: Annotated[int, Field(ge=64)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8
    run: Run = field(default_factory=Run)

    def __call__(
        self, prompts: Sequence[Prompt], plates: Sequence[Image], mattes: Sequence[Matte], seeds: Sequence[int]
    ) -> list[Image | Rejected | ItemFailed]:
        """Any number of items: those that are generated at one size make up the batches."""
        sizes = [working_size(self._pipeline, plate.shape[0], plate.shape[1], self.size) for plate in plates]
        results: list[Any] = [None] * len(plates)
        for size in dict.fromkeys(sizes):
            indices = [index for index, other in enumerate(sizes) if other == size]
            generate = partial(self._generate, prompts, seeds, size)
            made, self._fits[size] = in_batches(indices, self._fits.get(size, self.batch_size), generate, _NO_MEMORY)
            for index, image in zip(indices, made, strict=True):
                height, width = plates[index].shape[:2]
                results[index] = cover(image, height, width) if isinstance(image, np.ndarray) else image
        return results

    def check(self) -> None:
        """Raise WeightsError where diffusers, the model or the device is not to be had; loads nothing."""
        self.weights().check()
        pick_device(self.run.device)

    def where(self) -> str:
        return pick_device(self.run.device)

    def unload(self) -> None:
        super().unload()
        free_memory()

    def weights(self) -> DiffusersPipeline:
        """The model's files."""
        return DiffusersPipeline(self.model, self.revision, self.variant)

    @cached_property
    def _pipeline(self) -> Any:
        return load_pipeline("AutoPipelineForText2Image", self.weights(), self.scheduler, self.run, "generate")

    @cached_property
    def _fits(self) -> dict[tuple[int, int], int]:
        """The batch size that memory allowed at each working size so far."""
        return {}

    def _generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], size: tuple[int, int], indices: Sequence[int]
    ) -> list[Image | Rejected]:
        """One batch: the items at `indices`, each of `size` (height, width)."""
        # Pipelines differ in what they make of a negative prompt that guidance does not use; it is left out there.
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
        )
