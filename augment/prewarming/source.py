"""The images to prewarm: a folder, a list of paths or a Dataset, decoded to items in DataLoader workers."""

from __future__ import annotations

import ctypes
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Subset

from augment.artifacts import Image
from augment.errors import InputError
from augment.files import check_file
from augment.imaging.pillow import exif_orientation, oriented
from augment.keys import Window, image_key, to_rgb
from augment.prewarming import samples
from augment.prewarming.boxes import boxes_of
from augment.prewarming.folders import Listing, groups_by_path, list_folder, read_table
from augment.prewarming.foreign import what_it_is
from augment.prewarming.report import Failure
from augment.stages.base import Item

T = TypeVar("T")

Images: TypeAlias = "str | Path | Sequence[str | Path] | Dataset[Any]"

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_DARK, _BRIGHT = 24, 250  # gray levels: an image without any above, or below, shows nothing
_CLIPPED = (
    "have more than 8 bits, which torchvision's ImageFolder clips to white: train with "
    "`ImageFolder(root, loader=augment.torchvision.ImageLoader(window))`"
)
_OTHER_COLORS = (
    "are {}, which OpenCV decodes to other colors than Pillow, so that its images are not found: load them by "
    "`augment.torchvision.ImageLoader`, or give samples their path as a key"
)


@dataclass(frozen=True)
class Loaded:
    """The result of one entry of the source: an item, a second one if EXIF rotates the image, or a failure."""

    index: int
    items: tuple[Item, ...] = ()
    failure: Failure | None = None
    notes: tuple[str, ...] = ()  # what of its pixels should be looked at


class Source(Dataset[Loaded]):
    """Decodes entries one by one; a bad entry gives a Failure instead of an exception."""

    def __init__(self, names: Sequence[str], groups: Sequence[str | None] | None) -> None:
        if groups is not None and len(groups) != len(names):
            raise InputError(f"groups: got {len(groups)} for {len(names)} images; pass one per image")
        self.names = names
        self.groups = groups
        self.passed_over: Counter[str] = Counter()  # files that are no images, by extension
        self.notes: list[str] = []  # what is odd about the entry at hand

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Loaded:
        group = None if self.groups is None else self.groups[index]
        try:
            self.notes = []
            items = tuple(self.items(index, group))
            return Loaded(index, items, notes=(*self.notes, *filter(None, map(_note, items[:1]))))
        except Exception as error:  # a file or a user's Dataset may fail in any way and must not end the run
            return Loaded(index, failure=Failure(self.names[index], "decode", _reason(error)))

    def items(self, index: int, group: str | None) -> Iterator[Item]:
        """The entry's items."""
        raise NotImplementedError


class Files(Source):
    """Image files, decoded by PIL as in torchvision's datasets; `window` as `augment.keys.to_rgb` takes it."""

    def __init__(
        self, paths: Sequence[Path], groups: Sequence[str | None] | None = None, window: Window | None = None
    ) -> None:
        super().__init__([str(path) for path in paths], groups)
        self.window = window

    def items(self, index: int, group: str | None) -> Iterator[Item]:
        path = self.names[index]
        check_file(path)
        with warnings.catch_warnings():
            # Of damaged metadata, which is of no use here.
            warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
            try:
                file = PIL.Image.open(path)
            except PIL.UnidentifiedImageError as error:
                raise InputError(what_it_is(path)) from error
        with file:
            pixels = to_rgb(file, self.window)
            if file.mode[0] in "IF":
                self.notes.append(_CLIPPED)
            elif file.mode in ("CMYK", "LAB", "YCbCr"):
                self.notes.append(_OTHER_COLORS.format(file.mode))
            yield _item(pixels, path, group)
            # torchvision's ImageFolder ignores EXIF orientation, OpenCV applies it: support both kinds of loader.
            orientation = exif_orientation(file)
            if orientation != 1:
                yield _item(oriented(pixels, orientation), path, group)


