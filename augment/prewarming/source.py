"""The images to prewarm: a folder, a list of paths or a Dataset, decoded to items in DataLoader workers."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import tv_tensors
from torchvision.datasets.folder import IMG_EXTENSIONS

from augment.artifacts import Image
from augment.errors import InputError
from augment.keys import image_key, to_rgb
from augment.prewarming.report import Failure
from augment.stages.base import Item

Images: TypeAlias = "str | Path | Sequence[str | Path] | Dataset[Any]"

_EXIF_ORIENTATION = 0x0112
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Loaded:
    """The result of one entry of the source: an item, a second one if EXIF rotates the image, or a failure."""

    index: int
    items: tuple[Item, ...] = ()
    failure: Failure | None = None


class Source(Dataset[Loaded]):
    """Decodes entries one by one; a bad entry gives a Failure instead of an exception."""

    def __init__(self, names: Sequence[str], groups: Sequence[str | None] | None) -> None:
        if groups is not None and len(groups) != len(names):
            raise InputError(f"groups: got {len(groups)} for {len(names)} images; pass one per image")
        self.names = names
        self.groups = groups

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Loaded:
        group = None if self.groups is None else self.groups[index]
        try:
            return Loaded(index, tuple(self.items(index, group)))
        except Exception as error:  # a file or a user's Dataset may fail in any way and must not end the run
            return Loaded(index, failure=Failure(self.names[index], "decode", _reason(error)))

    def items(self, index: int, group: str | None) -> Iterator[Item]:
        """The entry's items."""
        raise NotImplementedError


class Files(Source):
    """Image files, decoded by PIL as in torchvision's datasets."""

    def __init__(self, paths: Sequence[Path], groups: Sequence[str | None] | None = None) -> None:
        super().__init__([str(path) for path in paths], groups)

    def items(self, index: int, group: str | None) -> Iterator[Item]:
        path = self.names[index]
        with PIL.Image.open(path) as file:
            pixels = to_rgb(file)
            yield _item(pixels, path, group)
            # torchvision's ImageFolder ignores EXIF orientation, OpenCV applies it: support both kinds of loader.
            if file.getexif().get(_EXIF_ORIENTATION, 1) != 1:
                turned = to_rgb(PIL.ImageOps.exif_transpose(file))
                yield _item(turned, path, group)


class Samples(Source):
    """A map-style Dataset whose items are an image, start with one, or are a dict with an "image".

    A `tv_tensors.Mask` anywhere in the item, or a "masks"/"mask" entry of a dict, is the item's own mask. If the
    Dataset has `classes`, an integer after the image is the index of its group.
    """

    def __init__(self, dataset: Dataset[Any], groups: Sequence[str | None] | None = None) -> None:
        count = len(dataset)  # type: ignore[arg-type]
        super().__init__([f"item {index}" for index in range(count)], groups)
        self.dataset = dataset
        self.classes = getattr(dataset, "classes", None)
        paths = getattr(dataset, "samples", None)  # ImageFolder and DatasetFolder: (path, class) each
        if paths and isinstance(paths[0], tuple) and len(paths) == count:
            self.names = [str(path) for path, _ in paths]

    def items(self, index: int, group: str | None) -> Iterator[Item]:
        sample = self.dataset[index]
        rest: Sequence[Any] = ()
        image = sample
        if isinstance(sample, dict):
            image, rest = sample["image"], [value for name, value in sample.items() if name != "image"]
        elif isinstance(sample, tuple | list):
            image, rest = sample[0], sample[1:]
        if group is None and self.classes and rest and isinstance(rest[0], int):
            group = str(self.classes[rest[0]])
        pixels = to_rgb(image)
        yield _item(pixels, self.names[index], group, _mask(sample, pixels.shape[:2]))


@dataclass(frozen=True)
class _Prepared(Dataset[Loaded]):
    source: Source
    prepare: Callable[[Item], Item]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Loaded:
        loaded = self.source[index]
        try:
            return replace(loaded, items=tuple(map(self.prepare, loaded.items)))
        except Exception as error:  # a user's stage may fail in any way when it reads an item
            return Loaded(index, failure=Failure(self.source.names[index], "decode", _reason(error)))


def open_source(images: Images, groups: Sequence[str | None] | None = None) -> Source:
    """Open a source of any form. Raises InputError if it has no images."""
    if isinstance(images, str | Path):
        return _folder(Path(images), groups)
    if isinstance(images, Sequence) and all(isinstance(path, str | Path) for path in images):
        source: Source = Files([Path(path) for path in images], groups)
    elif hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        source = Samples(cast("Dataset[Any]", images), groups)
    else:
        raise InputError(
            f"images: {type(images).__name__} is not a folder, a list of paths or a map-style Dataset "
            "(an object with __len__ and __getitem__)"
        )
    if not len(source):
        raise InputError("images: the source is empty")
    return source


def load(
    source: Source,
    indices: Sequence[int] | None = None,
    workers: int = 0,
    prepare: Callable[[Item], Item] | None = None,
) -> Iterator[Loaded]:
    """Decode entries (all, or those of `indices`) in `workers` DataLoader processes, in order.

    `prepare` is called on each item in the process that decoded it.
    """
    decoded: Dataset[Loaded] = source if prepare is None else _Prepared(source, prepare)
    chosen = decoded if indices is None else Subset(decoded, indices)
    loader = DataLoader(
        chosen,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_quiet_worker,
        prefetch_factor=4 if workers else None,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if type(error) is not RuntimeError or "DataLoader worker" not in str(error):
            raise
        raise InputError(f"a decoding worker died, possibly out of memory; use fewer workers ({error})") from error


def _folder(folder: Path, groups: Sequence[str | None] | None) -> Source:
    if folder.is_file():
        return Files([folder], groups)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    paths = sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in IMG_EXTENSIONS and not name.startswith(".")
    )
    if not paths:
        raise InputError(f"{folder}: no images in it or its subfolders (by extension: .jpg, .png, …)")
    if groups is None:
        # As in torchvision's ImageFolder, the first folder level is the class; images in the root have none.
        groups = [parts[0] if len(parts := path.relative_to(folder).parts) > 1 else None for path in paths]
    return Files(paths, groups)


def _item(pixels: Image, source: str, group: str | None, mask: NDArray[np.uint8] | None = None) -> Item:
    return Item(pixels, image_key(pixels), source, group, mask)


def _mask(sample: Any, size: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The union of the sample's own masks, 255 where any is not 0, or None if it has none."""
    found = np.zeros(size, bool)
    masks = list(_masks(sample))
    for mask in masks:
        if mask.shape[-2:] != size:
            raise InputError(f"the mask is {mask.shape[-2:]}, but the image is {size}")
        found |= (mask.reshape(-1, *size) != 0).any(0)
    return found.astype(np.uint8) * 255 if masks else None


def _masks(value: Any, name: str = "") -> Iterator[NDArray[Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _masks(inner, str(key))
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _masks(inner, name)
    elif isinstance(value, tv_tensors.Mask) or name in ("mask", "masks"):
        yield torch.as_tensor(value).numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "PIL cannot read it as an image"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return f"{error}" if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _quiet_worker(_: int) -> None:
    # The main process handles Ctrl-C and stops its workers. OpenCV's thread pool does not survive a fork.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    if sys.platform == "linux":
        # If its parent is killed, a worker would wait forever to pass on its result.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
