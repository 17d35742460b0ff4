"""Captions by measurement, without recognizing anything: a sentence on color, light, contrast, texture, sharpness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image
from augment.stages.caption import Captioner
from augment.stages.caption.instruments import marks

# sRGB values of everyday color names, after the centroids of the ISCC-NBS color names (NBS Circular 553).
_COLORS: dict[str, tuple[int, int, int]] = {
    "black": (18, 18, 20),
    "dark grey": (68, 68, 70),
    "grey": (122, 122, 122),
    "pale grey": (178, 178, 178),
    "white": (240, 240, 240),
    "cream": (240, 228, 196),
    "beige": (205, 184, 152),
    "brown": (128, 84, 52),
    "dark brown": (64, 42, 30),
    "red": (190, 30, 36),
    "dark red": (108, 22, 30),
    "pink": (232, 160, 176),
    "orange": (232, 132, 40),
    "yellow": (238, 208, 56),
    "pale yellow": (244, 232, 150),
    "olive": (112, 108, 50),
    "green": (64, 148, 62),
    "dark green": (34, 66, 36),
    "pale green": (164, 206, 150),
    "teal": (30, 116, 116),
    "turquoise": (94, 196, 192),
    "pale blue": (158, 198, 230),
    "blue": (48, 108, 190),
    "dark blue": (26, 40, 86),
    "grey blue": (98, 122, 146),
    "purple": (118, 62, 140),
    "lilac": (190, 164, 210),
}
_NAMES = tuple(_COLORS)
_SECOND = 0.22  # a color that covers less of a part than this is not mentioned
_APART = 12  # ΔE from which two halves are told apart; 2.3 is just noticeable
_SIDE = 256  # pixels of the longer side at which texture is judged; sharpness is what twice that adds to it


@dataclass(frozen=True)
class Measured(Captioner):
    """Describes what can be measured in a plate, in a few milliseconds; it names no things and needs no model."""

    backend: ClassVar[str] = "measured"
    parallel: ClassVar[bool] = True
    version: ClassVar[int] = 2  # says what only instruments show

    def __call__(self, *, plates: Sequence[Image], **_: Any) -> list[str]:
        """`(H, W, 3)` uint8 RGB plates to one sentence each."""
        return [describe(plate) for plate in plates]


def describe(plate: Image) -> str:
    """One sentence on an `(H, W, 3)` uint8 RGB plate: colors and their layout, light, contrast, texture, sharpness, and
    what only some kinds of picture show (see `marks`)."""
    thumbnail = _lab(_shrink(plate, 64))
    grey = np.asarray(cv2.cvtColor(_shrink(plate, 2 * _SIDE), cv2.COLOR_RGB2GRAY), np.float32)
    halved = (max(1, grey.shape[1] // 2), max(1, grey.shape[0] // 2))
    half = np.asarray(cv2.resize(grey, halved, interpolation=cv2.INTER_AREA), np.float32)
    brightness, tone, contrast = _light(thumbnail)
    layout = _layout(thumbnail)
    if brightness.endswith("dark"):
        layout = layout.removeprefix("dark ")  # not "a dark dark blue scene"
    subject = " ".join(word for word in (brightness, layout) if word)
    light = " ".join(word for word in (tone and f"in {tone} light", contrast and f"with {contrast} contrast") if word)
    return ", ".join(
        part
        for part in (f"{_article(subject)} {subject}", light, _texture(half), _sharpness(grey, half), marks(plate))
        if part
    )


def _shrink(image: Image, side: int) -> Image:
    """The image, scaled so that its longer side is at most `side` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _lab(image: Image) -> NDArray[np.float32]:
    """CIE L*a*b*: L 0 … 100."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


# Lightness counts for less than hue: a shaded lawn is still green.
_WEIGHTS = np.array([0.7, 1, 1], np.float32)
_PALETTE = _lab(np.array([list(_COLORS.values())], np.uint8))[0] * _WEIGHTS


def _nearest(lab: NDArray[np.float32]) -> NDArray[np.intp]:
    """`(H, W)` index of each pixel's color name."""
    # |p - c|² less |p|², which is the same for every name.
    return np.asarray(((_PALETTE**2).sum(axis=1) - 2 * (lab * _WEIGHTS) @ _PALETTE.T).argmin(axis=2))


def _colors(named: NDArray[np.intp]) -> list[str]:
    """The most frequent color name, and the second if it covers enough."""
    shares = np.bincount(named.ravel(), minlength=len(_NAMES)) / named.size
    first, second = np.argsort(-shares, kind="stable")[:2]
    return [_NAMES[first], _NAMES[second]] if shares[second] >= _SECOND else [_NAMES[first]]


