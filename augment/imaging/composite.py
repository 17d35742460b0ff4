"""Composite an object over a background: pure functions on arrays. All images are `(H, W, 3)` uint8 RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Image, Matte
from augment.errors import InputError
from augment.imaging.harmonize import harmonized
from augment.imaging.moving import moved
from augment.imaging.poisson import poisson

Blend: TypeAlias = Literal["alpha", "feather", "poisson"]
BLENDS = get_args(Blend)

_PIXEL = np.dtype("V3")
_FEATHER = 0.006  # of the image's diagonal: 4 pixels at 512 x 512, about the blur of a lens


@dataclass(frozen=True, eq=False)
class Layer:
    """What goes over a background: colors `(h, w, 3)` and alpha `(h, w)`, uint8, and the position of their corner."""

    colors: Image
    alpha: Alpha
    left: int
    top: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns it covers."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def composite(
    image: Image,
    matte: Matte,
    background: Image,
    *,
    blend: Blend = "alpha",
    harmonize: float = 0.0,
    matrix: NDArray[np.float64] | None = None,
) -> Image:
    """The object of `image` over `background`, both of the matte's size. No input is changed.

    `blend` "alpha" uses the matte as it is, "feather" fades its edge inwards, "poisson" halves the step in color at the
    edge and keeps the object's gradients. `harmonize` is how far, 0 to 1, the object's colors move towards the
    background's; the change is bounded, so that the object keeps its own color. `matrix` (2, 3), if given, maps the
    object's continuous coordinates (see `augment.sampling.placement`) to the composite's. Raises InputError if sizes
    differ.
    """
    layer = object_layer(image, matte, background, blend=blend, harmonize=harmonize, matrix=matrix)
    return lay(layer, background.copy())


def object_layer(
    image: Image,
    matte: Matte,
    background: Image,
    *,
    blend: Blend = "alpha",
    harmonize: float = 0.0,
    matrix: NDArray[np.float64] | None = None,
) -> Layer:
    """The object as a layer for this background; the arguments are those of `composite`."""
    for name, shape in (("image", image.shape), ("background", background.shape)):
        if shape != (*matte.size, 3):
            raise InputError(f"the {name} is {shape}, but the matte is for {(*matte.size, 3)}")
    left, top, right, bottom = matte.box
    colors, alpha = object_colors(image[top:bottom, left:right], matte), matte.alpha
    if alpha.size:
        if harmonize:
            colors = harmonized(colors, alpha, background, harmonize)
        if blend == "feather":
            alpha = _feathered(matte)
        if matrix is not None:
            colors, alpha, (left, top) = moved(colors, alpha, matte, matrix)
    layer = Layer(colors, alpha, left, top)
    if blend == "poisson" and alpha.size:
        return replace(layer, colors=poisson(colors, alpha, background[layer.window]))
    return layer


def lay(layer: Layer, background: Image) -> Image:
    """The layer over the background, which is changed and returned.

    Computed in 8 bits, each product rounded: exact where alpha is 0 or 255, elsewhere off by at most one gray level.
    """
    if layer.alpha.size:
        window = background[layer.window]
        weight = cv2.merge([layer.alpha] * 3)
        over = cv2.multiply(layer.colors, weight, scale=1 / 255)
        cv2.bitwise_not(weight, dst=weight)
        cv2.multiply(window, weight, dst=weight, scale=1 / 255)
        cv2.add(over, weight, dst=window)
    return background


def cutout(image: Image, matte: Matte) -> NDArray[np.uint8]:
    """Only the object, `(H, W, 4)` uint8 RGBA, with its own colors at soft edges."""
    left, top, right, bottom = matte.box
    result = np.dstack([image, matte.uncropped()])
    result[top:bottom, left:right, :3] = object_colors(image[top:bottom, left:right], matte)
    return result


def object_colors(crop: Image, matte: Matte) -> Image:
    """The crop of the matte's box; soft pixels get the object's own color if the matte holds it."""
    if not len(matte.edge_colors):
        return crop
    colors = crop.copy()
    # Each pixel as one item: NumPy's masked assignment is then five times as fast as with rows of three.
    colors.view(_PIXEL)[..., 0][_soft(matte.alpha)] = matte.edge_colors.view(_PIXEL)[:, 0]
    return colors


def with_edge_colors(matte: Matte, image: Image) -> Matte:
    """The matte with the object's own color at its soft pixels, so that the old background does not shine through.

    Blur fusion, as in Forte and Pitié, "Approximate Fast Foreground Colour Estimation" (ICIP 2021): local means of
    object and background in two passes, wide and narrow, each corrected by the residual.
    """
    if matte.unusable or len(matte.edge_colors) or not _soft(matte.alpha).any():
        return matte
    margin = 16  # background from outside the box is needed to tell the two colors apart
    left, top, right, bottom = matte.box
    top, left = max(0, top - margin), max(0, left - margin)
    crop = image[top : bottom + margin, left : right + margin].astype(np.float32)
    full = matte.uncropped()[top : bottom + margin, left : right + margin]
    alpha = (full / np.float32(255))[..., None]
    object_ = background = crop
    for radius in (45, 3):  # the paper's 90 and 6 are diameters at about 1000 pixels
        object_, background = _fuse(crop, alpha, object_, background, radius)
    colors = object_.round().clip(0, 255).astype(np.uint8)
    return replace(matte, edge_colors=colors[_soft(full)])


def _fuse(
    crop: NDArray[Any],
    alpha: NDArray[Any],
    object_: NDArray[Any],
    background: NDArray[Any],
    radius: int,
) -> tuple[NDArray[Any], NDArray[Any]]:
    size = (2 * radius + 1, 2 * radius + 1)
    share = cv2.blur(alpha, size)[..., None]
    object_ = cv2.blur(object_ * alpha, size) / (share + 1e-5)
    background = cv2.blur(background * (1 - alpha), size) / (1 - share + 1e-5)
    object_ = object_ + alpha * (crop - alpha * object_ - (1 - alpha) * background)
    return object_.clip(0, 255), background


def _soft(alpha: Alpha) -> NDArray[np.bool_]:
    return np.asarray(cv2.inRange(alpha, 1, 254)).view(np.bool_)


def _feathered(matte: Matte) -> Alpha:
    """The alpha faded to 0 at its edge, over a band inside it; outside, the old background would show."""
    radius = max(1, round(_FEATHER * float(np.hypot(*matte.size))))
    padded = cv2.copyMakeBorder(matte.alpha, radius, radius, radius, radius, cv2.BORDER_CONSTANT, value=0)
    blurred = cv2.blur(padded, (2 * radius + 1, 2 * radius + 1))[radius:-radius, radius:-radius]
    # At a straight edge, half of the neighborhood is object: what exceeds half rises from the edge inwards.
    inner = cv2.addWeighted(blurred, 2.0, blurred, 0.0, -255.0)
    return np.minimum(inner, matte.alpha)
