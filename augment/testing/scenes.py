"""Images with a known matte: photographed objects with true alpha (stamps) over photographs of places (wallpapers).

`scenes(100)` makes a hundred of them. `stamps`, `places` and `compose` are its parts, for a benchmark that chooses
itself which object goes over which place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from augment.testing import parts

# Chosen by eye: the top folders of the stamps that hold photographs, and the wallpapers that are photographs.
GROUPS = ("animals", "food", "hobbies", "household", "plants", "vehicles")
PLACES = (
    "BytheWater", "ColdRipple", "DarkestHour", "EveningGlow", "FallenLeaf", "Kite", "OneStandsOut", "Path", "summer_1am"
)  # fmt: skip

_SIDE = (0.3, 0.75)  # the object's longer side as a share of the image's side
_ENLARGE = 2.0  # at most; a stamp enlarged further has no texture left
_SMALLEST = 140  # smallest longer side of a stamp, in pixels
_VARIETY = 0.06  # distinct colors per pixel; less is a drawing (those outside folders named `cartoon` reach 0.05)
_COVER = 0.12  # smallest share of a stamp's box that is object; below it are wires and feathers
_CUT = 0.15  # share of the scenes whose object is cut off at the bottom, as standing people often are


@dataclass(frozen=True, eq=False)
class Stamp:
    """One object: `pixels` `(h, w, 4)` uint8 RGBA; `group` is its top folder."""

    name: str
    group: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Scene:
    """`image` `(size, size, 3)` uint8 RGB and the object's true `alpha` `(size, size)` uint8."""

    name: str
    group: str
    place: str
    image: NDArray[np.uint8]
    alpha: NDArray[np.uint8]


def stamps(folder: Path | None = None, groups: Sequence[str] = GROUPS) -> list[Stamp]:
    """The stamps of `groups` that are photographs and large and solid enough, in the order of their paths."""
    folder = folder or parts.stamps()
    found = []
    for path in sorted(path for group in groups for path in (folder / group).rglob("*.png")):
        if "cartoon" in path.parts:
            continue
        with Image.open(path) as file:
            if file.mode != "RGBA":
                continue
            pixels = np.asarray(file)
        left, top, width, height = cv2.boundingRect(pixels[..., 3])
        box = pixels[top : top + height, left : left + width]
        solid = box[box[..., 3] > 200]
        if max(width, height) < _SMALLEST or len(solid) < _COVER * width * height:
            continue
        if len(np.unique(solid[:, :3] @ np.array([1 << 16, 1 << 8, 1]))) < _VARIETY * len(solid):
            continue
        found.append(Stamp(path.stem, path.relative_to(folder).parts[0], box))
    return found


def places(folder: Path | None = None) -> dict[str, NDArray[np.uint8]]:
    """The photographs among the wallpapers by name, `(800, 1280, 3)` uint8 RGB."""
    folder = folder or parts.wallpapers()
    found: dict[str, NDArray[np.uint8]] = {}
    for name in PLACES:
        path = max((folder / name / "contents" / "images").glob("*.jpg"), key=lambda path: path.stat().st_size)
        found[name] = np.asarray(cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2), np.uint8)[..., ::-1]
    return found


def compose(
    stamp: Stamp, place: NDArray[np.uint8], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Put the object over a random square of the place: image `(size, size, 3)` and alpha `(size, size)`, uint8."""
    background = _square(place, size, rng)
    height, width = stamp.pixels.shape[:2]
    scale = min(float(rng.uniform(*_SIDE)) * size / max(height, width), _ENLARGE)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    # Scale colors weighted by alpha, because the color under alpha 0 is arbitrary in a stamp.
    premultiplied = stamp.pixels.astype(np.float32) / 255
    premultiplied[..., :3] *= premultiplied[..., 3:]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    cutout = cv2.resize(premultiplied, (width, height), interpolation=interpolation)
    if rng.random() < 0.5:
        cutout = cutout[:, ::-1]
    left = round(float(np.clip(rng.normal(0.5, 0.12) * size - width / 2, 0, size - width)))
    top = round(float(np.clip(rng.normal(0.55, 0.1) * size - height / 2, 0, size - height)))
    if rng.random() < _CUT:
        top = size - round(height * float(rng.uniform(0.6, 0.9)))
    cutout = cutout[: size - top]
    canvas = np.zeros((size, size, 4), np.float32)
    canvas[top : top + len(cutout), left : left + width] = cutout
    image = canvas[..., :3] + background.astype(np.float32) / 255 * (1 - canvas[..., 3:])
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), (canvas[..., 3] * 255).round().astype(np.uint8)


def scenes(count: int, size: int = 512, seed: int = 0, groups: Sequence[str] = GROUPS) -> Iterator[Scene]:
    """`count` scenes, the same for the same seed. Stamps come in random order; each is used once before any repeats.

    Raises `augment.testing.parts.PartMissing` if the stamps or the wallpapers are not available.
    """
    rng = np.random.default_rng(seed)
    objects, grounds = stamps(groups=groups), places()
    order: list[int] = []
    for _ in range(count):
        order = order or rng.permutation(len(objects)).tolist()
        stamp, place = objects[order.pop()], str(rng.choice(list(grounds)))
        image, alpha = compose(stamp, grounds[place], size, rng)
        yield Scene(stamp.name, stamp.group, place, image, alpha)


def _square(place: NDArray[np.uint8], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random square of the place, with a side of 0.6 to 1 times its height, resized to `size`."""
    height, width = place.shape[:2]
    side = round(height * float(rng.uniform(0.6, 1.0)))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    part = place[top : top + side, left : left + side]
    return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
