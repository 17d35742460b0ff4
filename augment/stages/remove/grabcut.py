"""Find the object without a model: GrabCut, seeded by how unlike its border a region of the image is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.imaging.edges import find_edge
from augment.stages.remove import Remover
from augment.stages.remove.boxes import cut_boxes

# OpenCV's types only say that a result is an array.
_Map: TypeAlias = NDArray[Any]  # (H, W) or (H, W, C) float32
_Mask: TypeAlias = NDArray[Any]  # (H, W) bool

_SMALLEST = 16  # pixels: a narrower image has too little border
_BORDER = 0.03  # width of the border that stands for the background, of the longer side
_OPEN = 0.6  # middle of the lower border that does not: people and things on tables are cut off there
_KINDS = 6  # of background that a border shows: sky, ground, trees, …
_NOISE = np.diag([20.0, 8.0, 8.0, 4.0])  # variance (L, a, b, texture) within which colors count as equal
_PART = 0.35  # of the heaviest part's saliency: a lighter part does not belong to the object
_WHOLE = 0.9  # of the image's area: a box that covers more says nothing of where the object is
_HOLE = 0.003  # of the object's area: a smaller hole is noise
_SQUARE = np.ones((3, 3), np.uint8)
# Log odds that a cut overlaps the true matte by at least 0.7, from what can be measured without knowing it: logistic
# regression on 440 scenes of `augment.testing.scenes` (seeds 0 and 1, and close-ups). The last one is the intercept.
_ODDS = {
    "agreement": 6.71, "edge": 0.61, "shared colors": -6.05, "area": 0.66, "border": -36.7, "one part": 10.1, "": -12.6
}  # fmt: skip


@dataclass(frozen=True)
class GrabCut(Remover):
    """Mattes by GrabCut (Rother, Kolmogorov and Blake 2004), for images with one object that stands out.

    Its seeds come from how unlike the border a region is: by the minimum barrier distance to it (Zhang et al. 2015,
    "Minimum Barrier Salient Object Detection at 80 FPS"), and by the Mahalanobis distance, in color and texture, to
    what it shows. Five seedings give five cuts, of which the one that looks most like an object is taken. Its
    confidence is the estimated chance that it overlaps the true matte by 0.7 or more (intersection over union).

    If an item has boxes, the matte is the union of the objects in them, whatever else stands out, as in the paper. The
    confidence is then that of the least certain object: how far it fills its box, and is found again from other seeds.
    A box of nearly the whole image is as none.

    - `size`: the longer side, in pixels, of the image or of a box with its surroundings, at which the object is found;
      its edge is then found at full size.
    - `doubt`: a matte whose confidence, 0 to 1, is below it is marked unusable.
    """

    backend: ClassVar[str] = "grabcut"
    parallel: ClassVar[bool] = True

    size: Annotated[int, Field(ge=64)] = 160
    doubt: Annotated[float, Field(ge=0, le=1)] = 0.75

    def __call__(
        self, *, images: Sequence[Image], boxes: Sequence[NDArray[np.float64] | None] | None = None, **_: Any
    ) -> list[Matte]:
        boxes = [None] * len(images) if boxes is None else boxes
        return [self._matte(image, of_image) for image, of_image in zip(images, boxes, strict=True)]

    def _matte(self, image: Image, boxes: NDArray[np.float64] | None) -> Matte:
        height, width = image.shape[:2]
        if min(height, width) < _SMALLEST:
            small = f"doubtful: an image of {height}x{width} pixels is too small, it needs {_SMALLEST} a side"
            return Matte.from_full(np.zeros((height, width), np.uint8), 0.0, small)
        if boxes is not None and len(boxes) and _share(boxes, image).max() < _WHOLE:
            alpha, confidence = cut_boxes(image, boxes, self.size)
        else:
            scale = min(1.0, self.size / max(height, width))
            shape = max(_SMALLEST, round(width * scale)), max(_SMALLEST, round(height * scale))
            mask, confidence = find_object(cv2.resize(image, shape, interpolation=cv2.INTER_AREA))
            alpha = find_edge(image, mask)
        doubtful = confidence < self.doubt and alpha.any()
        reason = f"doubtful: confidence {confidence:.2f}, below {self.doubt:g}" if doubtful else None
        return Matte.from_full(alpha, confidence, reason)


def _share(boxes: NDArray[np.float64], image: Image) -> NDArray[np.float64]:
    """The share of the image's area that each box covers."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(sides.prod(axis=1) / (image.shape[0] * image.shape[1]))


def find_object(image: Image) -> tuple[_Mask, float]:
    """The object's mask, `(H, W)` bool, in an `(H, W, 3)` uint8 RGB image of about 160 pixels, and the confidence."""
    cuts = _cuts(image)
    odds = [_log_odds(measures) for measures in _measure(image, cuts)]
    return _fill_holes(cuts[int(np.argmax(odds))]), float(1 / (1 + np.exp(-max(odds))))


