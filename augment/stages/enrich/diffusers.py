"""Any inpainting pipeline of diffusers, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Alpha, Image, Prompt, Rejected
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.diffusion import Run, call_pipeline, free_memory, in_batches, load_pipeline, working_size
from augment.weights import DiffusersPipeline, pick_device

_NO_MEMORY = 'no memory for one image: lower enrich.inpainter.size, or set enrich.inpainter.run.offload = "model"'


@dataclass(frozen=True)
class Diffusers(Stage):
    """Repaints through `diffusers.AutoPipelineForInpainting`: models made for inpainting, or plain text-to-image ones.

    - `model`: its name on the hub, or a folder; `revision` (branch, tag or commit) and `variant` ("fp16") of its files.
    - `steps`, `guidance`: denoising steps, and the weight of the sub-prompt.
    - `strength`: how much of the object is made anew; at 1 nothing of it is left.
    - `scheduler`: "auto" (DPM-Solver++ where it suits the model), "model" (the model's own), or a diffusers class name.
    - `size`: side in pixels of a square of the area to paint at; left out, the model's own.
    - `batch_size`: objects at once; halved for as long as memory does not suffice. `run`: see `Run`.
    """

    backend: ClassVar[str] = "diffusers"
    execution_only: ClassVar[frozenset[str]] = frozenset({"batch_size", "run"})

    model: str = "stable-diffusion-v1-5/stable-diffusion-inpainting"
    revision: str | None = None
    variant: str | None = None
    steps: Annotated[int, Field(ge=1)] = 20
    guidance: Annotated[float, Field(ge=0)] = 7.5
    strength: Annotated[float, Field(gt=0, le=1)] = 0.75
    scheduler: str = "auto"
    size: Annotated[int, Field(ge=64)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8
    run: Run = field(default_factory=Run)

    def __call__(
        self, images: Sequence[Image], masks: Sequence[Alpha], prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> list[Image | Rejected | ItemFailed]:
        """See `Painter`. Any number of objects: those that are painted at one size make up the batches."""
        sizes = [working_size(self._pipeline, image.shape[0], image.shape[1], self.size) for image in images]
        results: list[Any] = [None] * len(images)
        for size in dict.fromkeys(sizes):
            indices = [index for index, other in enumerate(sizes) if other == size]
            paint = partial(self._paint, images, masks, prompts, seeds, size)
            made, self._fits[size] = in_batches(indices, self._fits.get(size, self.batch_size), paint, _NO_MEMORY)
            for index, image in zip(indices, made, strict=True):
                results[index] = _resized(image, images[index].shape) if isinstance(image, np.ndarray) else image
        return results

    def check(self) -> None:
        """Raise WeightsError where diffusers, the model or the device is not to be had; loads nothing."""
        self.weights().check()
        self.where()

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
        return load_pipeline("AutoPipelineForInpainting", self.weights(), self.scheduler, self.run, "enrich.inpainter")

    @cached_property
    def _fits(self) -> dict[tuple[int, int], int]:
        """The batch size that memory allowed at each working size so far."""
        return {}

    def _paint(
        self,
        images: Sequence[Image],
        masks: Sequence[Alpha],
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        size: tuple[int, int],
        indices: Sequence[int],
    ) -> list[Image | Rejected]:
        """One batch: the objects at `indices`, each brought to `size` (height, width)."""
        import torch

        shape = (*size, 3)
        pixels = np.stack([_resized(images[index], shape) for index in indices])
        holes = np.stack([_resized(masks[index], shape) >= 128 for index in indices])
        # Tensors, not PIL images: diffusers would resize those by rules of its own.
        guided = {"negative_prompt": [prompts[index].negative for index in indices]} if self.guidance > 1 else {}
        return call_pipeline(
            self._pipeline,
            [seeds[index] for index in indices],
            prompt=[prompts[index].text for index in indices],
            image=torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255,
            mask_image=torch.from_numpy(holes)[:, None].float(),
            height=size[0],
            width=size[1],
            strength=self.strength,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            **guided,
        )


def _resized(image: Image, shape: tuple[int, ...]) -> Image:
    """`image` at the height and width of `shape`; unlike `cover` it is stretched, since a mask must still lie on it."""
    if image.shape[:2] == shape[:2]:
        return image
    method = cv2.INTER_AREA if shape[0] < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (shape[1], shape[0]), interpolation=method), np.uint8)
