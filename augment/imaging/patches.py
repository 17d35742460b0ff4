"""Choose which pixels to copy where: patches are found by their overlap and cut along the least visible seam.

Works on a reduced image. Sources: image quilting (Efros and Freeman, SIGGRAPH 2001), graph-cut textures (Kwatra et al.,
SIGGRAPH 2003) and shift-map editing (Pritch et al., ICCV 2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

WORK_SIDE = 128  # longer side of the work image, on which patches are cut; the search runs at half that size
SMALLEST_WINDOW = 8  # in work pixels: a smaller patch carries no structure
DETAIL = 20.0  # gray levels: the strength to which faint detail is amplified before it is compared
UNSEEN = 40.0  # gray levels: the difference assumed if there is no overlap to measure it
CROSS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)  # a pixel's four neighbors


@dataclass(frozen=True)
class PatchCosts:
    """The costs of a bad patch, in gray levels, which are added to the difference in the overlap."""

    window: float  # largest side that one patch fills, as a share of the image's shorter side
    height: float = 300.0  # for a patch moved up or down by the image's full height: keeps the sky at the top
    gap: float = 60.0  # for a patch that fills none of the missing pixels in its window
    noise: float = 0.0  # amplitude of the random part
    stay: float = 0.0  # for a patch that is not moved at all: a new image should not repeat the old one
    repeat: float = 0.0  # for a patch whose pixels have all been used before
    turn: float = 0.0  # for a mirrored patch
    repairs: int = 8  # how many of the worst spots on seams are redone


@dataclass(frozen=True, eq=False)
class Patch:
    """Pixels moved together: target `(y, x)` takes `(y + dy, x + dx)` of a source where `mask` is set.

    `mask` covers the window whose corner is `(top, left)`. All values are in pixels of the work image.
    """

    source: int
    dy: int
    dx: int
    top: int
    left: int
    mask: Mask


@dataclass(frozen=True, eq=False)
class Canvas:
    """The work image as it is filled: colors, which pixels are known, and which of those must not change.

    `right` and `below` are the colors of each pixel's neighbors in its source. If the canvas has other colors there, it
    has a seam.
    """

    colors: Floats
    right: Floats
    below: Floats
    known: Mask
    fixed: Mask

    def crop(self, box: tuple[int, int, int, int]) -> Canvas:
        return Canvas(
            *(crop_padded(layer, box) for layer in (self.colors, self.right, self.below, self.known, self.fixed))
        )

    def without(self, gone: Mask) -> Canvas:
        return Canvas(self.colors, self.right, self.below, self.known & ~(gone & ~self.fixed), self.fixed)

    def laid(self, chosen: Mask, patch: Canvas) -> Canvas:
        """This canvas with the chosen pixels of a patch of the same size copied onto it."""
        at = chosen[..., None]
        return Canvas(
            np.where(at, patch.colors, self.colors),
            np.where(at, patch.right, self.right),
            np.where(at, patch.below, self.below),
            self.known | chosen,
            self.fixed,
        )

    def seams(self) -> Floats:
        """How much each pixel differs from what its left and upper neighbors had there in their source: 0 off seams."""
        both = self.known[:, :-1] & self.known[:, 1:], self.known[:-1] & self.known[1:]
        cost = np.zeros(self.known.shape, np.float32)
        cost[:, 1:] += np.sqrt(_squares(self.right[:, :-1] - self.colors[:, 1:])) * both[0]
        cost[1:] += np.sqrt(_squares(self.below[:-1] - self.colors[1:])) * both[1]
        return cost


def crop_padded(array: NDArray[Any], box: tuple[int, int, int, int]) -> NDArray[Any]:
    """The window `(top, left, bottom, right)` of an array, zero beyond the array's edge."""
    top, left, bottom, right = box
    out = np.zeros((bottom - top, right - left, *array.shape[2:]), array.dtype)
    y0, y1 = max(0, top), min(array.shape[0], bottom)
    x0, x1 = max(0, left), min(array.shape[1], right)
    if y0 < y1 and x0 < x1:
        out[y0 - top : y1 - top, x0 - left : x1 - left] = array[y0:y1, x0:x1]
    return np.asarray(out)