def _layout(lab: NDArray[np.float32]) -> str:
    """Where the colors are: "pale blue upper part over a dark green lower part", "brown left side …", "grey scene"."""
    height, width = lab.shape[:2]
    named = _nearest(lab)
    rows, columns = height // 2, width // 2
    upper, lower = ((slice(top, top + rows), slice(0, width)) for top in (0, height - rows))
    left, right = ((slice(0, height), slice(start, start + columns)) for start in (0, width - columns))
    if _apart(lab[upper], lab[lower]) >= _apart(lab[left], lab[right]):
        one, other, where, rest = upper, lower, "upper part over", "lower part"
    else:
        one, other, where, rest = left, right, "left side beside", "right side"
    if _apart(lab[one], lab[other]) > _APART:
        first, second = _colors(named[one]), _colors(named[other])
        if first[0] != second[0]:
            words = " and ".join(second)
            return f"{' and '.join(first)} {where} {_article(words)} {words} {rest}"
    return " and ".join(_colors(named)) + " scene"


def _apart(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Distance of the mean colors (CIE76 ΔE)."""
    if not first.size or not second.size:
        return 0.0
    return float(np.linalg.norm(first.mean(axis=(0, 1)) - second.mean(axis=(0, 1))))


def _light(lab: NDArray[np.float32]) -> tuple[str, str, str]:
    """Words for brightness, for the color of the light, and for contrast; the middle of each scale has none."""
    lightness, green_red, blue_yellow = lab.reshape(-1, 3).mean(axis=0)
    spread = float(lab[..., 0].std())
    brightness = _word(lightness, ((22, "very dark"), (38, "dark"), (50, "dim"), (70, ""), (101, "bright")))
    tone = _word(blue_yellow + 0.3 * green_red, ((-7, "cool"), (9, ""), (200, "warm")))
    return brightness, tone, _word(spread, ((8, "very low"), (15, "low"), (24, ""), (101, "strong")))


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _word(value: float, scale: Sequence[tuple[float, str]]) -> str:
    """The word of the first bound that the value stays under."""
    return next((word for bound, word in scale if value < bound), scale[-1][1])


def _texture(grey: NDArray[np.float32]) -> str:
    """How much detail there is, how large it is, and in which direction it runs."""
    blurred = cv2.GaussianBlur(grey, (0, 0), 1)
    fine, coarse = grey - blurred, blurred - cv2.GaussianBlur(blurred, (0, 0), 4)
    strength = float(np.hypot(fine.std(), coarse.std()))
    amount = _word(strength, ((3, "smooth"), (8, "faint"), (16, "moderate"), (27, "rich"), (256, "busy")))
    if amount == "smooth":
        return "smooth texture"
    ratio = float(fine.std() / max(coarse.std(), 1e-6))
    scale = _word(ratio, ((0.6, "coarse "), (1.1, ""), (np.inf, "fine ")))
    return f"{amount} {scale}texture{_direction(coarse if ratio < 1 else fine)}"


def _direction(band: NDArray[np.float32]) -> str:
    """The direction in which most edges run, from the structure tensor (Bigün and Granlund 1987); "" for none."""
    dx, dy = cv2.Sobel(band, cv2.CV_32F, 1, 0), cv2.Sobel(band, cv2.CV_32F, 0, 1)
    xx, yy, xy = float((dx * dx).mean()), float((dy * dy).mean()), float((dx * dy).mean())
    coherence = np.hypot(xx - yy, 2 * xy) / max(xx + yy, 1e-6)
    if coherence < 0.35:
        return ""
    across = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) % 180  # the way of the gradient, 0 is along the row
    way = "vertical" if across < 25 or across > 155 else "horizontal" if 65 < across < 115 else "diagonal"
    return f" of {way} lines"


def _sharpness(grey: NDArray[np.float32], half: NDArray[np.float32]) -> str:
    """Whether the finest detail keeps up with that of twice its size: it fades first when an image is out of focus."""
    # The strongest few of the edges decide: a sharp thing before a plain wall is sharp. Rounding to 8 bits alone brings
    # the 98th percentile of a Laplacian to 3, and half of that at half the size.
    finest, next_finest = (
        np.sqrt(max(0.0, _strong(np.asarray(cv2.Laplacian(image, cv2.CV_32F), np.float32)) ** 2 - rounding**2))
        for image, rounding in ((grey, 3), (half, 1.5))
    )
    if next_finest < 3:
        return "out of focus" if half.std() > 12 else ""  # nothing to judge by in a plain surface
    ratio = finest / next_finest
    return _word(ratio, ((0.33, "out of focus"), (0.45, "slightly soft"), (0.78, ""), (np.inf, "in sharp focus")))


def _strong(values: NDArray[np.float32]) -> float:
    """The 98th percentile of the magnitudes, from every fifth value."""
    magnitudes = np.abs(values.ravel()[::5])
    return float(np.partition(magnitudes, int(0.98 * (len(magnitudes) - 1)))[int(0.98 * (len(magnitudes) - 1))])
