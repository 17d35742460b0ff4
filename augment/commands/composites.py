"""The composites of one image as files, with its labels: the work of `augment apply` that its processes share."""

from __future__ import annotations

import io
import os
import random
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import PIL.Image
import PIL.ImageOps
from torch.utils.data import Dataset

from augment.artifacts import Image
from augment.commands.formats.base import Format, New, Size, Tree, new_name, write
from augment.errors import InputError, StoreError, UnavailableError
from augment.imaging.pillow import exif_orientation, oriented
from augment.keys import to_rgb
from augment.sampling.labels import Labels
from augment.sampling.outcomes import Replacement
from augment.sampling.replacing import Replacing
from augment.sampling.sampler import DRAWS, Draws
from augment.sampling.tv_images import visible_part, write_back

Row: TypeAlias = dict[str, Any]

COLUMNS = ("file", "source", "copy", "outcome", "detail", "moved", "background", "key", "variant", "seed")
ORIGINAL, COMPOSITE, HELD_OUT = "original", "composite", "held out"
UNREADABLE, BAD_LABELS, FAILED, USED_UP = "unreadable", "labels not understood", "failed", "no further background"

_TRIES = 24  # draws to find a background that the image does not have yet
_QUALITY = 95  # of JPEG and WebP files
_ORIENTATION = 0x0112
_CODECS = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}


@dataclass
class Composed:
    """What became of an image: the manifest's rows, and what each format needs of its composites at the end."""

    image: str
    rows: list[Row]
    added: dict[str, list[tuple[str, Any]]]
    fault: str = ""  # why the run cannot go on


