"""Text files that list images, as VOC's `ImageSets` and YOLO's `train.txt` do: composites join their image's lists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from augment.commands.formats.base import Tree, is_held_out, write


class Lists:
    """The lists of a tree: each line begins with an image's path, or its name without the extension."""

    def __init__(self, tree: Tree, images: Iterable[str], others: Iterable[str]) -> None:
        self._tree = tree
        stems: dict[str, str | None] = {}
        known = set(images)
        for image in known:
            path = PurePosixPath(image)
            for form in (path.name, path.stem):
                stems[form] = None if form in stems else image  # None: of several images
        self._lines: dict[str, list[tuple[str, str, str | None]]] = {}  # of a list: its lines, the word, and its image
        for file in others:
            if PurePosixPath(file).suffix.lower() == ".txt":
                lines = [(line, line.split()[0] if line.split() else "") for line in tree.plain_text(file).splitlines()]
                found = [(line, word, _image(tree, file, word, known, stems)) for line, word in lines]
                named = [image is not None for _, word, image in found if word]
                if any(named) and 2 * sum(named) >= len(named):
                    self._lines[file] = found
        self.files = frozenset(self._lines)

    def held_out(self) -> set[str]:
        """The images that are in lists for validation or test only."""
        training: set[str] = set()
        others: set[str] = set()
        for file, lines in self._lines.items():
            stem = PurePosixPath(file).stem
            listed = {image for _, _, image in lines if image is not None}
            if is_held_out(stem):
                others |= listed
            elif stem.rpartition("_")[2] in ("train", "training"):
                training |= listed
        return others - training

    def finish(self, out: Path, added: dict[str, list[str]], only_new: bool) -> None:
        """Write the lists. `added` has the names of each image's composites; `only_new` leaves the images out."""
        before, after = str(self._tree.root.resolve()), str(out.resolve())
        for file, lines in self._lines.items():
            result = []
            for line, word, image in lines:
                line = line.replace(before, after)
                result += [] if only_new and image is not None else [line]
                for name in added.get(image or "", []):
                    stem = PurePosixPath(image or "").stem
                    changed = (
                        word[: word.rindex(stem)] + PurePosixPath(name).stem + word[word.rindex(stem) + len(stem) :]
                    )
                    suffix = PurePosixPath(image or "").suffix
                    if word.endswith(suffix):
                        changed = changed.removesuffix(suffix) + PurePosixPath(name).suffix
                    result.append(line.replace(word.replace(before, after), changed.replace(before, after), 1))
            write(out / file, "".join(f"{line}\n" for line in result).encode())


def _image(tree: Tree, file: str, word: str, known: set[str], stems: dict[str, str | None]) -> str | None:
    """The image that a word of a list names."""
    word = word.replace("\\", "/").removeprefix("./").replace(f"{tree.root.resolve().as_posix()}/", "")
    for path in (word, str(PurePosixPath(file).parent / word)):
        if path in known:
            return path
    return stems.get(word)
