"""Named lights: the words for them in a prompt, and how each changes an image without a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image

Kind = Literal["any", "outdoor", "indoor"]

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709
_REACH = 0.65  # share of the way, in stops, to the light's own brightness: a dark wood stays darker than snow
_MAX_STOPS = (-1.8, 0.9)  # brightening reveals noise and JPEG blocks sooner than darkening
# Optical densities in red, green and blue of hematoxylin, eosin and DAB (Ruifrok and Johnston 2001), each of length 1.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_STAINS = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)


@dataclass(frozen=True)
class Grade:
    """How a light changes an image. The defaults change nothing.

    brightness: target for the mean sRGB luma, 0 to 1; None leaves the exposure unchanged.
    stops: additional exposure, in stops.
    warmth: blue (-1) to amber (1); at either end, about a third of a stop in red and half a stop in blue.
    tint: green (-1) to magenta (1).
    contrast: -1 (flat) to 0.8, around the mean.
    saturation: factor on the distance from gray.
    haze: share of airlight at the top of the image, 0 to 1; less towards the bottom, which is usually nearer.
    air: sRGB color of that airlight.
    side, pool: share of light lost at the far side, or away from a spot, 0 to 1.
    stain: factors on the density of hematoxylin, eosin and DAB; unstained white stays white.
    blur: standard deviation of a Gaussian blur, as a share of the image's diagonal.
    noise: standard deviation of the noise added, in gray levels of 255; the same in all channels.
    """

    brightness: float | None = None
    stops: float = 0.0
    warmth: float = 0.0
    tint: float = 0.0
    contrast: float = 0.0
    saturation: float = 1.0
    haze: float = 0.0
    air: tuple[int, int, int] = (220, 224, 228)
    side: float = 0.0
    pool: float = 0.0
    stain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class Light:
    """A named light: `phrase` is its wording in a prompt, `words` the pattern that recognizes it in any text."""

    name: str
    phrase: str
    words: str
    grade: Grade
    kind: Kind = "any"


LIGHTS: tuple[Light, ...] = (
    Light(
        "golden hour",
        "in low golden hour sun",
        r"golden[ -]hour|golden light|sunsets?|sunrise|(?:low|setting|evening) sun",
        Grade(0.5, warmth=0.62, tint=0.05, contrast=0.2, saturation=1.1, haze=0.08, air=(255, 226, 178), side=0.28),
        "outdoor",
    ),
    Light(
        "overcast",
        "under a soft overcast sky",
        r"overcast|cloudy|gr[ae]y (?:day|sky|skies)|diffuse (?:day)?light",
        Grade(0.47, warmth=-0.12, contrast=-0.25, saturation=0.78, haze=0.08, air=(222, 226, 230)),
        "outdoor",
    ),
    Light(
        "noon sun",
        "in clear noon sun",
        r"noon|midday|(?:bright|harsh|strong) sun(?:light|shine)?|sunny",
        Grade(0.62, warmth=0.08, contrast=0.28, saturation=1.06),
        "outdoor",
    ),
    Light(
        "blue hour",
        "at blue hour",
        r"blue hour|twilight|dusk",
        Grade(0.3, warmth=-1.0, tint=0.15, contrast=-0.05, saturation=0.85, haze=0.1, air=(120, 136, 178)),
        "outdoor",
    ),
    Light(
        "fog",
        "in drifting fog",
        r"fog(?:gy)?|mist(?:y)?|haz[ey]",
        Grade(0.58, warmth=-0.08, contrast=-0.2, saturation=0.7, haze=0.55, air=(216, 220, 224)),
        "outdoor",
    ),
    Light(
        "lamp light",
        "in warm lamp light",
        r"lamp ?light|lamplit|candle ?light|candlelit|tungsten|incandescent",
        Grade(0.38, warmth=0.9, contrast=0.12, saturation=1.0, pool=0.5),
        "indoor",
    ),
    Light(
        "moonlight",
        "in faint moonlight",
        r"moon ?light|moonlit|(?:at|by) night|night ?time",
        Grade(0.2, warmth=-1.3, tint=0.1, contrast=0.05, saturation=0.6, side=0.3),
        "outdoor",
    ),
    Light(
        "studio light",
        "in even studio light",
        r"studio(?: light(?:ing|s)?)?|soft ?box",
        Grade(0.6, contrast=0.12, saturation=1.02, pool=0.18),
        "indoor",
    ),
    Light(
        "dawn",
        "at a pale pink dawn",
        r"dawn|daybreak|(?:early )?morning (?:light|sun)",
        Grade(0.5, warmth=0.22, tint=0.5, contrast=-0.12, saturation=0.92, haze=0.2, air=(250, 218, 214)),
        "outdoor",
    ),
    Light(
        "open shade",
        "in cool open shade",
        r"(?:open |deep |cool )?shade|shaded",
        Grade(0.42, warmth=-0.38, contrast=-0.08, saturation=0.95, side=0.12),
    ),
    Light(
        "storm light",
        "under dark storm clouds",
        r"storm(?:y| light| clouds)?|thunder(?:y|clouds)?|rain(?:y|ing)?",
        Grade(0.33, warmth=-0.25, tint=-0.08, contrast=0.22, saturation=0.65, side=0.22),
        "outdoor",
    ),
    Light(
        "window light",
        "in soft window light",
        r"window ?light|light (?:from|through) (?:a|the) window",
        Grade(0.45, warmth=-0.05, contrast=0.1, saturation=0.95, side=0.5),
        "indoor",
    ),
    Light(
        "fluorescent light",
        "under fluorescent tubes",
        r"fluorescent|neon tubes?|strip light(?:ing|s)?",
        Grade(0.58, warmth=-0.22, tint=-0.45, contrast=-0.05, saturation=0.85),
        "indoor",
    ),
    Light(
        "afternoon sun",
        "in late afternoon sun",
        r"(?:late )?afternoon(?: sun| light)?|slanting (?:sun)?light",
        Grade(0.54, warmth=0.35, contrast=0.25, saturation=1.08, side=0.18),
    ),
    Light(
        "winter light",
        "in thin winter light",
        r"winter(?:y)? (?:light|sun|day)|snow light",
        Grade(0.62, warmth=-0.45, contrast=-0.1, saturation=0.65, haze=0.1, air=(226, 234, 244)),
        "outdoor",
    ),
)

_KINDS_OF_LIGHT = "|".join(light.words for light in LIGHTS)
_ADJECTIVES = (
    "low|soft|clear|warm|cool|cold|even|pale|pink|dark|thin|faint|dim|bright|light|thick|drifting|golden|late|early"
)
# The words before a light that belong to it ("in the soft …"), the light, and the possible rest of its phrase.
_CLAUSE = re.compile(
    rf"(?:,\s*)?(?:\b(?:at|in|under|during|by|with|before|after)\s+)?(?:\b(?:an?|the)\s+)?(?:\b(?:{_ADJECTIVES})\s+)*"
    rf"\b(?:{_KINDS_OF_LIGHT})\b(?:\s+(?:sky|skies|sun|light|lighting|weather|clouds|tubes)\b)*",
    re.IGNORECASE,
)


def find_lights(text: str, lights: Sequence[Light] = LIGHTS) -> list[Light]:
    """Those of the lights that a text names, in order of appearance."""
    found = [(match.start(), light) for light in lights if (match := _pattern(light).search(text))]
    return [light for _, light in sorted(found, key=lambda pair: pair[0])]


def _pattern(light: Light) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{light.words})(?!\w)", re.IGNORECASE)


def without_lights(text: str) -> str:
    """The text without the words that name a light: "a beach at sunset" becomes "a beach"."""
    return re.sub(r"\s+([,.;])|\s{2,}", lambda match: match[1] or " ", _CLAUSE.sub(" ", text)).strip(" ,")


def relight(image: Image, text: str, seed: int, grade: Grade | None = None) -> Image:
    """The `(H, W, 3)` uint8 RGB image in the lights that `text` names. The seed sets their direction and strength.

    Several lights are averaged. If the text names none, exposure and color change slightly, so that two backgrounds
    made from one image still differ. With `grade` the text is not read, and the image changes in the way of that grade
    and, slightly, in exposure. An image in shades of gray stays one. Exposure and contrast clip nothing. The result is
    dithered by half a level, which avoids banding in smooth skies.
    """
    rng = np.random.default_rng(seed)
    lights = find_lights(text) if grade is None else []
    if grade is not None:
        grade = _scaled(grade, float(rng.uniform(0.85, 1.1)))
        grade = replace(grade, stops=grade.stops + float(rng.uniform(-0.08, 0.08)))
    elif lights:
        grade = _scaled(_average([light.grade for light in lights]), float(rng.uniform(0.85, 1.1)))
    else:
        stops, warmth, tint, contrast = rng.uniform(-1, 1, 4) * (0.25, 0.18, 0.08, 0.06)
        grade = Grade(stops=stops, warmth=warmth, tint=tint, contrast=contrast, saturation=rng.uniform(0.94, 1.06))
    return _apply(image, _without_color(grade) if is_gray(image) else grade, rng)


def is_gray(image: Image) -> bool:
    """Whether an `(H, W, 3)` uint8 RGB image has shades of gray only, but for what JPEG does to them."""
    small = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST) if image.size > 250_000 else image
    red, green, blue = cv2.split(small)
    apart = cv2.max(cv2.absdiff(red, green), cv2.absdiff(green, blue))
    return float((apart > 3).mean()) < 0.001


def _without_color(grade: Grade) -> Grade:
    air = round(float(np.array(grade.air) @ _LUMA))
    return replace(grade, warmth=0.0, tint=0.0, saturation=1.0, air=(air, air, air), stain=(1.0, 1.0, 1.0))


def _average(grades: list[Grade]) -> Grade:
    if len(grades) == 1:
        return grades[0]
    values = {f.name: np.mean([getattr(grade, f.name) for grade in grades], axis=0) for f in fields(Grade)}
    # Fog stays fog, and a lamp stays a lamp, when combined with another light.
    values |= {name: max(getattr(grade, name) for grade in grades) for name in ("haze", "side", "pool")}
    values["air"] = max(grades, key=lambda grade: grade.haze).air
    return Grade(**values)


def _scaled(grade: Grade, strength: float) -> Grade:
    names = ("stops", "warmth", "tint", "contrast", "haze", "side", "pool", "blur", "noise")
    hematoxylin, eosin, dab = (1 + (factor - 1) * strength for factor in grade.stain)
    return replace(grade, **{name: getattr(grade, name) * strength for name in names}, stain=(hematoxylin, eosin, dab))


def _apply(image: Image, grade: Grade, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    if grade.stain != (1.0, 1.0, 1.0):
        image = _restained(image, grade.stain)
    small = cv2.resize(image, (min(width, 64), min(height, 64)), interpolation=cv2.INTER_AREA)
    mean = float((small.reshape(-1, 3).mean(axis=0) / 255) @ _LUMA)
    # One table per channel covers everything that depends on the pixel's own value; the rest is linear in its output.
    coded = cv2.LUT(image, _curves(grade, mean))
    keep = grade.saturation
    coded = cv2.transform(coded, keep * np.eye(3) + (1 - keep) * np.tile(_LUMA, (3, 1)))
    haze = _haze(grade, height)[:, None]
    gain = _falloff(grade, height, width, rng) * (1 - haze)
    if grade.blur:
        coded = cv2.GaussianBlur(coded, (0, 0), grade.blur * float(np.hypot(height, width)))
    dither = rng.random((height, width), np.float32) - np.float32(0.5)
    if grade.noise:
        dither += np.float32(grade.noise) * rng.standard_normal((height, width), np.float32)
    lit = []
    for plane, air in zip(cv2.split(coded), grade.air, strict=True):
        added = dither + haze * np.float32(air)
        # Rounds, and clips values that the saturation matrix pushed out of range.
        lit.append(cv2.add(np.multiply(plane, gain), added, dtype=cv2.CV_8U))
    return np.asarray(cv2.merge(lit), np.uint8)


def _restained(image: Image, factors: tuple[float, float, float]) -> Image:
    """Separates the stains by their optical densities (Ruifrok and Johnston 2001), and joins them in other shares."""
    density = cv2.LUT(image, -np.log((np.arange(256, dtype=np.float32) + 1) / 256)[None])
    amounts = np.maximum(cv2.transform(density, np.linalg.inv(_STAINS).T), 0)
    # What the three stains cannot explain stays as it is.
    change = cv2.transform(amounts, _STAINS.T * (np.array(factors) - 1))
    return np.asarray(np.clip(256 * np.exp(-(density + change)) - 0.5, 0, 255), np.uint8)


def _curves(grade: Grade, mean: float) -> NDArray[np.float32]:
    """`(1, 256, 3)`: exposure, white balance and contrast, from sRGB 0…255 to sRGB 0…255 as float."""
    stops = grade.stops
    if grade.brightness is not None:
        wanted = np.log2(_linear(np.array(grade.brightness)) / _linear(np.array(max(mean, 0.02))))
        stops += float(np.clip(_REACH * wanted, *_MAX_STOPS))
    balance = 2.0 ** np.array([0.36 * grade.warmth + 0.1 * grade.tint, -0.16 * grade.tint, -0.56 * grade.warmth])
    gains = 2.0**stops * balance / (balance @ _LUMA)
    light = _linear(np.arange(256) / 255)[:, None]
    # A gain above 1 is bent so that white stays white and nothing clips; a gain below 1 needs no bending.
    light = np.where(gains > 1, gains * light / (1 + (gains - 1) * light), gains * light)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    pivot = float(np.interp(mean, np.arange(256) / 255, coded @ _LUMA))
    # More contrast keeps 0 and 1 in place, so that nothing clips; less contrast pulls towards the mean.
    bend = 4 * coded * (1 - coded) * grade.contrast if grade.contrast > 0 else grade.contrast
    coded = coded + bend * (coded - pivot)
    return np.asarray(255 * coded[None], np.float32)


def _linear(coded: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB (IEC 61966-2-1) to linear light, both 0 to 1."""
    return np.asarray(np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4))


def _haze(grade: Grade, height: int) -> NDArray[np.float32]:
    """`(H,)` share of airlight: full in the top third, where horizons usually are, and less below."""
    down = np.clip((np.linspace(0, 1, height) - 0.3) / 0.7, 0, 1)
    return np.asarray(grade.haze * (1 - 0.75 * down * down * (3 - 2 * down)), np.float32)


def _falloff(grade: Grade, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """`(H, W)` factor on sRGB values: 1 at the light, less where it falls off."""
    angle = rng.choice([0.0, np.pi]) + rng.uniform(-0.7, 0.7)
    centre_x, centre_y = rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.6)
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    gain = np.ones((height, width), np.float32)
    if grade.side:
        away = np.float32(np.cos(angle)) * (x - 0.5) + np.float32(np.sin(angle)) * (y - 0.5) + 0.5
        gain -= np.float32(grade.side) * np.clip(away, 0, 1)
    if grade.pool:
        far = ((x - np.float32(centre_x)) ** 2 + (y - np.float32(centre_y)) ** 2) * np.float32(4)
        gain *= 1 - np.float32(grade.pool) * far / (1 + far)
    return gain
