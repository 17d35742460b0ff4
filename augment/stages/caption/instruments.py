"""What can be measured of the kind of picture: shades of gray only, paper, plain surrounds, round fields, stains."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image
from augment.imaging.aperture import round_field
from augment.imaging.light import is_gray

_SIDE = 384  # pixels of the longer side at which all of it is judged
_TILES = 3  # by side: stains are everywhere on a slide, sky and ground are not


def marks(plate: Image) -> str:
    """Words for what only some kinds of picture show, such as "in shades of grey only"; "" for a photograph's.

    `plate` is `(H, W, 3)` uint8 RGB.
    """
    scale = _SIDE / max(plate.shape[:2])
    small = plate if scale >= 1 else cv2.resize(plate, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if min(small.shape[:2]) < 8:
        return ""
    small = np.asarray(small, np.uint8)
    lab = np.asarray(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
    gray = is_gray(plate)
    plain = _plain(lab)
    if _is_paper(lab):
        return "ink on pale paper"
    if plain == "white" or (plain and not gray):
        return f"on a plain {plain} surround"
    if gray:
        return "in shades of grey only"
    field = round_field(small)
    if field is not None:
        return f"in a {'red' if float(np.median(lab[..., 1][field])) > 10 else 'pale'} round field on black"
    if _is_stained(lab):
        return "in the colors of stained tissue"
    return "in false colors" if _has_false_colors(lab) else ""


def _chroma(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.hypot(lab[..., 1], lab[..., 2]))


def _plain(lab: NDArray[np.float32]) -> str:
    """ "white", "grey" or "black" if nearly all of it is one such tone without texture; "" otherwise."""
    lightness = lab[..., 0]
    middle = float(np.median(lightness))
    near = (np.abs(lightness - middle) < 6) & (_chroma(lab) < 5)
    fine = np.abs(lightness - cv2.GaussianBlur(lightness, (0, 0), 2))
    if near.mean() < 0.9 or float(fine.mean()) > 0.6:
        return ""
    return "white" if middle > 85 else "black" if middle < 15 else "grey"


def _is_paper(lab: NDArray[np.float32]) -> bool:
    """Thin dark strokes on a pale ground that is otherwise even, however it is shaded."""
    lightness = lab[..., 0]
    ground = cv2.GaussianBlur(cv2.dilate(lightness, np.ones((15, 15), np.uint8)), (0, 0), 8)
    ink = (ground - lightness > 22).astype(np.uint8)
    share = float(ink.mean())
    if not 0.02 < share < 0.35 or float(np.median(ground)) < 62 or float(np.median(_chroma(lab))) > 12:
        return False
    solid = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    paper = ground - lightness < 9
    return float(solid.mean()) < 0.25 * share and float(paper.mean()) > 0.5


def _is_stained(lab: NDArray[np.float32]) -> bool:
    """Hematoxylin with eosin or with DAB on bright glass: violet to pink, or blue beside brown, all over the slide."""
    lightness, green_red, blue_yellow = cv2.split(lab)
    fine = np.abs(lightness - cv2.GaussianBlur(lightness, (0, 0), 2))
    if np.percentile(lightness, 97) < 75 or np.percentile(lightness, 2) < 18 or fine.mean() < 1.2:
        return False  # in transmitted light glass is bright, and nothing is black
    chroma = _chroma(lab)
    colored = chroma > 6
    if colored.mean() < 0.2:
        return False
    violet = colored & (blue_yellow < 0.3 * green_red) & (green_red > 2)
    if violet.sum() > 0.85 * colored.sum():
        return _tiles_with(violet) >= _TILES * _TILES - 1
    glass = float(np.median(chroma[lightness > np.percentile(lightness, 92)]))
    blue = colored & (blue_yellow < -2) & (green_red > -6) & (lightness < 85)
    red = colored & (green_red > 28)
    brown = colored & (green_red > 1) & (blue_yellow >= 0.55 * green_red) & ~red
    mixed = (blue | brown).sum() > 0.85 * colored.sum() and red.mean() < 0.02
    return bool(glass < 8 and mixed and blue.mean() > 0.02 and min(_tiles_with(blue), _tiles_with(brown)) >= 5)


def _tiles_with(mask: NDArray[np.bool_]) -> int:
    """In how many tiles the mask covers more than a fiftieth."""
    rows = np.array_split(mask, _TILES, axis=0)
    return sum(float(tile.mean()) > 0.02 for row in rows for tile in np.array_split(row, _TILES, axis=1))


def _has_false_colors(lab: NDArray[np.float32]) -> bool:
    """A color map, as of thermal images: one color for each lightness, strong ones, of many hues."""
    lightness, chroma = lab[..., 0], _chroma(lab)
    if float(np.percentile(chroma, 75)) < 35 or float(lightness.std()) < 8:
        return False
    level = np.clip(lightness / 4, 0, 24).astype(np.intp).ravel()
    colors = lab[..., 1:].reshape(-1, 2)
    counts = np.bincount(level, minlength=25)
    means = np.stack([np.bincount(level, colors[:, n], 25) for n in (0, 1)], axis=1) / np.maximum(counts, 1)[:, None]
    apart = np.linalg.norm(colors - means[level], axis=1)
    used = means[counts > 0.01 * level.size]
    hues = np.degrees(np.unwrap(np.arctan2(used[:, 1], used[:, 0])))
    return float(apart.mean()) < 9 and float(np.ptp(hues)) > 70
