"""Copy patches at full size, so that texture stays sharp, and even out the light across their seams.

Source: gradient-domain blending (Pérez et al., SIGGRAPH 2003), with the screening of Bhat et al. (ECCV 2008).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from augment.artifacts import Image
from augment.imaging.patches import CROSS, Floats, Mask, Patch, both, crop_padded, next_pixel, work_size

LARGEST_STEP = 25.0  # gray levels per pixel; a larger step is an edge, and evening it out would make a halo


def join_patches(
    images: Sequence[Image], visibles: Sequence[Mask], patches: Sequence[Patch], start: Image, known: Mask, reach: float
) -> Image:
    """Copy the patches at full size over `start`, without changing its `known` pixels, and even out their seams.

    `images` are the sources, `(H, W, 3)` uint8; only their `visibles`, `(H, W)` bool, are used. `reach` is how far from
    a seam its difference in light is spread, as a share of the shorter side.
    """
    height, width = known.shape
    work = work_size(height, width)
    scale = height / work[0], width / work[1]
    out = np.where(known[..., None], start, 0).astype(np.float32)
    filled = known.copy()
    steps = [_steps(out, axis) * both(known, axis)[..., None] for axis in (0, 1)]
    for patch in patches:
        top, left, bottom, right = _full_window(patch, scale, (height, width))
        box, size = np.s_[top:bottom, left:right], (bottom - top, right - left)
        at = round(top + patch.dy * scale[0]), round(left + patch.dx * scale[1])
        taken = (*at, at[0] + size[0], at[1] + size[1])
        colors = crop_padded(images[patch.source], taken).astype(np.float32)
        usable = crop_padded(visibles[patch.source], taken)
        weight = _enlarge(patch, work, scale, (top, left), size) * (usable & ~known[box])
        weight[~filled[box]] = weight[~filled[box]] > 0.02
        filled[box] |= weight > 0
        out[box] += (colors - out[box]) * weight[..., None]
        for axis, wished in enumerate(steps):
            pair = np.maximum(weight, next_pixel(weight, axis)) * both(usable, axis)
            wished[box] += (_steps(colors, axis) - wished[box]) * pair[..., None]
    if not filled.all():
        rest = (~filled).astype(np.uint8)
        closed = cv2.inpaint(np.clip(np.rint(out), 0, 255).astype(np.uint8), rest, 3, cv2.INPAINT_TELEA)
        out[~filled] = closed[~filled]
    wrong = [_within_reason(wished - _steps(out, axis), axis) for axis, wished in enumerate(steps)]
    out += _even(wrong, ~known, 1 / (reach * min(height, width)))
    result = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    result[known] = start[known]
    return result


def _within_reason(steps: Floats, axis: int) -> Floats:
    """The steps, with large ones faded out because they are edges of things, and none across the image's edge."""
    steps = steps / (1 + (steps / LARGEST_STEP) ** 2)
    steps[(-1, slice(None)) if axis == 0 else (slice(None), -1)] = 0
    return steps


def _steps(array: Floats, axis: int) -> Floats:
    return next_pixel(array, axis) - array


def _full_window(patch: Patch, scale: tuple[float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a patch at full size, one work pixel wider, inside the image."""
    (sy, sx), (rows, columns) = scale, patch.mask.shape
    top, left = max(0, int((patch.top - 1) * sy)), max(0, int((patch.left - 1) * sx))
    bottom = min(size[0], int(np.ceil((patch.top + rows + 1) * sy)))
    right = min(size[1], int(np.ceil((patch.left + columns + 1) * sx)))
    return top, left, bottom, right


def _enlarge(
    patch: Patch, work: tuple[int, int], scale: tuple[float, float], corner: tuple[int, int], size: tuple[int, int]
) -> Floats:
    """The patch's mask at full size, with a soft edge one work pixel wide, but none at the image's own edge."""
    bottom, right = patch.top + patch.mask.shape[0], patch.left + patch.mask.shape[1]
    padded = crop_padded(patch.mask, (-1, -1, patch.mask.shape[0] + 1, patch.mask.shape[1] + 1)).astype(np.float32)
    padded[0] += padded[1] * (patch.top == 0)
    padded[-1] += padded[-2] * (bottom == work[0])
    padded[:, 0] += padded[:, 1] * (patch.left == 0)
    padded[:, -1] += padded[:, -2] * (right == work[1])
    sy, sx = scale
    # The center of full-size pixel i is at (i + 0.5) / scale - 0.5 in the work image.
    matrix = np.array(
        [
            [1 / sx, 0, (corner[1] + 0.5) / sx + 0.5 - patch.left],
            [0, 1 / sy, (corner[0] + 0.5) / sy + 0.5 - patch.top],
        ],
        np.float32,
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    enlarged = cv2.warpAffine(padded, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(enlarged, np.float32)


def _even(steps: Sequence[Floats], free: Mask, stiffness: float) -> Floats:
    """The smooth correction whose steps down and across are closest to those given; 0 where not `free`.

    The screened Poisson equation, solved coarse to fine: each level only refines the one above it.
    """
    levels = [(*steps, free.astype(np.float32))]
    while min(levels[-1][2].shape) > 8:
        down, across, room = levels[-1]
        across = np.swapaxes(_coarser_steps(np.swapaxes(across, 0, 1)), 0, 1)
        levels.append((_coarser_steps(down), across, _halve_rows(_halve_rows(room).T).T.round()))
    correction = np.zeros_like(levels[-1][0])
    for depth, (down, across, room) in reversed(list(enumerate(levels))):
        source = -down - across
        source[1:] += down[:-1]
        source[:, 1:] += across[:, :-1]
        if correction.shape != source.shape:
            correction = cv2.resize(correction, (2 * correction.shape[1], 2 * correction.shape[0]))
            correction = correction[: source.shape[0], : source.shape[1]]
        share = (room / (4 + (stiffness * 2**depth) ** 2))[..., None]
        for _ in range(60 if depth == len(levels) - 1 else 8):
            around = cv2.filter2D(correction, -1, CROSS, borderType=cv2.BORDER_REPLICATE)
            correction = 0.2 * correction + 0.8 * (around + source) * share
    return correction


def _coarser_steps(down: Floats) -> Floats:
    """Steps down between pixels of twice the size: the sum of the steps from center to center."""
    rows = (len(down) + 1) // 2
    padded = np.concatenate([down, np.zeros_like(down[:3])])
    summed = 0.5 * padded[0 : 2 * rows : 2] + padded[1 : 2 * rows : 2] + 0.5 * padded[2 : 2 * rows + 1 : 2]
    return np.ascontiguousarray(np.swapaxes(_halve_rows(np.swapaxes(summed, 0, 1)), 0, 1))


def _halve_rows(array: Floats) -> Floats:
    """Each row is the mean of two; an odd last row is kept as it is."""
    if len(array) % 2:
        array = np.concatenate([array, array[-1:]])
    return np.asarray((array[0::2] + array[1::2]) / 2, np.float32)
