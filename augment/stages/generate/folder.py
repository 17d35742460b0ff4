"""Photographs from a folder as backgrounds: no model at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import PIL.ImageOps
import xxhash
from numpy.typing import NDArray

from augment.artifacts import Image
from augment.errors import UnavailableError
from augment.files import check_file
from augment.imaging.fit import cover
from augment.keys import to_rgb
from augment.stages.generate import Generator

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Folder(Generator):
    """Backgrounds are photographs of `folder`, cropped to the plate's aspect and resized to its size.

    The seed picks the photograph, the crop and whether it is mirrored; of the plate only the size is used. A file that
    cannot be read is skipped with one warning, and another takes its place.

    The fingerprint holds the folder's path, not its contents, so a store can be read on a machine without the folder,
    and backgrounds already made stay when photographs are added. The pick is by rendezvous hashing on the path inside
    the folder: adding one photograph to n changes about one pick in n + 1, and removing one changes only its own.

    - `folder`: searched with its subfolders; `~` is the home.
    - `flip`: mirror half of the backgrounds left to right.
    """

    backend: ClassVar[str] = "folder"
    parallel: ClassVar[bool] = True

    folder: str
    flip: bool = True

    def __call__(self, *, plates: Sequence[Image], seeds: Sequence[int], **_: Any) -> list[Image]:
        return [self._background(plate, seed) for plate, seed in zip(plates, seeds, strict=True)]

    def check(self) -> None:
        """Raise UnavailableError if there is no such folder, or no photograph in it."""
        _ = self._photographs

    @cached_property
    def _photographs(self) -> tuple[list[Path], NDArray[np.uint64]]:
        """Every photograph's path, sorted by its path inside the folder, and the hash of that path."""
        root = Path(self.folder).expanduser()
        if not root.is_dir():
            raise UnavailableError(f"generate.folder: no folder {self.folder!r} here; give one that holds photographs")
        names = sorted(
            path.relative_to(root).as_posix()
            for base, _, files in os.walk(root)
            for path in (Path(base, file) for file in files)
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        if not names:
            raise UnavailableError(
                f"generate.folder: {self.folder!r} holds no photograph ({', '.join(sorted(SUFFIXES))})"
            )
        hashes = [xxhash.xxh3_64_intdigest(os.fsencode(name)) for name in names]
        return [root / name for name in names], np.array(hashes, np.uint64)

    @cached_property
    def _unreadable(self) -> set[int]:
        """The photographs that could not be read, by index; each has had its warning."""
        return set()

    def _background(self, plate: Image, seed: int) -> Image:
        height, width = plate.shape[:2]
        rng = np.random.default_rng(seed)
        x, y, mirrored = rng.random(), rng.random(), self.flip and rng.random() < 0.5
        background = cover(self._photograph(seed, max(height, width)), height, width, x, y)
        return np.ascontiguousarray(background[:, ::-1]) if mirrored else background

    def _photograph(self, seed: int, side: int) -> Image:
        """The readable photograph that ranks first for this seed; `side` as in `_read`."""
        paths, hashes = self._photographs
        for index in np.argsort(_mix(hashes ^ _mix(np.array([seed % 2**64], np.uint64)))).tolist():
            if index in self._unreadable:
                continue
            try:
                return _read(paths[index], side)
            except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
                self._unreadable.add(index)
                logger.warning("generate.folder: %s is skipped, it cannot be read: %s", paths[index], error)
        raise UnavailableError(f"generate.folder: none of the {len(paths)} photographs in {self.folder!r} can be read")


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): each bit of the result depends on all of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _read(path: Path, side: int) -> Image:
    """The photograph as a viewer shows it (EXIF orientation applied), `(H, W, 3)` uint8 RGB.

    A JPEG may come at a half, a quarter or an eighth of its size, with neither side below `side` pixels: otherwise most
    of the time goes into decoding 24 megapixels for a plate of 512 pixels. Pillow, because OpenCV fills the missing
    part of a truncated file with gray and says nothing.
    """
    check_file(path)
    with PIL.Image.open(path) as image:
        image.draft("RGB", (side, side))
        return to_rgb(PIL.ImageOps.exif_transpose(image))
