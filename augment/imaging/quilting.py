"""Images pieced together from the visible part of another image; all functions are pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from augment.artifacts import Image
from augment.imaging.patches import Mask, PatchCosts, choose_patches, mirrored, shrink
from augment.imaging.seams import join_patches


def resynthesize(image: Image, visible: Mask, costs: PatchCosts, rng: np.random.Generator) -> Image:
    """A new image of the same size, made only from the image's visible pixels."""
    source = shrink(image, visible)
    nothing = np.zeros_like(source.known)
    images, visibles = ([array, np.ascontiguousarray(array[:, ::-1])] for array in (image, visible))
    sources = [source, mirrored(source)]
    patches = choose_patches(sources, replace(source, known=nothing, fixed=nothing), costs, rng)
    return join_patches(images, visibles, patches, image, np.zeros_like(visible), reach=0.25)


def fill(image: Image, hole: Mask, costs: PatchCosts, rng: np.random.Generator) -> Image:
    """The image with its hole filled from its visible pixels; pixels outside the hole do not change."""
    source = shrink(image, ~hole)
    patches = choose_patches([source], source, costs, rng)
    return join_patches([image], [~hole], patches, image, ~hole, reach=1.0)
