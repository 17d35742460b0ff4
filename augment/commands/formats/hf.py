"""Hugging Face's image folders: one `metadata.jsonl` or `metadata.csv` for the images of a folder."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np

from augment.commands.formats.base import Format, New, Points, Size, Tree, numbers, write
from augment.errors import InputError
from augment.sampling.doubts import untold_place
from augment.sampling.labels import Labels

Row: TypeAlias = dict[str, Any]

_NAME = "file_name"
_CORNERS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)  # of left, top, width, height


class HuggingFace(Format):
    """Rows of texts and numbers for each image; boxes in `objects`, as left, top, width, height in pixels."""

    name = "hf"

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree)
        self._tables: dict[str, list[Row]] = {}
        self._places: dict[str, tuple[str, int]] = {}
        for file in tree.files:
            name = PurePosixPath(file).name
            if name not in ("metadata.jsonl", "metadata.csv"):
                continue
            rows = self._tables[file] = _rows(tree, file)
            for index, row in enumerate(rows):
                image = str(PurePosixPath(file).with_name(name).parent / str(row[_NAME]))
                if image in tree.known:
                    self._places[image] = file, index
        self.files = frozenset(self._tables)

    def own_files(self, image: str) -> list[str]:
        return []

    def shared_files(self) -> list[str]:
        return sorted(self.files)

    def has(self, image: str) -> bool:
        return image in self._places

    def labels(self, image: str, size: Size) -> list[Labels]:
        if image not in self._places:
            return []
        row = self._row(image)
        second = next((name for name in row if name != _NAME and name.endswith(f"_{_NAME}")), None)
        untold = second or untold_place(
            {name: value for name, value in row.items() if name != "objects"}, lambda _: False
        )
        if untold:
            raise InputError(f"{untold} in {self._places[image][0]} goes with it and is not understood")
        boxes = [self._corners(image, one) for one in _objects(row)]
        return [Labels(boxes=np.concatenate(boxes))] if boxes else []

    def add(self, new: New, out: Path) -> Row | None:
        """The composite's row but for its name; None if it is the image's own."""
        if new.move is None or new.image not in self._places:
            return None
        row = json.loads(json.dumps(self._row(new.image)))
        for one in _objects(row):
            corners = new.boxes(self._corners(new.image, one))
            corners[:, 2:] -= corners[:, :2]
            moved = [[round(value, 3) for value in box] for box in corners.tolist()]
            one["bbox"] = moved[0] if _is_single(one) else moved
        return row  # type: ignore[no-any-return]

    def finish(self, out: Path, added: dict[str, list[tuple[str, Any]]], only_new: bool) -> None:
        news: dict[str, dict[int, list[Row]]] = {}
        for image, composites in added.items():
            if image in self._places:
                file, index = self._places[image]
                folder = PurePosixPath(file).parent
                news.setdefault(file, {})[index] = [
                    (self._row(image) if row is None else row) | {_NAME: str(PurePosixPath(name).relative_to(folder))}
                    for name, row in composites
                ]
        for file, rows in self._tables.items():
            result = []
            for index, row in enumerate(rows):
                result += [] if only_new else [row]
                result += news.get(file, {}).get(index, [])
            write(out / file, _written(file, result, list(rows[0]) if rows else [_NAME]))

    def _row(self, image: str) -> Row:
        file, index = self._places[image]
        return self._tables[file][index]

    def _corners(self, image: str, one: Row) -> Points:
        where = f"{self.tree.path(self._places[image][0])}: the bbox of {image}"
        boxes = numbers(one["bbox"], where)
        if boxes.size % 4:
            raise InputError(f"{where}: {one['bbox']!r} are not boxes of 4 numbers")
        return np.asarray(boxes.reshape(-1, 4) @ _CORNERS)


def _objects(row: Row) -> list[Row]:
    """The parts of a row that hold boxes: a dict of lists, or a list of dicts."""
    objects = row.get("objects")
    parts = objects if isinstance(objects, list) else [objects]
    return [part for part in parts if isinstance(part, dict) and part.get("bbox")]


def _is_single(one: Row) -> bool:
    return not isinstance(one["bbox"][0], list)


def _rows(tree: Tree, file: str) -> list[Row]:
    text = tree.text(file)
    try:
        if file.endswith(".csv"):
            rows: list[Row] = list(csv.DictReader(io.StringIO(text)))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{tree.path(file)}: it cannot be read: {error}") from error
    if not all(isinstance(row, dict) and isinstance(row.get(_NAME), str) for row in rows):
        raise InputError(f"{tree.path(file)}: a row of it has no {_NAME}")
    return rows


def _written(file: str, rows: list[Row], columns: list[str]) -> bytes:
    if not file.endswith(".csv"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()
