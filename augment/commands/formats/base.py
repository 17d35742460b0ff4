"""What every format of labels offers to `augment apply`, and the folder that it looks for them in."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.errors import InputError
from augment.prewarming.folders import EXTENSIONS, files_below, is_regular
from augment.sampling.labels import Labels, moved_boxes
from augment.sampling.placement import Move

Size: TypeAlias = tuple[int, int]  # height, width
Points: TypeAlias = NDArray[np.float64]  # (n, 2) continuous x, y in pixels

# What Pillow writes under the extension without loss of colors; composites of other images become PNG files.
_WRITTEN = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"})
_HELD_OUT = re.compile(r"(?:.*_)?(?:val|valid|validation|dev|test|testing)[-_]?\d*", re.IGNORECASE)
_SPLIT = re.compile(rf"{_HELD_OUT.pattern}|(?:.*_)?(?:train|training|trainval)[-_]?\d*", re.IGNORECASE)
_MOST = 2**28  # bytes of masks held apart, one an instance; beyond it they are merged


@dataclass(frozen=True)
class Tree:
    """The files of a dataset, each as its path relative to the root, with slashes."""

    root: Path
    files: tuple[str, ...]

    @classmethod
    def of(cls, root: Path) -> Tree:
        """All files below a folder, without hidden ones. Raises InputError if it is not a folder."""
        if not root.is_dir():
            raise InputError(f"{root}: there is no such folder; `augment apply` takes the folder of a dataset")
        paths = (path for path in files_below(root, set()) if is_regular(path))
        return cls(root, tuple(sorted(path.relative_to(root).as_posix() for path in paths)))

    @cached_property
    def known(self) -> frozenset[str]:
        """The files, to look one up."""
        return frozenset(self.files)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The files that are images by their extension, masks too."""
        return tuple(file for file in self.files if PurePosixPath(file).suffix.lower() in EXTENSIONS)

    def path(self, file: str) -> Path:
        """Where a file is."""
        return self.root / file

    def text(self, file: str) -> str:
        """What a text file holds. Raises InputError naming it."""
        try:
            with self.path(file).open(encoding="utf-8-sig", newline="") as opened:
                return opened.read()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path(file)}: it cannot be read as text: {error}") from error

    def plain_text(self, file: str) -> str:
        """What a text file holds; nothing if it is no text in UTF-8, as nobody's labels are."""
        try:
            return self.text(file)
        except InputError:
            return ""

    def beside(self, image: str, folders: Sequence[str], endings: Iterable[str]) -> Iterator[str]:
        """The files that go with an image by their names: in its own folder (the empty one of `folders`), or in a
        parallel folder called one of `folders`. `endings` are what follows the image's stem."""
        *parents, name = PurePosixPath(image).parts
        stem = PurePosixPath(name).stem
        places = [tuple(parents)] if "" in folders else []
        for folder in filter(None, folders):
            for at in range(len(parents) + 1):
                places.append((*parents[:at], folder, *parents[at + 1 :]))
                places.append((*parents[:at], folder, *parents[at:]))
        for place in dict.fromkeys(places):
            if place not in self._folders:
                continue
            for ending in endings:
                found = "/".join((*place, stem + ending))
                if found in self.known and found != image:
                    yield found

    def held_out(self, image: str) -> bool:
        """Whether an image is in a folder for validation or test, which must stay as it is."""
        *parents, _ = PurePosixPath(image).parts
        for depth, name in enumerate(parents):
            # A class may be called "test": it is one of the splits only if its neighbors are splits, too.
            if _HELD_OUT.fullmatch(name) and all(map(_SPLIT.fullmatch, self._neighbors["/".join(parents[:depth])])):
                return True
        return False

    @cached_property
    def _folders(self) -> frozenset[tuple[str, ...]]:
        return frozenset(PurePosixPath(folder).parts for folder in {file.rpartition("/")[0] for file in self.files})

    @cached_property
    def _neighbors(self) -> dict[str, set[str]]:
        """The folders with images below them in each folder."""
        found: dict[str, set[str]] = {}
        for image in self.images:
            *parents, _ = PurePosixPath(image).parts
            for depth, name in enumerate(parents):
                found.setdefault("/".join(parents[:depth]), set()).add(name)
        return found


