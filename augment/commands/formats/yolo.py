"""YOLO's text files, as Ultralytics reads them: boxes, polygons, oriented boxes and poses.

Read and written here, because `supervision` keeps of them only boxes and masks: it drops poses, turns polygons into
masks and back, searches one flat folder, and writes a data.yaml of its own.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from augment.commands.formats.base import Format, New, Points, Size, Tree, numbers, outlined, sibling, write
from augment.errors import InputError
from augment.sampling.labels import Labels, moved_points

_LABELS = ("labels", "")
_SETTINGS = re.compile(r"^(?:names|train|val|nc)\s*:", re.MULTILINE)
_POSE = re.compile(r"^kpt_shape\s*:\s*\[\s*(\d+)\s*,\s*([23])\s*\]", re.MULTILINE)
_SPLIT = re.compile(r"^(train|val|test)\s*:\s*['\"]?([^'\"\s#]+)", re.MULTILINE)
_PATH = re.compile(r"^path\s*:.*\n?", re.MULTILINE)


class _Line(NamedTuple):
    """An object: its class as written; its box in pixels, or its polygon; its keypoints, and what follows."""

    name: str
    box: Points | None  # (1, 4) left, top, right, bottom
    polygon: Points | None
    points: Points | None  # (n, 2 | 3) x, y in pixels, visibility
    rest: tuple[str, ...]


class Yolo(Format):
    """A text file beside each image, or in `labels` where the image is in `images`; settings in a YAML file."""

    name = "yolo"

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree)
        texts = {
            file: text
            for file in tree.files
            if PurePosixPath(file).suffix.lower() in (".yaml", ".yml") and _SETTINGS.search(text := tree.text(file))
        }
        pose = next(filter(None, map(_POSE.search, texts.values())), None)
        self._pose = None if pose is None else (int(pose[1]), int(pose[2]))
        self._settings = texts
        splits = [split for text in texts.values() for split in _SPLIT.findall(text)]
        training = {_folder(path) for split, path in splits if split == "train"}
        self._held_out = tuple({_folder(path) for split, path in splits if split != "train"} - training - {""})
        found = {image: next(tree.beside(image, _LABELS, (".txt",)), "") for image in tree.images}
        self._files = {image: file for image, file in found.items() if file}
        if 2 * sum(map(self._is_label, self._files.values())) < len(self._files):
            self._files = {}  # captions, say
        self.files = frozenset({*self._files.values(), *texts}) if self._files else frozenset()

    def own_files(self, image: str) -> list[str]:
        return [self._files[image]] if image in self._files else []

    def shared_files(self) -> list[str]:
        return list(self._settings)

    def held_out(self, image: str) -> bool:
        return any(image.startswith(f"{folder}/") for folder in self._held_out)

    def labels(self, image: str, size: Size) -> list[Labels]:
        if image not in self._files:
            return []
        lines = self._read(self._files[image], size)
        polygons = [[line.polygon] for line in lines if line.polygon is not None]
        boxes = [line.box for line in lines if line.box is not None]
        points = [line.points[:, :2] - 0.5 for line in lines if line.points is not None and line.points.any()]
        found = []
        if polygons:
            found.append(outlined(polygons, size))
        if boxes or points:
            found.append(
                Labels(
                    boxes=np.concatenate(boxes) if boxes else None, points=np.concatenate(points) if points else None
                )
            )
        return found

    def add(self, new: New, out: Path) -> None:
        if new.image not in self._files:
            return
        file = self._files[new.image]
        text = self.tree.text(file)
        if new.move is not None:
            lines = self._read(file, new.size)
            text = "".join(f"{_written(_moved(line, new), new.size)}\n" for line in lines)
        write(out / sibling(file, new.image, new.name), text.encode())

    def finish(self, out: Path, added: dict[str, list[tuple[str, Any]]], only_new: bool) -> None:
        """Write the YAML files: paths inside the dataset are relative to it, or lead to its new place."""
        here, there = str(self.tree.root.resolve()), str(out.resolve())
        for file, text in self._settings.items():
            if path := _PATH.search(text):
                # Without a path, Ultralytics takes the folder of the file.
                text = text.replace(path[0], "" if "/" not in file else f"path: {there}\n")
            write(out / file, text.replace(here, there).encode())

    def _is_label(self, file: str) -> bool:
        """Whether a text holds objects, or is empty (an image without any), and no caption."""
        first = next((line.split() for line in self.tree.plain_text(file).splitlines() if line.strip()), None)
        return first is None or (len(first) >= 5 and all(map(_is_number, first)))

    def _read(self, file: str, size: Size) -> list[_Line]:
        lines = self.tree.text(file).splitlines()
        return [
            self._line(line.split(), size, f"{self.tree.path(file)}, line {number}")
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]

    def _line(self, words: list[str], size: Size, where: str) -> _Line:
        name, *rest = words
        height, width = size
        values = numbers(rest, where)
        if len(values) == 4 or len(values) == 5 or self._is_pose(len(values)):
            x, y, w, h = values[:4] * (width, height, width, height)
            box = np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
            if len(values) <= 5:
                return _Line(name, box, None, None, tuple(rest[4:]))
            assert self._pose is not None
            points = values[4:].reshape(self._pose)
            points[:, :2] *= (width, height)
            return _Line(name, box, None, points, ())
        if len(values) < 6 or len(values) % 2:
            raise InputError(f"{where}: {len(values)} numbers are neither a box nor a polygon")
        return _Line(name, None, values.reshape(-1, 2) * (width, height), None, ())

    def _is_pose(self, count: int) -> bool:
        return self._pose is not None and count == 4 + self._pose[0] * self._pose[1]


def _moved(line: _Line, new: New) -> _Line:
    assert new.move is not None
    box = None if line.box is None else new.boxes(line.box)
    polygon = None if line.polygon is None else new.outline(line.polygon)
    points = line.points
    if points is not None:
        there = points[:, :2].any(1)
        points = points.copy()
        points[there, :2] = moved_points(new.move, points[there, :2] - 0.5) + 0.5
    return line._replace(box=box, polygon=polygon, points=points)


def _written(line: _Line, size: Size) -> str:
    height, width = size
    words = [line.name]
    if line.box is not None:
        left, top, right, bottom = line.box[0] / (width, height, width, height)
        words += [f"{value:.6f}" for value in ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)]
    if line.polygon is not None:
        words += [f"{value:.6f}" for value in (line.polygon / (width, height)).ravel()]
    if line.points is not None:
        for x, y, *visibility in line.points.tolist():
            words += [f"{x / width:.6f}", f"{y / height:.6f}", *(f"{value:g}" for value in visibility)]
    return " ".join([*words, *line.rest])


def _folder(path: str) -> str:
    """A folder of a YAML file, relative to the root: "../val/images" is meant so by Roboflow."""
    return "/".join(part for part in PurePosixPath(path).parts if part not in ("..", ".", "/"))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