def _cuts(image: Image) -> list[_Mask]:
    """GrabCut's masks from five seedings, which err in different ways on a hard image."""
    features = _features(image)
    barrier, sides, kinds = _barrier_distance(features), _unlike_sides(features), _unlike_kinds(features)
    height, width = barrier.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    centre = np.exp(-(((x / width - 0.5) / 0.35) ** 2 + ((y / height - 0.5) / 0.4) ** 2) / 2)
    saliency = _stretch((barrier + sides + kinds) * (centre + 0.3))
    color = _stretch((barrier + kinds) * (centre + 0.3))
    level, color_level = _otsu(saliency), _otsu(color)
    unlike, central = 0.3 * level, centre * (saliency + 0.35)
    edge = _border(saliency.shape, 2) & (saliency <= 1.2 * level)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    cuts = [
        _grabcut(lab, saliency > 1.2 * level, saliency < unlike, 2),
        _grabcut(image, color > 1.2 * color_level, color < 0.3 * color_level, 2),
        _grabcut(lab, saliency > 0.8 * level, saliency < unlike, 2),
        # The center's own colors, whatever the border shows: for objects that fill the image or lie across its edge.
        _grabcut(lab, central > 0.35, edge, 3),
        _grabcut(image, central > 0.3, edge, 3),
    ]
    return [_main_parts(cut, saliency) for cut in cuts]


def _grabcut(image: Image, likely: _Mask, background: _Mask, iterations: int) -> _Mask:
    labels = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[background] = cv2.GC_BGD
    likely = labels == cv2.GC_PR_FGD
    if not likely.any() or likely.all():
        return likely
    cv2.setRNGSeed(0)  # this thread's own generator, which starts GrabCut's k-means
    background_model, object_model = np.zeros((1, 65)), np.zeros((1, 65))
    whole = (0, 0, 0, 0)  # the rectangle is not read if a mask starts the cut
    cv2.grabCut(image, labels, whole, background_model, object_model, iterations, cv2.GC_INIT_WITH_MASK)
    cut: _Mask = labels == cv2.GC_PR_FGD
    return cut


def _features(image: Image) -> _Map:
    """`(H, W, 4)`: L, a, b, and texture as the deviation of L within 7 pixels."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    light = lab[..., 0]
    mean = cv2.boxFilter(light, -1, (7, 7))
    variance = cv2.boxFilter(light * light, -1, (7, 7)) - mean * mean
    return np.dstack([lab, np.sqrt(np.maximum(variance, 0))])


def _border(shape: tuple[int, ...], width: int) -> _Mask:
    """The border that stands for the background: all of it but the middle of the lower edge."""
    border = np.ones(shape, bool)
    border[width:-width, width:-width] = False
    margin = round(shape[1] * (1 - _OPEN) / 2)
    border[-width:, margin : shape[1] - margin] = False
    return border


def _border_width(features: _Map) -> int:
    height, width = features.shape[:2]
    return max(3, round(_BORDER * max(int(height), int(width))))


def _barrier_distance(features: _Map) -> _Map:
    """How much the color must rise and fall on the easiest way from the border to each pixel, summed over L, a, b.

    Sweeps down, up, right and left, a row at a time, each pixel looking at three neighbours of the row before.
    """
    colors = np.moveaxis(cv2.GaussianBlur(features[..., :3], (0, 0), 1.0), 2, 0)
    colors = np.pad(colors, ((0, 0), (1, 1), (1, 1)), mode="edge")
    start = np.pad(_border(features.shape[:2], 1), 1)
    distance = np.where(start, np.float32(0), np.float32(np.inf)) + np.zeros_like(colors)
    state = np.stack([distance, colors, colors])  # the distance, and the highest and lowest color on the way
    down, right = (colors, state), (colors.transpose(0, 2, 1), state.transpose(0, 1, 3, 2))
    for _ in range(2):
        for values, way in (down, right):
            for order in (1, -1):
                _sweep(values[:, ::order], way[:, :, ::order])
    return _stretch(state[0].sum(0)[1:-1, 1:-1])


def _sweep(colors: _Map, state: _Map) -> None:
    rows, columns = colors.shape[1:]
    for row in range(2, rows - 1):
        here = state[:, :, row, 1:-1]
        color = colors[:, row, 1:-1]
        for shift in (1, 0, 2):
            before, high, low = state[:, :, row - 1, shift : shift + columns - 2]
            high, low = np.maximum(high, color), np.minimum(low, color)
            nearer = (high - low < here[0]) & (before < np.inf)
            for target, value in zip(here, (high - low, high, low), strict=True):
                np.copyto(target, value, where=nearer)


def _unlike_sides(features: _Map) -> _Map:
    """Distance from what the upper, left and right border show, the side that is most unlike counting half."""
    width = _border_width(features)
    strips = (features[:width], features[:, :width], features[:, -width:])
    distances = np.sort([np.sqrt(_mahalanobis(features, strip.reshape(-1, 4))[0]) for strip in strips], axis=0)
    return _stretch(distances[0] + distances[1] + 0.5 * distances[2])


def _unlike_kinds(features: _Map) -> _Map:
    """Negative log likelihood under a mixture of Gaussians fitted to the border."""
    samples = features[_border(features.shape[:2], _border_width(features))]
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.5)
    cv2.setRNGSeed(0)  # this thread's own generator, which starts k-means
    no_labels = np.empty(0, np.int32)
    _, labels, _ = cv2.kmeans(samples, _KINDS, no_labels, stop, 1, cv2.KMEANS_PP_CENTERS)
    surprise = np.full(features.shape[:2], np.inf, np.float32)
    for kind in range(_KINDS):
        members = samples[labels[:, 0] == kind]
        if len(members) >= 8:
            distance, log_volume = _mahalanobis(features, members)
            np.minimum(surprise, distance + log_volume - 2 * np.log(len(members) / len(samples)), out=surprise)
    return _stretch(surprise)


def _mahalanobis(features: _Map, samples: _Map) -> tuple[_Map, float]:
    """Squared distance of each pixel to the Gaussian of `(n, 4)` samples, and the log determinant of its covariance."""
    covariance = np.cov(samples.T) + _NOISE
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T.astype(np.float32)
    white = (features - samples.mean(0)) @ whiten
    return (white * white).sum(-1), float(np.linalg.slogdet(covariance)[1])


def _stretch(values: _Map) -> _Map:
    low, high = np.percentile(values, [2, 99.5])
    stretched: _Map = np.clip((values - low) / (high - low + 1e-6), 0, 1).astype(np.float32)
    return stretched


def _otsu(values: _Map) -> float:
    level, _ = cv2.threshold((values * 255).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    return level / 255


def _main_parts(mask: _Mask, saliency: _Map) -> _Mask:
    """The heaviest connected part, weighed by saliency, and those that are nearly as heavy."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    weights = np.bincount(labels.ravel(), weights=saliency.ravel())
    weights[0] = 0
    main = (weights >= _PART * weights.max()) & (weights > 0)
    kept: _Mask = main[labels]
    return kept