class _NotComposed(Exception):
    """The image has no (further) composite: the outcome, and more about it."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome, self.detail = outcome, detail


@dataclass(frozen=True, eq=False)
class Composites(Dataset[Composed]):
    """Writes the files of one image after the other, `images`, whenever it is asked for one."""

    tree: Tree
    out: Path
    images: Sequence[str]
    replacing: Replacing
    formats: Sequence[Format]
    copies: int
    seed: int
    only_new: bool
    held_out: frozenset[str]
    untold: dict[str, str]  # of an image: what goes with it and is not understood

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Composed:
        image = self.images[index]
        made = Composed(image, [], {form.name: [] for form in self.formats})
        outcome, detail = ORIGINAL, ""
        try:
            try:
                self._make(made)
            except _NotComposed as reason:
                outcome, detail = reason.outcome, reason.detail
            except (OSError, StoreError, UnavailableError):
                raise
            except Exception as error:  # of one image's labels, in a way that nobody thought of
                outcome, detail = FAILED, f"{type(error).__name__}: {error}"
            if not self.only_new:
                copy(self.tree, [image, *(file for form in self.formats for file in form.own_files(image))], self.out)
        except OSError as error:
            made.fault = f"{self.out}: it cannot be written: {error}"
        except (StoreError, UnavailableError) as error:  # every further image would meet it
            made.fault = str(error)
        written = "" if self.only_new else image
        made.rows.insert(0, _row(written, image, copy=0, outcome=outcome, detail=detail))
        return made

    def _make(self, made: Composed) -> None:
        """Write the image's composites. Raises _NotComposed at the first that there is none for, and OSError."""
        image = made.image
        if image in self.held_out:
            raise _NotComposed(HELD_OUT, "")
        if image in self.untold:
            raise _NotComposed("doubtful", self.untold[image])
        picture, pixels, labels, orientation = self._read(image)
        seen: set[Any] = set()
        for number in range(1, self.copies + 1):
            found = self._found(f"{self.seed} {image} {number}", pixels, labels, picture, seen)
            new = New(image, new_name(image, number), pixels.shape[:2], found.move)
            added = {form.name: form.add(new, self.out) for form in self.formats}
            composite = write_back(found.composite, picture, found.move)
            write(self.out / new.name, _encoded(composite, new.name, orientation))
            for name, data in added.items():
                made.added[name].append((new.name, data))
            background, key, variant = found.drawn
            values = {"moved": int(found.move is not None), "background": background, "key": key, "seed": self.seed}
            row = _row(new.name, image, copy=number, outcome=COMPOSITE, **values)
            made.rows.append(row | {"variant": "" if variant is None else variant})

    def _read(self, image: str) -> tuple[PIL.Image.Image, Image, list[Labels], int]:
        """An image, its pixels `(H, W, 3)`, its labels, and the EXIF orientation to write. Raises _NotComposed."""
        try:
            sizes = {form.name: form.size(image) for form in self.formats if form.has(image)}
        except InputError as error:
            raise _NotComposed(BAD_LABELS, str(error)) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damaged metadata, which is of no use here
                picture, pixels, orientation = self._opened(image, list(sizes.values()))
        except Exception as error:  # Pillow raises many kinds of errors for damaged files
            raise _NotComposed(UNREADABLE, str(error)) from error
        try:
            size = pixels.shape[:2]
            for name, meant in sizes.items():
                if meant not in (None, size):
                    raise InputError(f"its {name} labels are for an image of {meant}, and it is {size}")
            return picture, pixels, [label for form in self.formats for label in form.labels(image, size)], orientation
        except InputError as error:
            raise _NotComposed(BAD_LABELS, str(error)) from error

    def _opened(self, image: str, sizes: Sequence[Size | None]) -> tuple[PIL.Image.Image, Image, int]:
        """The image in a mode that can be written, and turned as its labels, made for `sizes`, mean it."""
        with PIL.Image.open(self.tree.path(image)) as file:
            if getattr(file, "n_frames", 1) > 1 and file.format != "MPO":
                raise InputError("it holds several pictures")
            if file.mode[0] in "IF":
                raise InputError("it has more than 8 bits a channel, which composites have not")
            picture: PIL.Image.Image = file
            pixels, orientation = to_rgb(file), exif_orientation(file)
            turned = oriented(pixels, orientation)
            # Without labels, it stays as it is stored. YOLO's are for the turned image, as Ultralytics reads it.
            if orientation != 1 and sizes and (not any(sizes) or turned.shape[:2] in sizes):
                pixels, picture, orientation = turned, PIL.ImageOps.exif_transpose(file), 1
            if picture.mode not in ("RGB", "RGBA", "L", "LA"):
                picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
                picture.info.pop("icc_profile", None)  # of other channels
            picture.load()
            return picture, pixels, orientation

    def _found(
        self, seed: str, pixels: Image, labels: Sequence[Labels], picture: PIL.Image.Image, seen: set[Any]
    ) -> Replacement:
        """A replacement that the image does not have yet, which joins those `seen`. Raises _NotComposed."""
        generator = random.Random(seed)
        sampler = self.replacing.sampler
        alpha = visible_part(picture)
        for _ in range(_TRIES):
            draws = Draws.of([generator.random() for _ in range(DRAWS)])
            outcome = sampler.look_up(pixels, draws, labels, [alpha] if alpha else [])
            if not outcome.replacements:
                raise _NotComposed(outcome.name, outcome.detail)
            found = outcome.replacements[0]
            identity = found.drawn[1:]
            if identity not in seen or found.move is not None:
                seen.add(identity)
                return found
        raise _NotComposed(USED_UP, f"there are {len(seen)} for it: prewarm with more variants, or take fewer copies")


def copy(tree: Tree, files: Sequence[str], out: Path) -> None:
    """Copy files, each whole or not at all; not those that were copied before, nor what cannot be read."""
    for file in files:
        source, target = tree.path(file), out / file
        if not os.access(source, os.R_OK):
            continue
        status = source.stat()
        if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (
            status.st_size,
            status.st_mtime_ns,
        ):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copy2(source, temporary)
        temporary.replace(target)


def _row(file: str, source: str, **values: Any) -> Row:
    return dict.fromkeys(COLUMNS, "") | {"file": file, "source": source} | values


def _encoded(picture: PIL.Image.Image, name: str, orientation: int) -> bytes:
    suffix = PurePosixPath(name).suffix.lower()
    picture.info.pop("transparency", None)  # a color of the original that counts as transparent
    exif = PIL.Image.Exif()
    if orientation != 1:
        exif[_ORIENTATION] = orientation
    settings: dict[str, Any] = {"exif": exif} if orientation != 1 else {}
    if suffix in (".jpg", ".jpeg", ".jpe", ".jfif", ".webp"):
        settings["quality"] = _QUALITY
    buffer = io.BytesIO()
    picture.save(buffer, _CODECS.get(suffix, suffix[1:].upper()), **settings)
    return buffer.getvalue()
