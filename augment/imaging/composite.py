"""Composite an object over a background: pure functions on arrays. All images are `(H, W, 3)` uint8 RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Alpha, Image, Matte
from augment.errors import InputError

Blend: TypeAlias = Literal["alpha", "feather", "poisson"]
BLENDS = get_args(Blend)

_PIXEL = np.dtype("V3")
_PAD = 2  # pixels around an object before it is interpolated
_MOST_MOVED = np.array([40.0, 12.0, 12.0])  # 8-bit Lab; chosen by eye: beyond it, objects turn pale or blue
_POISSON_REACH = 0.08  # of the diagonal of the object's window
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
            colors = _harmonized(colors, alpha, background, harmonize)
        if blend == "feather":
            alpha = _feathered(matte)
        if matrix is not None:
            colors, alpha, (left, top) = _warped(colors, alpha, matte, matrix)
    layer = Layer(colors, alpha, left, top)
    if blend == "poisson" and alpha.size:
        return replace(layer, colors=_poisson(colors, alpha, background[layer.window]))
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


def _harmonized(object_: Image, alpha: Alpha, background: Image, strength: float) -> Image:
    """Means and deviations in Lab moved `strength` of the way to the background's.

    After Reinhard et al., "Color Transfer between Images" (2001), but bounded: a flat background does not remove the
    object's contrast, and a colorful one does not remove its color, which may identify it.
    """
    lab = cv2.cvtColor(object_, cv2.COLOR_RGB2LAB)
    mean, deviation = (values.ravel() for values in cv2.meanStdDev(lab, mask=(alpha > 127).astype(np.uint8)))
    small = cv2.resize(background, (64, 64), interpolation=cv2.INTER_AREA)
    target_mean, target_deviation = (
        values.ravel() for values in cv2.meanStdDev(cv2.cvtColor(small, cv2.COLOR_RGB2LAB))
    )
    ratio = ((target_deviation + 1) / (deviation + 1)).clip(0.7, 1.4)
    scale = 1 + strength * (ratio - 1)
    moved_by = (strength * (target_mean - mean)).clip(-_MOST_MOVED, _MOST_MOVED)
    shift = mean + moved_by - scale * mean
    table = np.arange(256)[:, None] * scale + shift
    moved = cv2.LUT(lab, table.round().clip(0, 255).astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(moved, cv2.COLOR_LAB2RGB))


def _warped(
    object_: Image, alpha: Alpha, matte: Matte, matrix: NDArray[np.float64]
) -> tuple[Image, Alpha, tuple[int, int]]:
    """Object and alpha moved by `matrix`, in the smallest window that holds them, and the window's left and top."""
    height, width = matte.size
    left, top, right, bottom = matte.box
    # Colors are weighted by alpha, so that the surroundings of the object do not bleed into its edge.
    stack: NDArray[Any] = np.dstack([object_ * (alpha * np.float32(1 / 255))[..., None], alpha.astype(np.float32)])
    # Interpolation would fade the sides where the image cuts the object off, so the last pixels are repeated there.
    free = [(int(top > 0), int(bottom < height)), (int(left > 0), int(right < width)), (0, 0)]
    stack = np.pad(stack, [(_PAD * before, _PAD * after) for before, after in free])
    stack = np.pad(stack, [(_PAD - _PAD * b, _PAD - _PAD * a) for b, a in free[:2]] + [(0, 0)], mode="edge")
    origin = np.array([left - _PAD, top - _PAD], np.float64)
    linear = matrix[:, :2]
    offset = linear @ origin + matrix[:, 2]
    scale = float(np.sqrt(abs(np.linalg.det(linear))))
    if scale < 1:  # average first, because bilinear interpolation reads only four pixels
        before = np.array(stack.shape[1::-1])
        after = np.maximum(1, np.round(before * scale)).astype(int)
        stack = cv2.resize(stack, after.tolist(), interpolation=cv2.INTER_AREA)
        linear = linear * (before / after)
    corners = np.array([(x, y) for x in (0, stack.shape[1]) for y in (0, stack.shape[0])]) @ linear.T + offset
    first = np.maximum(0, np.floor(corners.min(0))).astype(int)
    last = np.minimum([width, height], np.ceil(corners.max(0))).astype(int)
    size = last - first
    if (size <= 0).any():
        return object_[:0, :0], alpha[:0, :0], (0, 0)
    # OpenCV's coordinates refer to pixel centers.
    centers = np.column_stack([linear, linear @ [0.5, 0.5] + offset - first - 0.5])
    moved = cv2.warpAffine(stack, centers, size.tolist(), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0, 0))
    weight = moved[..., 3:]
    colors = moved[..., :3] * (255 / np.maximum(weight, 1))
    return (
        colors.round().clip(0, 255).astype(np.uint8),
        weight[..., 0].round().clip(0, 255).astype(np.uint8),
        (int(first[0]), int(first[1])),
    )


def _poisson(object_: Image, alpha: Alpha, background: Image) -> Image:
    """The object with its gradients kept, but near its edge with colors halfway to the background's.

    OpenCV's implementation of Pérez, Gangnet and Blake, "Poisson Image Editing" (2003), run only on the object's window
    and a margin. In full, it would change all of a plain object and remove the contrast of a slim one. It is therefore
    halved and fades inwards.
    """
    margin = 3  # OpenCV needs pixels around the mask and clears the outermost ones
    solid = np.pad((alpha >= 128).astype(np.uint8) * np.uint8(255), margin)
    left, top, width, height = cv2.boundingRect(solid)
    if min(width, height) < 3:
        return object_
    around = [(margin, margin), (margin, margin), (0, 0)]
    source, target = (np.pad(part, around, mode="edge") for part in (object_, background))
    center = (left + width // 2, top + height // 2)
    cloned = cv2.seamlessClone(source, target, solid, center, cv2.NORMAL_CLONE)
    reach = max(1.0, _POISSON_REACH * float(np.hypot(*background.shape[:2])))
    depth = cv2.distanceTransform(solid, cv2.DIST_L2, 3)  # 1 at the edge
    share = 0.5 * np.exp((1 - depth) / reach)
    # Soft pixels outside the mask already have the background's color here, and would fade twice.
    share[solid == 0] = 0
    return cv2.blendLinear(cloned, source, share, 1 - share)[margin:-margin, margin:-margin]