def _squares(colors: Floats) -> Floats:
    """The squared length of each color, over the last axis."""
    return np.asarray(np.einsum("...c,...c", colors, colors))


def next_pixel(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Each pixel's neighbor below (axis 0) or to the right (axis 1); its own value at the edge."""
    return np.concatenate([array[1:], array[-1:]]) if axis == 0 else np.concatenate([array[:, 1:], array[:, -1:]], 1)


def both(mask: Mask, axis: int) -> Mask:
    """Where both a pixel and its neighbor are in the mask."""
    return np.asarray(mask & next_pixel(mask, axis))


def work_size(height: int, width: int) -> tuple[int, int]:
    """Size of the work image for an image of this size."""
    scale = min(1.0, WORK_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def shrink(image: Image, visible: Mask) -> Canvas:
    """An image with at least one visible pixel, at work size.

    A pixel is known if all the pixels that it covers, and a few around them, are visible. If that leaves none, the rule
    is relaxed.
    """
    height, width = work_size(*visible.shape)
    colors = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    known = visible
    if (height, width) != visible.shape:
        share = cv2.resize(visible.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        # One pixel less on each side, because seams are smoothed at full size.
        clear = cv2.erode((share > 0.999).astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
        known = next(mask for mask in (clear > 0, share > 0.999, share > 0) if mask.any())
    return _with_neighbours(_detailed(colors * known[..., None], known.astype(np.float32)), known)


def _detailed(colors: Floats, share: Floats) -> Floats:
    """Faint detail amplified: a cut through a dim mast would be visible, but differences in light are evened out."""
    around = cv2.GaussianBlur(share, (0, 0), 3) + 1e-6
    smooth = cv2.GaussianBlur(colors, (0, 0), 3) / around[..., None]
    detail = (colors - smooth) * share[..., None]
    strength = np.sqrt(cv2.GaussianBlur((detail**2).mean(2), (0, 0), 3) / around)[..., None]
    return np.asarray(smooth + detail * np.clip(DETAIL / (strength + 2), 1, 4), np.float32)


def mirrored(source: Canvas) -> Canvas:
    """The source mirrored left to right."""
    known = source.known[:, ::-1]
    return _with_neighbours(np.ascontiguousarray(source.colors[:, ::-1]), np.ascontiguousarray(known))


def _with_neighbours(colors: Floats, known: Mask) -> Canvas:
    right, below = (np.where(both(known, axis)[..., None], next_pixel(colors, axis), colors) for axis in (1, 0))
    return Canvas(colors, right, below, known, known)


def choose_patches(
    sources: Sequence[Canvas], canvas: Canvas, costs: PatchCosts, rng: np.random.Generator
) -> list[Patch]:
    """Patches of the sources' known pixels that fill the unknown part of the canvas, in the order to copy them.

    Each patch is placed at the border of the missing part, with the offset whose pixels agree best with the canvas, and
    cut where the two differ least. At the end, the worst spots on the seams are removed and filled again.
    """
    search = _Search(sources, costs)
    patches: list[Patch] = []
    while _gaps(canvas.known):
        canvas, patch = _fill_one(search, canvas, _next_center(canvas.known, search.side // 4, rng), rng)
        patches.append(patch)
        search.use(patch)
    spots = np.ones(canvas.known.shape, np.float32)
    for turn in range(costs.repairs):
        radius = max(2, round((0.12, 0.06)[turn % 2] * max(canvas.known.shape)))
        worst = cv2.boxFilter(canvas.seams(), -1, (radius, radius)) * spots
        center = divmod(int(np.argmax(worst)), worst.shape[1])
        if worst[center] < 3:
            break
        cv2.circle(spots, center[::-1], radius, 0.0, -1)
        hole = cv2.circle(np.zeros(worst.shape, np.uint8), center[::-1], radius, 1, -1) > 0
        trial = canvas.without(hole)
        laid: list[Patch] = []
        while _gaps(trial.known) and len(laid) < 4:
            trial, patch = _fill_one(search, trial, _next_center(trial.known, radius, rng), rng)
            laid.append(patch)
        if laid and not _gaps(trial.known) and trial.seams().sum() < canvas.seams().sum():
            canvas = trial
            patches += laid
    return patches


def _gaps(known: Mask) -> bool:
    """Whether a gap at least three pixels wide is left; thinner ones are closed when the patches are joined."""
    missing = cv2.copyMakeBorder((~known).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return bool(cv2.erode(missing, np.ones((3, 3), np.uint8))[1:-1, 1:-1].any())


def _next_center(known: Mask, depth: int, rng: np.random.Generator) -> tuple[int, int]:
    """A missing pixel about `depth` from the known ones, so that a window around it contains some of both."""
    if not known.any():
        height, width = known.shape
        return int(height * rng.uniform(0.4, 0.6)), int(width * rng.uniform(0.25, 0.75))
    distance = cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 5).ravel()
    nearest = np.abs(distance - min(float(depth), float(distance.max())))
    y, x = divmod(int(rng.choice(np.flatnonzero((nearest <= nearest.min() + 0.5) & (distance > 0)))), known.shape[1])
    return y, x


def _fill_one(
    search: _Search, canvas: Canvas, center: tuple[int, int], rng: np.random.Generator
) -> tuple[Canvas, Patch]:
    """Add the patch that fits best, after the cut, in a window around a missing pixel."""
    half = search.side // 2
    # The pixels that one patch should fill, and how near each known pixel is to them.
    need = np.zeros_like(canvas.known)
    area = np.s_[max(0, center[0] - half) : center[0] + half + 1, max(0, center[1] - half) : center[1] + half + 1]
    need[area] = ~canvas.known[area]
    # A small gap is compared only with its close surroundings, and leaves little room for the cut.
    rim = int(np.clip(np.sqrt(need.sum()), 3, search.side // 4))
    distance = cv2.distanceTransform((~need).astype(np.uint8), cv2.DIST_L2, 5)
    left, top, width, height = cv2.boundingRect((distance <= rim).astype(np.uint8))
    # One pixel wider than the patch, so that the cut sees what is beyond it.
    box = top - 1, left - 1, top + height + 1, left + width + 1
    near = np.exp(-distance / (0.35 * rim)) * (canvas.known & (distance <= rim))
    reach = crop_padded((distance <= rim) & ~canvas.fixed, box)
    here, gap = canvas.crop(box), crop_padded(need, box)
    before = float(here.seams().sum())
    best = None
    for cost, index, dy, dx in search.offsets(canvas, need, near, center, rng):
        there = search.sources[index].crop((box[0] + dy, box[1] + dx, box[2] + dy, box[3] + dx))
        chosen = _cut(here, there, reach & there.known)
        filled = float((chosen & ~here.known).sum())
        if not filled:
            continue
        # The larger the area a patch fills, the more seam it may have. What it leaves open will become seam later.
        seam = float(here.laid(chosen, there).seams().sum()) - before
        open_ = cv2.dilate((gap & ~chosen).astype(np.uint8), CROSS.astype(np.uint8)) > 0
        cost += (seam + UNSEEN * float((open_ & here.known).sum())) / (2 * np.sqrt(filled))
        if best is None or cost < best[0]:
            best = cost, index, dy, dx, chosen
    if best is None:  # too little is visible to be found at half size: use the pixels nearest in height
        ys, xs = np.nonzero(search.sources[0].known)
        at = int(np.argmin(np.abs(ys - center[0]) + np.abs(xs - center[1]) / 1e3))
        index, dy, dx = 0, int(ys[at]) - center[0], int(xs[at]) - center[1]
        there = search.sources[0].crop((box[0] + dy, box[1] + dx, box[2] + dy, box[3] + dx))
        chosen = reach & ~here.known & there.known
    else:
        _, index, dy, dx, chosen = best
    left, top, width, height = cv2.boundingRect(chosen.astype(np.uint8))
    patch = Patch(index, dy, dx, box[0] + top, box[1] + left, chosen[top : top + height, left : left + width])
    rows, columns = canvas.known.shape
    moved = search.sources[index].crop((dy, dx, dy + rows, dx + columns))
    return canvas.laid(crop_padded(chosen, (-box[0], -box[1], rows - box[0], columns - box[1])), moved), patch


class _Search:
    """Finds offsets on images of half the work size, comparing all of them at once with the Fourier transform."""

    candidates = 3

    def __init__(self, sources: Sequence[Canvas], costs: PatchCosts) -> None:
        height, width = sources[0].known.shape
        self.costs = costs
        self.sources = sources
        self.side = max(SMALLEST_WINDOW, round(costs.window * min(height, width)))
        self.size = (height + 1) // 2, (width + 1) // 2
        rows, columns = self.padded = tuple(cv2.getOptimalDFTSize(2 * n) for n in self.size)
        self.dy, self.dx = (np.fft.fftfreq(n, 1 / n).astype(int) for n in self.padded)
        self.visible = np.zeros((len(sources), rows, columns), bool)
        self.laid = 0
        self.used = np.zeros(self.size, np.float32)
        self.used_spectra = self._spectra([self.used] * len(sources))
        self.spectra = []
        for visible, source in zip(self.visible, sources, strict=True):
            share = self._half(source.known.astype(np.float32))
            visible[: self.size[0], : self.size[1]] = share > 0.999
            if not visible.any():  # what is visible is narrower than a pixel here
                visible[: self.size[0], : self.size[1]] = share > 0
            shown = visible[: self.size[0], : self.size[1]] / np.maximum(share, 1e-6)
            colors = self._half(source.colors * source.known[..., None]) * shown.astype(np.float32)[..., None]
            self.spectra.append(self._spectra([visible, _squares(colors), *np.moveaxis(colors, 2, 0)]))

    def _half(self, array: Floats) -> Floats:
        return np.asarray(cv2.resize(array, self.size[::-1], interpolation=cv2.INTER_AREA), np.float32)

    def _spectra(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return [np.fft.rfft2(array.astype(np.float32), self.padded) for array in arrays]

    def use(self, patch: Patch) -> None:
        """Remember which pixels of the source were taken, so that the next patch may take others."""
        self.laid += 1
        top, left = patch.top + patch.dy, patch.left + patch.dx
        rows, columns = self.sources[0].known.shape
        taken = crop_padded(patch.mask, (-top, -left, rows - top, columns - left))
        if patch.source:
            taken = taken[:, ::-1]
        self.used = np.maximum(self.used, self._half(taken.astype(np.float32)))
        self.used_spectra = self._spectra([self.used, self.used[:, ::-1]])

    def offsets(
        self, canvas: Canvas, need: Mask, near: Floats, center: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[tuple[float, int, int, int]]:
        """The cheapest patches that fill the center: cost without all of its seam's, source, dy, dx."""
        costs, (height, width) = self.costs, self.size
        weight, wanted = self._half(near), self._half(need.astype(np.float32))
        colors = np.asarray(
            self._half(canvas.colors * near[..., None]) / np.maximum(weight, 1e-6)[..., None], np.float32
        )
        layers = [weight, weight * _squares(colors), wanted, *np.moveaxis(-2 * weight[..., None] * colors, 2, 0)]
        weights, squares, wants, *mixed = (np.conj(spectrum) for spectrum in self._spectra(layers))
        dy, dx = np.abs(self.dy)[:, None] / height, np.abs(self.dx)[None] / width
        y, x = min(center[0] // 2, height - 1), min(center[1] // 2, width - 1)
        # If little is visible, many small patches are used; filling a large area then matters more.
        gap = costs.gap * (1 + min(self.laid / 15, 3))
        base_costs, totals = [], []
        for index, (visible, bright, *channels) in enumerate(self.spectra):
            sums = weights * bright + squares * visible
            sums += sum(a * b for a, b in zip(mixed, channels, strict=True))
            overlap = np.fft.irfft2(weights * visible, self.padded)
            # If the two hardly overlap, there is no way to know how well they agree: UNSEEN is assumed.
            few = 0.1 * weight.sum() + 1e-3
            squared = np.maximum(np.fft.irfft2(sums, self.padded), 0) + few * UNSEEN**2
            difference = np.sqrt(squared / (np.maximum(overlap, 0) + few))
            filled = np.fft.irfft2(wants * visible, self.padded) / wanted.sum()
            cost = gap * (1 - filled) + costs.height * np.maximum(0, dy - 0.03)
            # A mirrored patch is new wherever it is.
            cost += costs.turn if index else costs.stay * np.exp(-((dx / 0.15) ** 2) - (dy / 0.15) ** 2)
            if costs.repeat:
                cost += costs.repeat * np.fft.irfft2(wants * self.used_spectra[index], self.padded) / wanted.sum()
            if costs.noise:
                # The first patch is mostly random; the following ones depend mostly on how well they agree.
                noise = costs.noise if not weight.any() else 0.3 * costs.noise
                grid = rng.normal(0, noise, (5, 9)).astype(np.float32)
                cost += cv2.resize(grid, self.padded[::-1], interpolation=cv2.INTER_CUBIC)
            cost += 0.5 * difference
            total = cost + 0.5 * difference
            total[~np.roll(self.visible[index], (-y, -x), (0, 1))] = np.inf
            base_costs.append(cost)
            totals.append(total)
        cost, total = np.stack(base_costs), np.stack(totals)
        for _ in range(self.candidates):
            index, row, column = (int(i) for i in np.unravel_index(int(np.argmin(total)), total.shape))
            if not np.isfinite(total[index, row, column]):
                return
            offset = self._refine(index, canvas, near, center, 2 * int(self.dy[row]), 2 * int(self.dx[column]))
            yield float(cost[index, row, column]), index, *offset
            rows, columns = (
                np.arange(row - 3, row + 4) % total.shape[1],
                np.arange(column - 3, column + 4) % total.shape[2],
            )
            total[index][np.ix_(rows, columns)] = np.inf

    def _refine(
        self, index: int, canvas: Canvas, near: Floats, center: tuple[int, int], dy: int, dx: int
    ) -> tuple[int, int]:
        """The best offset within two work pixels of one found at half size, compared on a sample of pixels."""
        height, width = canvas.known.shape
        source = self.sources[index]
        at = np.flatnonzero(near > 0.15)
        at = at[:: max(1, len(at) // 300)]
        moves = np.arange(-2, 3)
        dys, dxs = (grid.ravel() for grid in np.meshgrid(dy + moves, dx + moves, indexing="ij"))
        # The center comes first: an offset that does not fill it is discarded.
        ys = np.concatenate([[center[0]], at // width]) + dys[:, None]
        xs = np.concatenate([[center[1]], at % width]) + dxs[:, None]
        inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
        taken = np.where(inside, ys * width + xs, 0)
        known = source.known.ravel()[taken] & inside
        weight = known[:, 1:] * near.ravel()[at]
        colors = source.colors.reshape(-1, 3)[taken[:, 1:]]
        squares = _squares(colors - canvas.colors.reshape(-1, 3)[at])
        few = 0.1 * near.ravel()[at].sum() + 1e-3
        cost = ((weight * squares).sum(1) + few * UNSEEN**2) / (weight.sum(1) + few)
        best = int(np.argmin(np.where(known[:, 0], cost, np.inf)))
        return int(dys[best]), int(dxs[best])


def _cut(canvas: Canvas, patch: Canvas, usable: Mask) -> Mask:
    """The pixels taken from the patch: all that only it can fill, and its side of the minimum cut in the overlap."""
    if not (canvas.known & usable).any():
        return usable
    masks = [canvas.known.astype(np.uint8) * 255, usable.astype(np.uint8) * 255]
    finder = cv2.detail.GraphCutSeamFinder("COST_COLOR")
    # It accepts plain arrays, although the stubs do not say so.
    chosen = finder.find([canvas.colors, patch.colors], [(0, 0), (0, 0)], masks)[1]  # type: ignore[list-item, arg-type]
    return np.asarray(chosen.get() > 0)
