"""The object over a background: pure functions on arrays. Images are `(H, W, 3)` uint8 RGB throughout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Image, Matte
from augment.errors import InputError

Blend: TypeAlias = Literal["alpha", "feather"]
BLENDS = get_args(Blend)

_FEATHER = 0.006  # of the image's diagonal: 4 pixels at 512 x 512, about the width of a lens's own softness


def composite(
    image: Image, matte: Matte, background: Image, *, blend: Blend = "alpha", harmonize: float = 0.0
) -> Image:
    """The object of `image` over `background`; both of the matte's size. Only the matte's box is computed.

    `blend` "alpha" uses the matte as it is, "feather" lets its edge fade inwards. `harmonize`, 0 to 1, moves the
    object's colours that far towards the background's. Neither input is changed. Raises InputError where sizes differ.
    """
    for name, shape in (("image", image.shape), ("background", background.shape)):
        if shape != (*matte.size, 3):
            raise InputError(f"the {name} is {shape} and the matte is for {(*matte.size, 3)}")
    left, top, right, bottom = matte.box
    window = (slice(top, bottom), slice(left, right))
    result = background.copy()
    if matte.alpha.size == 0:
        return result
    object_ = object_colors(image[window], matte)
    if harmonize:
        object_ = _harmonized(object_, matte.alpha, background, harmonize)
    alpha = _feathered(matte) if blend == "feather" else matte.alpha
    weight = alpha * np.float32(1 / 255)
    result[window] = cv2.blendLinear(object_, background[window], weight, 1 - weight)
    return result


def cutout(image: Image, matte: Matte) -> NDArray[np.uint8]:
    """The object alone, `(H, W, 4)` uint8 RGBA, with its own colours at soft edges."""
    left, top, right, bottom = matte.box
    result = np.dstack([image, matte.full()])
    result[top:bottom, left:right, :3] = object_colors(image[top:bottom, left:right], matte)
    return result


def object_colors(crop: Image, matte: Matte) -> Image:
    """The crop of the matte's box, its soft pixels in the object's own colour where the matte knows it."""
    if not len(matte.edge_colors):
        return crop
    colors = np.array(crop)
    colors[_soft(matte.alpha)] = matte.edge_colors
    return colors


def with_edge_colors(matte: Matte, image: Image) -> Matte:
    """The matte with the object's own colour at its soft pixels, so that no old background shines through there.

    Blur fusion, as in Forte and Pitié, "Approximate Fast Foreground Colour Estimation" (ICIP 2021): two passes, wide
    and narrow, of local means of object and background, each corrected by what they leave unexplained.
    """
    if matte.unusable or len(matte.edge_colors) or not _soft(matte.alpha).any():
        return matte
    margin = 16  # background from outside the box is needed to tell the two colours apart
    left, top, right, bottom = matte.box
    top, left = max(0, top - margin), max(0, left - margin)
    crop = image[top : bottom + margin, left : right + margin].astype(np.float32)
    full = matte.full()[top : bottom + margin, left : right + margin]
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
    return (alpha > 0) & (alpha < 255)


def _feathered(matte: Matte) -> Alpha:
    """The alpha fading to 0 at its own edge, over a band inside it: outside, the old background would show."""
    radius = max(1, round(_FEATHER * float(np.hypot(*matte.size))))
    padded = cv2.copyMakeBorder(matte.alpha, radius, radius, radius, radius, cv2.BORDER_CONSTANT, value=0)
    blurred = cv2.blur(padded, (2 * radius + 1, 2 * radius + 1))[radius:-radius, radius:-radius]
    # Half of a straight edge's neighbourhood is object: what is above half runs from the edge inwards.
    inner = cv2.addWeighted(blurred, 2.0, blurred, 0.0, -255.0)
    return np.minimum(inner, matte.alpha)


def _harmonized(object_: Image, alpha: Alpha, background: Image, strength: float) -> Image:
    """Means and deviations in Lab moved `strength` of the way to the background's.

    After Reinhard et al., "Color Transfer between Images" (2001); the deviation's change is bounded, so that a flat
    background does not take the object's own contrast.
    """
    lab = cv2.cvtColor(object_, cv2.COLOR_RGB2LAB)
    mean, deviation = (values.ravel() for values in cv2.meanStdDev(lab, mask=(alpha > 127).astype(np.uint8)))
    small = cv2.resize(background, (64, 64), interpolation=cv2.INTER_AREA)
    target_mean, target_deviation = (
        values.ravel() for values in cv2.meanStdDev(cv2.cvtColor(small, cv2.COLOR_RGB2LAB))
    )
    ratio = ((target_deviation + 1) / (deviation + 1)).clip(0.7, 1.4)
    scale = 1 + strength * (ratio - 1)
    shift = mean + strength * (target_mean - mean) - scale * mean
    table = np.arange(256)[:, None] * scale + shift
    moved = cv2.LUT(lab, table.round().clip(0, 255).astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(moved, cv2.COLOR_LAB2RGB))
