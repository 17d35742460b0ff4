"""`augment apply`: the composites as a dataset on disk, labels with them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from augment.commands.composites import (
    BAD_LABELS,
    COLUMNS,
    COMPOSITE,
    FAILED,
    HELD_OUT,
    ORIGINAL,
    UNREADABLE,
    Composed,
    Composites,
    copy,
)
from augment.commands.formats import find_formats
from augment.commands.formats.base import Format, Tree, new_name, write
from augment.commands.formats.lists import Lists
from augment.errors import InputError
from augment.prewarming.progress import bar
from augment.prewarming.source import in_workers
from augment.sampling.placement import Placement
from augment.sampling.replacing import Replacing

MANIFEST = "manifest.csv"
_JOURNAL = ".augment-apply.jsonl"
_LOCK = ".augment-apply.lock"
_NAMED = 3  # images that the summary names for each reason
_SIDECARS = (".json", ".xml", ".txt", ".csv", ".npy", ".npz", ".mat")
_FAILURES = (UNREADABLE, BAD_LABELS, FAILED, "misses", "doubtful")


@dataclass
class Summary:
    """What came of it: the number of images, their composites, and the images that lack some, by reason."""

    out: Path
    images: int = 0
    composites: int = 0
    held_out: int = 0
    formats: tuple[str, ...] = ()
    kept: dict[str, list[str]] = field(default_factory=dict)  # by reason, the images with the details
    copied: int = 0

    @property
    def failed(self) -> bool:
        """Whether images failed, or nothing came of it."""
        return not self.composites or any(reason in self.kept for reason in _FAILURES)

    def __str__(self) -> str:
        labels = ", ".join(self.formats) or "none but the folders"
        lines = [f"{self.images} images, {self.composites} composites in {self.out} (labels: {labels})"]
        if self.held_out:
            lines.append(f"  {self.held_out} images for validation or test, which stay as they are")
        for reason, images in sorted(self.kept.items(), key=lambda pair: -len(pair[1])):
            lines.append(f"  {len(images)} without (all) composites: {reason}{_ADVICE.get(reason, '')}")
            lines += [f"    {image}" for image in images[:_NAMED]]
        if self.kept:
            lines.append(f"  {self.out / MANIFEST} lists them all")
        if self.copied:
            lines.append(f"  {self.copied} other files copied as they are")
        return "\n".join(lines)


_PROTECTED = ": their mattes miss labeled objects; prewarm with a better remover, or with the dataset's own masks"
_ADVICE = {
    "misses": ": the store lacks them; run `augment prewarm` on the same files first",
    "unusable": ": their mattes must not be used",
    "protected: mask": _PROTECTED,
    "protected: box": _PROTECTED,
    "protected: keypoint": _PROTECTED,
    "doubtful": ": what goes with them is not understood (say `--format imagefolder` if such files are no labels)",
}


def run(
    images: Path,
    store: str | Path,
    out: Path,
    *,
    copies: int = 1,
    seed: int = 0,
    form: str = "auto",
    only_new: bool = False,
    recipe: str | None = None,
    source: str = "pool",
    placement: Placement | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Summary:
    """Write the dataset in `images` with `copies` composites of each image to `out`.

    It can be stopped at any time and run again, which makes only what is missing. Raises InputError, and StoreError if
    the store cannot be used.
    """
    if copies < 1:
        raise InputError(f"copies: {copies} is not a number of composites, 1 or more")
    tree = Tree.of(images)
    if out.resolve().is_relative_to(images.resolve()):
        raise InputError(f"{out}: it is inside {images}; choose a folder elsewhere")
    replacing = Replacing(store, p=1, source=source, placement=placement, recipe=recipe)
    formats = find_formats(tree, form)
    labels = frozenset(file for one in formats for file in one.files)
    names = [image for image in tree.images if image not in labels]
    if not names:
        raise InputError(f"{images}: no images in it")
    _check_names(tree, names, copies)
    others = [file for file in tree.files if file not in labels and file not in set(names)]
    lists = Lists(tree, names, others)
    held_out = frozenset(
        {image for image in names if tree.held_out(image) or any(one.held_out(image) for one in formats)}
        | lists.held_out()
    )
    others = [file for file in others if file not in lists.files]
    untold = (_untold(tree, names, others) if form == "auto" else {}) | _twins(names, bool(formats))
    settings = {
        **{"images": str(images.resolve()), "copies": copies, "seed": seed, "only_new": only_new, "format": form},
        **{"recipe": replacing.sampler.record.background, "source": str(replacing.sampler.source)},
        "placement": None if placement is None else asdict(placement),
    }
    with _locked(out):
        journal = _Journal(out, settings, tree, formats)
        missing = [image for image in names if not journal.has(image)]
        composites = Composites(
            *(tree, out, missing, replacing, formats, copies, seed, only_new, held_out, untold),
        )
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with bar("apply", len(missing), progress) as shown, journal.opened() as note:
            for made in in_workers(composites, min(available if workers is None else workers, len(missing))):
                if made.fault:
                    raise InputError(made.fault)
                note(made)
                shown.advance(1)
        done = [journal.done[image] for image in names]
        try:
            _finish(tree, out, formats, lists, others, done, only_new)
        except OSError as error:
            raise InputError(f"{out}: it cannot be written: {error}") from error
    return _summary(out, done, formats, len(others))


def _finish(
    tree: Tree,
    out: Path,
    formats: Sequence[Format],
    lists: Lists,
    others: Sequence[str],
    done: Sequence[Composed],
    only_new: bool,
) -> None:
    """Write what belongs to many images."""
    for form in formats:
        form.finish(out, {made.image: made.added[form.name] for made in done}, only_new)
    new = {made.image: [row["file"] for row in made.rows if row["outcome"] == COMPOSITE] for made in done}
    lists.finish(out, new, only_new)
    copy(tree, others, out)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for made in done for row in made.rows)
    write(out / MANIFEST, buffer.getvalue().encode(errors="replace"))


def _summary(out: Path, done: Sequence[Composed], formats: Sequence[Format], copied: int) -> Summary:
    outcomes = Counter(row["outcome"] for made in done for row in made.rows)
    summary = Summary(
        *(out, len(done), outcomes[COMPOSITE], outcomes[HELD_OUT], tuple(form.name for form in formats)), copied=copied
    )
    for made in done:
        row = made.rows[0]
        if row["outcome"] not in (ORIGINAL, HELD_OUT):
            summary.kept.setdefault(row["outcome"], []).append(f"{made.image}: {row['detail']}".removesuffix(": "))
    return summary


def _check_names(tree: Tree, images: Sequence[str], copies: int) -> None:
    for image in images:
        for number in range(1, copies + 1):
            if (name := new_name(image, number)) in tree.known:
                raise InputError(
                    f"{tree.path(name)}: a composite of {image} would have this name. `augment apply` takes the data "
                    "set that its own output was made of"
                )
    if MANIFEST in tree.known:
        raise InputError(f"{tree.path(MANIFEST)}: the list of composites would have this name; call it otherwise")


def _untold(tree: Tree, images: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """The images that a file goes with, by its name, which no format knows: it may hold labels."""
    unknown = frozenset(others)
    folders = ("", "labels", "annotations", "Annotations", "masks")
    found = {
        image: next((file for file in tree.beside(image, folders, _SIDECARS) if file in unknown), "")
        for image in images
    }
    return {image: f"{file} goes with it and is not understood" for image, file in found.items() if file}


def _twins(images: Sequence[str], labeled: bool) -> dict[str, str]:
    """The images whose composites, or their label files, would have the names of another image's."""
    names = {image: new_name(image, 1) for image in images}
    if labeled:
        names = {image: str(PurePosixPath(name).with_suffix("")) for image, name in names.items()}
    count = Counter(names.values())
    return {image: "another image has its name with another extension" for image in images if count[names[image]] > 1}


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep a second process out of the folder, which is made if need be. Raises InputError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(f"{out}: another `augment apply` is writing to it") from error
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{out}: it cannot be written: {error}") from error


