"""Pictures pieced together from the visible part of another; every function is pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from augment.artifacts import Image
from augment.stages.patches import Look, Mask, cover, mirrored, shrink
from augment.stages.seams import lay


def resynthesise(image: Image, visible: Mask, look: Look, rng: np.random.Generator) -> Image:
    """A new image of the same size, all of it from the image's visible pixels."""
    source = shrink(image, visible)
    nothing = np.zeros_like(source.known)
    images, visibles = ([array, np.ascontiguousarray(array[:, ::-1])] for array in (image, visible))
    sources = [source, mirrored(source)]
    patches = cover(sources, replace(source, known=nothing, fixed=nothing), look, rng)
    return lay(images, visibles, patches, image, np.zeros_like(visible), reach=0.25)


def fill(image: Image, hole: Mask, look: Look, rng: np.random.Generator) -> Image:
    """The image with its hole filled from what is visible; every pixel outside the hole stays as it is."""
    source = shrink(image, ~hole)
    patches = cover([source], source, look, rng)
    return lay([image], [~hole], patches, image, ~hole, reach=1.0)
