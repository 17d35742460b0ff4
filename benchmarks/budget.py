"""The budget's rows for a hit: images of mixed sizes, PIL in and out, JPEG backgrounds, as people train."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A  # noqa: N812  # its own documentation's name for it
import numpy as np
import PIL.Image
import PIL.ImageFilter
from torchvision.transforms.v2 import functional as F  # noqa: N812  # torchvision's own name for it

import augment.albumentations
from augment import Cache, Placement
from augment.torchvision import ReplaceBackground
from benchmarks.samples import Sample
from benchmarks.timing import Figure, ratios, side_by_side

# Arguments of ReplaceBackground, and how long a hit may take relative to Pillow's decoding of the same image.
_HITS: dict[str, tuple[dict[str, Any], float]] = {
    "own": ({"source": "own"}, 1.0),
    "pool (the default)": ({}, 1.3),
    "pool, placement": ({"placement": Placement(scale=(0.7, 1.3), translate="uniform")}, 1.7),
    "pool, poisson": ({"blend": "poisson"}, 5.0),
    "own, harmonize 0.5": ({"source": "own", "harmonize": 0.5}, 1.7),
}
_FORAUG: dict[str, Any] = {
    "source": "plates:pool",
    "placement": Placement(scale=(0.7**0.5, 1.3**0.5), translate="uniform"),
    "blend": "feather",
}
_FORNET_SIGMA = 4.0  # pixels
_SAMPLE, _FORNET = "a whole sample with ForAug's settings", "ForNet's __getitem__"
_TIMES_FASTER_THAN_FORNET = 1.8
_ARRAYS = {"jpeg": 0.75, "raw": 0.3}
_PASSES = 2


def mixed_rows(store: Cache, samples: Sequence[Sample], rounds: int) -> dict[str, Figure]:
    """The rows for images of mixed sizes, relative to Pillow's decoding of the same image."""

    def decode(number: int) -> None:
        PIL.Image.open(io.BytesIO(samples[number].file)).load()

    hits = {name: _on_pil(ReplaceBackground(store, p=1, **settings), samples) for name, (settings, _) in _HITS.items()}
    foraug = ReplaceBackground(store, p=1, **_FORAUG)

    def sample(number: int) -> PIL.Image.Image:
        result: PIL.Image.Image = foraug(PIL.Image.open(io.BytesIO(samples[number].file)).convert("RGB"))
        return result

    others = {_SAMPLE: sample, _FORNET: _fornet(samples)}
    _, beside = side_by_side(hits | others, decode, len(samples), rounds, _PASSES)
    figures = {f"a hit, {name}": Figure.of(beside[name], goal) for name, (_, goal) in _HITS.items()}
    for name in others:
        figures[name] = Figure.of(beside[name])
    faster = ratios(beside[_FORNET], beside[_SAMPLE])
    figures["a whole sample: times faster than ForNet"] = Figure.of(faster, _TIMES_FASTER_THAN_FORNET, True)
    return figures


def array_rows(stores: dict[Any, Cache], samples: Sequence[Sample], rounds: int) -> dict[str, Figure]:
    """The rows for arrays of 512 x 512 and the images' own backgrounds."""

    def decode(number: int) -> None:
        PIL.Image.open(io.BytesIO(samples[number].file)).load()

    candidates: dict[str, Callable[[int], object]] = {}
    for codec in _ARRAYS:
        compose = A.Compose([augment.albumentations.ReplaceBackground(stores[codec], p=1, source="own")])
        candidates[codec] = _on_arrays(compose, samples)
    _, beside = side_by_side(candidates, decode, len(samples), rounds, 2 * _PASSES)
    return {
        f"a hit, own, array of 512 x 512, {codec} backgrounds": Figure.of(beside[codec], goal)
        for codec, goal in _ARRAYS.items()
    }


def _fornet(samples: Sequence[Sample]) -> Callable[[int], PIL.Image.Image]:
    """One sample of ForNet, as ForAug's paper (arXiv 2503.09399) and its public code describe it.

    A cutout (WebP) and another image's background (JPEG) are decoded. The object's share of the result is drawn between
    those it had in its own image and in the background's, and up to 30 % beyond. The cutout is resized to it; its mask
    is smoothed by a Gaussian of random width and kept inside its edge; it is pasted at a random position.
    """
    rng = np.random.default_rng(0)

    def sample(number: int) -> PIL.Image.Image:
        own, other = samples[number], samples[int(rng.integers(len(samples)))]
        cutout = PIL.Image.open(io.BytesIO(own.cutout_file)).convert("RGBA")
        background = PIL.Image.open(io.BytesIO(other.plate_file)).convert("RGB")
        filled = F.to_dtype(F.pil_to_tensor(cutout.getchannel("A")), scale=True).mean().item()
        low, high = sorted((own.matte.coverage, other.matte.coverage))
        area = background.width * background.height * rng.uniform(0.7 * low, 1.3 * high) / filled
        width = min(background.width, max(1, round((area * cutout.width / cutout.height) ** 0.5)))
        height = min(background.height, max(1, round((area * cutout.height / cutout.width) ** 0.5)))
        cutout = cutout.resize((width, height))
        radius = _FORNET_SIGMA * float(rng.uniform(0.1, 1))
        mask = cutout.getchannel("A").filter(PIL.ImageFilter.GaussianBlur(radius))
        mask = mask.point([max(0, 2 * value - 255) for value in range(256)])
        left, top = int(rng.integers(background.width - width + 1)), int(rng.integers(background.height - height + 1))
        background.paste(cutout.convert("RGB"), (left, top), mask)
        return background

    return sample


def _on_pil(transform: Any, samples: Sequence[Sample]) -> Callable[[int], object]:
    return lambda number: transform(samples[number].pil)


def _on_arrays(transform: Any, samples: Sequence[Sample]) -> Callable[[int], object]:
    return lambda number: transform(image=samples[number].array)
