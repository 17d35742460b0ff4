"""Masks as image files: binary ones, classes, instances, and colors for classes."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from augment.commands.formats.base import Format, New, Size, Tree, sibling, write
from augment.errors import InputError
from augment.sampling.labels import Labels, labeled_pixels

_FOLDERS = (
    *("masks", "mask", "Masks", "SegmentationClass", "SegmentationObject", "labels", "annotations", "segmentations"),
    *("gt", "ground_truth", "GT", "GroundTruth", "groundtruth"),
)
_MARKS = ("_mask", "_masks", "_segmentation", "_seg", "_gt", "_label")  # after the image's name
_EXACT = (".png", ".bmp", ".tif", ".tiff", ".gif")
_LOSSY = (".jpg", ".jpeg")


class Masks(Format):
    """A mask of the same name in a parallel folder such as `masks`, or one called NAME_mask."""

    name = "masks"

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree)
        suffixes = (*_EXACT, *_LOSSY)
        plain = [f"{mark}{suffix}" for mark in ("", *_MARKS) for suffix in suffixes]
        marked = [f"{mark}{suffix}" for mark in _MARKS for suffix in suffixes]
        found = {
            image: [*tree.beside(image, _FOLDERS, plain), *tree.beside(image, ("",), marked)] for image in tree.images
        }
        # The masks themselves find the images beside them, or masks of another kind.
        masks = {mask for image, files in found.items() if not _is_mask(image) for mask in files}
        self._files = {image: files for image, files in found.items() if files and image not in masks}
        self.files = frozenset(mask for files in self._files.values() for mask in files)

    def own_files(self, image: str) -> list[str]:
        return self._files.get(image, [])

    def size(self, image: str) -> Size | None:
        return next((self._opened(file).size[::-1] for file in self.own_files(image)), None)

    def labels(self, image: str, size: Size) -> list[Labels]:
        found = []
        for file in self.own_files(image):
            values = _values(self._opened(file))
            if values.shape != size:
                raise InputError(f"{self.tree.path(file)}: a mask of {values.shape} for an image of {size}")
            labeled = values >= 128 if file.lower().endswith(_LOSSY) else labeled_pixels(values)
            found.append(Labels(masks=labeled[None]))
        return found

    def add(self, new: New, out: Path) -> None:
        for file in self.own_files(new.image):
            data = self.tree.path(file).read_bytes()
            if new.move is not None:
                data = _moved(self._opened(file), new)
            write(out / sibling(file, new.image, new.name), data)

    def _opened(self, file: str) -> PIL.Image.Image:
        try:
            with PIL.Image.open(self.tree.path(file)) as opened:
                opened.load()
                return opened
        except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
            raise InputError(f"{self.tree.path(file)}: the mask cannot be read: {error}") from error


def _is_mask(image: str) -> bool:
    """Whether its name says that it is a mask."""
    *parents, name = PurePosixPath(image).parts
    return PurePosixPath(name).stem.endswith(_MARKS) or any(parent in _FOLDERS for parent in parents)


def _values(mask: PIL.Image.Image) -> NDArray[Any]:
    """A number for each pixel `(H, W)`: 0 for no label. Colors become numbers, black 0; alpha says nothing."""
    if mask.mode in ("RGBA", "LA"):
        mask = mask.convert(mask.mode[:-1])
    values = np.asarray(mask)
    if values.ndim == 2:
        return values
    planes = values.astype(np.int32)
    return np.asarray(planes[..., 0] << 16 | planes[..., 1] << 8 | planes[..., 2])


def _moved(mask: PIL.Image.Image, new: New) -> bytes:
    assert new.move is not None
    values = new.move.masks(_values(mask))
    if values.dtype == np.int32 and mask.mode in ("RGB", "RGBA"):
        values = np.stack([values >> 16, values >> 8 & 255, values & 255], 2).astype(np.uint8)
    result = PIL.Image.fromarray(values)
    if mask.mode == "P":
        result = result.convert("P") if result.mode != "L" else _with_palette(values, mask)
    elif mask.mode == "1":
        result = result.convert("1")
    buffer = io.BytesIO()
    result.save(buffer, mask.format)
    return buffer.getvalue()


def _with_palette(values: NDArray[Any], mask: PIL.Image.Image) -> PIL.Image.Image:
    result = PIL.Image.fromarray(values).convert("L")
    result.putpalette(mask.getpalette() or [])
    return result
