"""Which files are the images of a folder or of a CSV table, and to which group each belongs."""

from __future__ import annotations

import csv
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from augment.errors import InputError
from augment.files import check_file

# What Pillow decodes without other programs, beyond the extensions that torchvision's ImageFolder takes.
_MORE = (
    *(".gif", ".avif", ".jfif", ".jpe", ".jp2", ".j2k", ".jpx", ".tga", ".dib", ".pbm", ".pnm"),
    *(".apng", ".ico", ".pcx", ".sgi", ".qoi", ".dds"),
)
EXTENSIONS = frozenset((*IMG_EXTENSIONS, *_MORE))
_PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
_GROUP_COLUMNS = ("group", "class", "label", "category")


@dataclass
class Listing:
    """Image files, their groups, and what was passed over: the number of other files by extension."""

    paths: list[Path] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def list_folder(folder: Path) -> Listing:
    """The images in a folder and below it, sorted by path; the first folder below the root is an image's group, as in
    torchvision's ImageFolder. Hidden files are left out.

    A folder that several links lead to is searched once. Raises InputError if there is no image.
    """
    found = Listing()
    for path in files_below(folder, set()):
        if path.suffix.lower() in EXTENSIONS and is_regular(path):
            found.paths.append(path)
        else:
            found.passed_over[path.suffix.lower() or "no extension"] += 1
    found.paths.sort()
    for path in found.paths:
        parts = path.relative_to(folder).parts
        found.groups.append(parts[0] if len(parts) > 1 else None)
    if not found.paths:
        others = f"; it holds {said(found.passed_over)}" if found.passed_over else ""
        raise InputError(f"{folder}: no images in it or its subfolders (by extension: .jpg, .png, …){others}")
    return found


def read_table(table: Path) -> Listing:
    """The images that a CSV table lists: a column of paths (relative to the table's folder) and, optionally, one of
    groups. Raises InputError naming what is wrong with it."""
    found = Listing()
    try:
        check_file(table)
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            names = {name.strip().lower(): name for name in rows.fieldnames or () if name}
            paths = next((names[column] for column in _PATH_COLUMNS if column in names), None)
            groups = next((names[column] for column in _GROUP_COLUMNS if column in names), None)
            if paths is None:
                raise InputError(f"{table}: no column of paths; call it {' or '.join(_PATH_COLUMNS[:2])}")
            for row in rows:
                if row[paths]:
                    found.paths.append(table.parent / row[paths])
                    found.groups.append((row[groups] or None) if groups else None)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: it cannot be read as a CSV table: {error}") from error
    if not found.paths:
        raise InputError(f"{table}: it lists no images")
    return found


def groups_by_path(table: Path, names: Sequence[str]) -> list[str | None]:
    """The group of each of the images `names`, from a CSV table. Raises InputError if it knows none of them."""
    listing = read_table(table)
    # A path in the table may be relative to the table, to the working directory, or just a file's name.
    known: dict[str, str | None] = {}
    for path, group in zip(listing.paths, listing.groups, strict=True):
        for form in (path.name, os.path.abspath(path.relative_to(table.parent)), os.path.abspath(path)):
            known[form] = group
    groups = [known.get(os.path.abspath(name), known.get(Path(name).name)) for name in names]
    if not any(groups):
        raise InputError(f"{table}: it has a group for none of the {len(names)} images, such as {names[0]}")
    return groups


def said(passed_over: Counter[str]) -> str:
    """Files by extension, in a few words: "10 .heic, 2 .dcm"."""
    most = passed_over.most_common(6)
    rest = sum(passed_over.values()) - sum(count for _, count in most)
    return ", ".join([f"{count} {extension}" for extension, count in most] + ([f"{rest} others"] if rest else []))


def is_regular(path: Path) -> bool:
    """Whether it is a file, or a link to one or to nothing; reading a pipe or a socket would block."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True  # a link to nothing: named as a failure when it is read
    except OSError:
        return False


def files_below(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Every file below, each folder once, however links lead to it."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # a link in a loop, or a folder that may not be read
        return
    for entry in inside:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False
        if is_folder:
            yield from files_below(path, seen)
        else:
            yield path