class _Journal:
    """What is done: a file with the settings, and a line for each finished image, so that a killed run goes on.

    Raises InputError if the folder is not empty, or was filled with other settings.
    """

    def __init__(self, out: Path, settings: dict[str, Any], tree: Tree, formats: Sequence[Format]) -> None:
        self._file = out / _JOURNAL
        self._tree, self._formats = tree, formats
        self.done: dict[str, Composed] = {}
        self._shared = [self._stamp(file) for form in formats for file in form.shared_files()]
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        if not lines:
            if any(path.name not in (_LOCK, _JOURNAL) for path in out.iterdir()):
                raise InputError(f"{out}: it is not empty; choose a new folder")
            write(self._file, (json.dumps(settings) + "\n").encode())
            return
        before, settings = json.loads(lines[0]), json.loads(json.dumps(settings))
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            name = changed[0]
            raise InputError(
                f"{out}: it was filled with {name}={before.get(name)!r}, not {settings[name]!r}; choose a new folder"
            )
        for line in lines[1:]:
            self._take(line, out)

    def has(self, image: str) -> bool:
        """Whether the image has all its composites."""
        return image in self.done and self.done[image].rows[0]["outcome"] in (ORIGINAL, HELD_OUT)

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """A function that notes a finished image."""
        with self._file.open("a", encoding="utf-8") as file:
            if file.tell() and not self._file.read_bytes().endswith(b"\n"):
                file.write("\n")  # the last line is torn

            def note(made: Composed) -> None:
                self.done[made.image] = made
                file.write(json.dumps(asdict(made) | {"stamps": self._stamps(made.image)}) + "\n")
                file.flush()

            yield note

    def _take(self, line: str, out: Path) -> None:
        """Take an image for done if its line is whole, and neither its files nor their sources have changed."""
        try:
            found = json.loads(line)
            made = Composed(found["image"], found["rows"], found["added"])
        except (ValueError, KeyError, TypeError):
            return  # torn when the process was killed
        files = [out / row["file"] for row in made.rows if row["file"]]
        if found["stamps"] == self._stamps(made.image) and all(file.exists() for file in files):
            self.done[made.image] = made
            return
        self.done.pop(made.image, None)
        for row in made.rows[1:]:
            (out / row["file"]).unlink(missing_ok=True)

    def _stamps(self, image: str) -> list[Any]:
        own = [file for form in self._formats for file in form.own_files(image)]
        return [self._stamp(file) for file in [image, *own]] + self._shared

    def _stamp(self, file: str) -> list[int]:
        try:
            status = self._tree.path(file).stat()
        except OSError:
            return []
        return [status.st_size, status.st_mtime_ns]
