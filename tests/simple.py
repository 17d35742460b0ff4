"""Stages that are quick and easy to predict, and that note their calls: what chain and prewarm are tested with.

They are written as a user would write backends; tests/plugin names them for recipes in TOML.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from augment.artifacts import Matte, Prompt, Rejected
from augment.errors import ItemFailed
from augment.recipe import Recipe
from augment.stages.caption import Captioner
from augment.stages.generate import Generator
from augment.stages.inpaint import Inpainter
from augment.stages.refine import Refiner
from augment.stages.remove import Remover

CALLS: Counter[str] = Counter()  # items by kind


@dataclass(frozen=True)
class RedRemover(Remover):
    """What is much redder than green is object; an image as wide as `broken` raises."""

    backend: ClassVar[str] = "red"
    execution_only: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    batch_size: int = 4
    broken: int = 0

    def __call__(self, *, images, **_):
        CALLS["remove"] += len(images)
        if any(image.shape[1] == self.broken for image in images):
            raise ValueError("this image breaks its batch")
        return [Matte.from_full(_red(image)) for image in images]


@dataclass(frozen=True)
class MeanInpainter(Inpainter):
    """The mean color of what is visible."""

    backend: ClassVar[str] = "mean"
    parallel: ClassVar[bool] = True

    def __call__(self, *, images, mattes):
        CALLS["inpaint"] += len(images)
        plates = []
        for image, matte in zip(images, mattes, strict=True):
            hole = matte.hole(0.01)
            plate = image.copy()
            plate[hole] = image[~hole].mean(0)
            plates.append(plate)
        return plates


@dataclass(frozen=True)
class SizeCaptioner(Captioner):
    """Says how large the plate is."""

    backend: ClassVar[str] = "size"
    execution_only: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    batch_size: int = 3

    def __call__(self, *, plates):
        CALLS["caption"] += len(plates)
        return [f"a plate of {plate.shape[1]} by {plate.shape[0]}" for plate in plates]


@dataclass(frozen=True)
class EchoRefiner(Refiner):
    """Repeats everything that it is given."""

    backend: ClassVar[str] = "echo"

    def __call__(self, *, captions, groups, variants, seeds):
        CALLS["refine"] += len(captions)
        parts = zip(captions, groups, variants, seeds, strict=True)
        return [Prompt(f"{caption}, {variant}, {seed}", f"no {group}") for caption, group, variant, seed in parts]


@dataclass(frozen=True)
class NoiseGenerator(Generator):
    """Smooth noise from the seed; some seeds are rejected or fail, if told so."""

    backend: ClassVar[str] = "noise"
    execution_only: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    batch_size: int = 3
    strength: int = 40
    reject_odd: bool = False
    black: bool = False
    fail_even: bool = False

    def __call__(self, *, prompts, plates, seeds, **_):
        CALLS["generate"] += len(prompts)
        return [self._one(plate, seed) for plate, seed in zip(plates, seeds, strict=True)]

    def _one(self, plate, seed):
        if self.black:
            return np.zeros_like(plate)
        if self.fail_even and seed % 2 == 0:
            return ItemFailed("an even seed")
        if self.reject_odd and seed % 2:
            return Rejected("odd")
        noise = np.random.default_rng(seed).normal(128, self.strength, plate.shape)
        return cv2.blur(noise.clip(0, 255).astype(np.uint8), (3, 3))


def _red(image):
    excess = image[..., 0].astype(np.int16) - image[..., 1]
    return (np.clip((excess - 40) / 40, 0, 1) * 255).astype(np.uint8)


STAGES = {
    "remove": RedRemover,
    "inpaint": MeanInpainter,
    "caption": SizeCaptioner,
    "refine": EchoRefiner,
    "generate": NoiseGenerator,
}


def recipe(retries: int = 3, **settings) -> Recipe:
    """A recipe of these stages; a keyword such as `generate={"strength": 3}` gives one its settings."""
    stages = {kind: stage(**settings.pop(kind, {})) for kind, stage in STAGES.items()}
    return Recipe("simple", stages, retries, **settings)


REMOVE, INPAINT, CAPTION, REFINE, GENERATE = (stage.kind for stage in STAGES.values())