def is_held_out(name: str) -> bool:
    """Whether a file's stem is the name of a split for validation or test: "val", "instances_val2017"."""
    return _HELD_OUT.fullmatch(name) is not None


def new_name(image: str, copy: int) -> str:
    """The name of an image's composite, `copy` from 1."""
    path = PurePosixPath(image)
    suffix = path.suffix if path.suffix.lower() in _WRITTEN else ".png"
    return str(path.with_name(f"{path.stem}_bg{copy}{suffix}"))


def sibling(file: str, image: str, name: str) -> str:
    """The label file of a composite called `name`, as `file` is that of its image."""
    before, after = PurePosixPath(image).stem, PurePosixPath(name).stem
    path = PurePosixPath(file)
    return str(path.with_name(after + path.name[len(before) :]))


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, in a folder that is made if need be.

    What a killed process leaves has one name, so that the next run replaces it, and trainers do not see it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@dataclass(frozen=True)
class New:
    """A composite in the making: of which image, its name, its size, and how its object moved."""

    image: str
    name: str
    size: Size
    move: Move | None

    def boxes(self, corners: Points) -> Points:
        """Boxes `(n, 4)` left, top, right, bottom in pixels, moved."""
        return corners if self.move is None else moved_boxes(self.move, corners)

    def outline(self, points: Points) -> Points:
        """A polygon's points, moved, inside the image."""
        return points if self.move is None else self.move.corners(points).clip(0, self.size[::-1])


class Format(ABC):
    """One form in which a dataset keeps its labels. It is read once, and pickled to the workers."""

    name: ClassVar[str]

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.files: frozenset[str] = frozenset()  # the label files that it takes care of

    @abstractmethod
    def own_files(self, image: str) -> list[str]:
        """The label files of this image alone."""

    def shared_files(self) -> list[str]:
        """The label files of many images."""
        return []

    def has(self, image: str) -> bool:
        """Whether it has labels for the image."""
        return bool(self.own_files(image))

    def size(self, image: str) -> Size | None:
        """The size of the image that the labels were made for, if they say it."""
        return None

    @abstractmethod
    def labels(self, image: str, size: Size) -> list[Labels]:
        """Where the image's objects are. Raises InputError if its labels cannot be understood."""

    @abstractmethod
    def add(self, new: New, out: Path) -> Any:
        """Write the label files of a composite; returns what `finish` needs of it, as plain data."""

    def finish(self, out: Path, added: dict[str, list[tuple[str, Any]]], only_new: bool) -> None:
        """Write the label files of many images. `added` has the names of each image's composites, and what `add`
        returned; with `only_new` the images themselves are left out."""

    def held_out(self, image: str) -> bool:
        """Whether the labels say that the image is for validation or test."""
        return False


def outlined(instances: Sequence[Sequence[Points]], size: Size) -> Labels:
    """Masks of instances, each of one polygon or more."""
    height, width = size
    apart = len(instances) * height * width <= _MOST
    masks = np.zeros((len(instances) if apart else 1, height, width), np.uint8)
    for number, polygons in enumerate(instances):
        # OpenCV's coordinates are those of pixels' centers, and it fills up to the pixels on the edge.
        rounded = [np.round(points - 0.5).astype(np.int32) for points in polygons]
        cv2.fillPoly(masks[number if apart else 0], rounded, 1)
    return Labels(masks=masks.astype(bool))


def numbers(values: Any, what: str) -> NDArray[np.float64]:
    """Finite numbers as an array. Raises InputError, saying `what` they should be."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: {values!r} are not numbers") from error
    if not np.isfinite(found).all():
        raise InputError(f"{what}: {values!r} are not numbers")
    return found