class Samples(Source):
    """A map-style Dataset whose items are an image, start with one, or are a dict with one image.

    A `tv_tensors.Mask` anywhere in the item, or a "masks"/"mask" entry of a dict, is the item's own mask. Its class is
    found through Subset and ConcatDataset, too (see `augment.prewarming.samples`), and its boxes as
    `augment.prewarming.boxes` says.
    """

    def __init__(
        self, dataset: Dataset[Any], groups: Sequence[str | None] | None = None, window: Window | None = None
    ) -> None:
        count = len(dataset)  # type: ignore[arg-type]
        super().__init__([samples.path_of(dataset, index) or f"item {index}" for index in range(count)], groups)
        self.dataset = dataset
        self.window = window

    def items(self, index: int, group: str | None) -> Iterator[Item]:
        sample = self.dataset[index]
        pixels = to_rgb(samples.image_of(sample), self.window)
        if group is None:
            group = samples.group_of(self.dataset, index, sample)
        size = pixels.shape[:2]
        yield _item(pixels, self.names[index], group, samples.mask_of(sample, size), boxes_of(sample, size))


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


def open_source(
    images: Images, groups: Sequence[str | None] | str | Path | None = None, window: Window | None = None
) -> Source:
    """Open a source of any form; `groups` may be a CSV table. Raises InputError if it has no images."""
    if isinstance(groups, str | Path):
        source = open_source(images, None, window)
        source.groups = groups_by_path(Path(groups), source.names)
        return source
    if isinstance(images, str | Path):
        return _open_path(Path(images), groups, window)
    paths = _as_paths(images)
    if paths is not None:
        source = Files(paths, groups, window)
    elif hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        source = Samples(cast("Dataset[Any]", images), groups, window)
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
    yield from in_workers(decoded if indices is None else Subset(decoded, indices), workers)


def in_workers(dataset: Dataset[T], workers: int) -> Iterator[T]:
    """Each item of a Dataset, in order, from `workers` DataLoader processes, or from this one if there are 0.

    Raises InputError if a worker dies.
    """
    loader = DataLoader(
        dataset,
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


def _open_path(path: Path, groups: Sequence[str | None] | None, window: Window | None) -> Source:
    """A folder of images, a CSV table of them, or a single one."""
    if path.is_dir():
        listing = list_folder(path)
    elif path.suffix.lower() == ".csv" and path.is_file():
        listing = read_table(path)
    elif path.exists():
        listing = Listing([path], [None])
    else:
        raise InputError(f"{path}: there is no such folder")
    source = Files(listing.paths, listing.groups if groups is None else groups, window)
    source.passed_over = listing.passed_over
    return source


def _as_paths(images: Any) -> list[Path] | None:
    """The paths in a list, a NumPy array or a pandas Series of them; None if it is something else."""
    if isinstance(images, Sequence):
        values = images
    elif getattr(images, "ndim", None) == 1 and hasattr(images, "tolist"):
        values = images.tolist()
    else:
        return None
    return [Path(value) for value in values] if all(isinstance(value, str | Path) for value in values) else None


def _item(
    pixels: Image,
    source: str,
    group: str | None,
    mask: NDArray[np.uint8] | None = None,
    boxes: NDArray[np.float64] | None = None,
) -> Item:
    return Item(pixels, image_key(pixels), source, group, mask, boxes)


def _note(item: Item) -> str | None:
    """What is odd about the pixels; None for an ordinary image."""
    assert item.image is not None
    thumbnail = item.image[:: max(1, item.image.shape[0] // 64), :: max(1, item.image.shape[1] // 64)]
    if int(thumbnail.max()) < _DARK:
        return "come out nearly black: if their files hold 12 bits in 16, pass their range (`--window 0 4095`)"
    if int(thumbnail.min()) > _BRIGHT:
        return "come out nearly white: if they were clipped when decoded, pass their range (`--window LOW HIGH`)"
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "PIL cannot read it as an image"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return error.strerror
    return f"{error}" if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _quiet_worker(_: int) -> None:
    # The main process handles Ctrl-C and stops its workers. OpenCV's thread pool does not survive a fork.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    end_with_parent()


def end_with_parent() -> None:
    """End this process when its parent ends, even if it is killed: it would wait forever to pass on its result."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