def _fill_holes(mask: _Mask) -> _Mask:
    """Close the holes that are too small to be seen through."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < _HOLE * mask.sum()
    small[0] = True  # the object itself
    filled: _Mask = small[labels]
    return filled


def _iou(one: _Mask, other: _Mask) -> float:
    """Intersection over union, 0 to 1."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def _measure(image: Image, cuts: list[_Mask]) -> list[dict[str, float]]:
    """Measures that distinguish a good cut from a bad one, for each cut."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    smooth = cv2.GaussianBlur(lab.astype(np.float32), (0, 0), 1.0)
    gradient = np.sqrt((cv2.Sobel(smooth, -1, 1, 0) ** 2 + cv2.Sobel(smooth, -1, 0, 1) ** 2).sum(-1))
    gradient = cv2.dilate(gradient, _SQUARE)  # a cut may miss the image's edge by a pixel
    bins = (lab // np.array([24, 12, 12])) @ np.array([22 * 22, 22, 1])
    agreements = [float(np.mean(sorted(_iou(cut, other) for other in cuts if other is not cut)[-2:])) for cut in cuts]
    return [_measure_cut(cut, gradient, bins, agreement) for cut, agreement in zip(cuts, agreements, strict=True)]


def _measure_cut(cut: _Mask, gradient: _Map, bins: NDArray[Any], agreement: float) -> dict[str, float]:
    solid = cut.astype(np.uint8)
    edge = cv2.dilate(solid, _SQUARE) > cv2.erode(solid, _SQUARE)
    edge[[0, -1]] = edge[:, [0, -1]] = False  # there the picture ends and not the object
    outside = cv2.dilate(solid, _SQUARE, iterations=4) == 0
    if not edge.any() or not outside.any():
        return {}
    shares = [np.bincount(bins[where], minlength=22 * 22 * 11) / where.sum() for where in (cut, ~cut)]
    _, _, stats, _ = cv2.connectedComponentsWithStats(solid)
    weakest, usual = np.percentile(gradient[edge], 20), np.median(gradient[outside])
    return {
        "agreement": agreement,
        "edge": float(np.log((weakest + 1) / (usual + 1))),
        "shared colors": float(np.sqrt(shares[0] * shares[1]).sum()),  # Bhattacharyya coefficient
        "area": float(np.log(cut.mean() + 1e-3)),
        "border": float(np.concatenate([cut[0], cut[:, 0], cut[:, -1]]).mean()),
        "one part": float(stats[1:, cv2.CC_STAT_AREA].max() / cut.sum()),
        "": 1.0,
    }


def _log_odds(measures: dict[str, float]) -> float:
    return sum(_ODDS[name] * value for name, value in measures.items()) if measures else -np.inf
