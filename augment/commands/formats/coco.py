"""COCO's JSON files: boxes, polygons, run-length masks and keypoints of many images in one file.

Read and written here, because `supervision` numbers images, categories and annotations anew, and drops keypoints,
captions, licenses and every field of one's own. It converts run-length masks.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from augment.commands.formats.base import Format, New, Points, Size, Tree, is_held_out, numbers, outlined, write
from augment.errors import InputError, UnavailableError
from augment.sampling.labels import Labels, moved_points

Json: TypeAlias = dict[str, Any]

_PARTS = ("images", "annotations")
_CORNERS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)  # of left, top, width, height


class Coco(Format):
    """JSON files with `images`, `annotations` and `categories`, anywhere in the tree."""

    name = "coco"

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree)
        self._places: dict[str, list[tuple[str, int]]] = {}  # of an image: files, and its index among their images
        self._images: dict[str, list[Json]] = {}
        self._annotations: dict[str, dict[Any, list[Json]]] = {}
        by_name: dict[str, list[str]] = {}
        for image in tree.images:
            by_name.setdefault(PurePosixPath(image).name, []).append(image)
        for file in tree.files:
            if file.endswith(".json") and (found := _parsed(tree, file)) is not None:
                self._read(file, found, by_name)
        self.files = frozenset(self._images)

    def own_files(self, image: str) -> list[str]:
        return []

    def shared_files(self) -> list[str]:
        return sorted(self.files)

    def has(self, image: str) -> bool:
        return image in self._places

    def held_out(self, image: str) -> bool:
        files = [file for file, _ in self._places.get(image, [])]
        return bool(files) and all(is_held_out(PurePosixPath(file).stem) for file in files)

    def size(self, image: str) -> Size | None:
        entries = [self._images[file][index] for file, index in self._places.get(image, [])]
        for height, width in ((entry.get("height"), entry.get("width")) for entry in entries):
            if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
                return height, width
        return None

    def labels(self, image: str, size: Size) -> list[Labels]:
        instances: list[list[Points]] = []
        boxes, points, found = [], [], []
        for file, index in self._places.get(image, []):
            for annotation in self._of(file, index):
                where = self._where(file, annotation)
                outline = annotation.get("segmentation")
                if isinstance(outline, dict):
                    found.append(Labels(masks=_unpacked(outline, size, where)[None]))
                elif outline:
                    instances.append(_polygons(outline, where))
                elif annotation.get("bbox") and not annotation.get("iscrowd"):  # a crowd's box is not an object's
                    boxes.append(numbers(annotation["bbox"], f"{where}: bbox").reshape(1, 4) @ _CORNERS)
                if annotation.get("keypoints"):
                    triples = numbers(annotation["keypoints"], f"{where}: keypoints").reshape(-1, 3)
                    points.append(triples[triples[:, 2] > 0, :2])
        if instances:
            found.append(outlined(instances, size))
        if boxes or points:
            found.append(
                Labels(
                    boxes=np.concatenate(boxes) if boxes else None, points=np.concatenate(points) if points else None
                )
            )
        return found

    def add(self, new: New, out: Path) -> list[list[Json]] | None:
        """The annotations of the composite, for each file that the image is in; None if they stay as they are."""
        if new.move is None:
            return None
        return [
            [_moved(annotation, new, self._where(file, annotation)) for annotation in self._of(file, index)]
            for file, index in self._places.get(new.image, [])
        ]

    def finish(self, out: Path, added: dict[str, list[tuple[str, Any]]], only_new: bool) -> None:
        for file in self._images:
            whole = _parsed(self.tree, file)
            assert whole is not None
            images, annotations = ([], []) if only_new else (whole["images"], whole["annotations"])
            next_image, next_annotation = (_Ids(whole[part]) for part in _PARTS)
            for image, composites in added.items():
                for number, (place, index) in enumerate(self._places.get(image, [])):
                    if place != file:
                        continue
                    entry = self._images[file][index]
                    for name, moved in composites:
                        path = PurePosixPath(entry["file_name"]).with_name(PurePosixPath(name).name)
                        images.append(entry | {"id": next_image(entry["id"]), "file_name": str(path)})
                        for annotation in self._of(file, index) if moved is None else moved[number]:
                            numbered = {"image_id": images[-1]["id"]}
                            if "id" in annotation:
                                numbered["id"] = next_annotation(annotation["id"])
                            annotations.append(annotation | numbered)
            result = whole | {"images": images, "annotations": annotations}
            write(out / file, json.dumps(result, ensure_ascii=False).encode())

    def _read(self, file: str, found: Json, by_name: dict[str, list[str]]) -> None:
        self._images[file] = found["images"]
        groups = self._annotations[file] = {}
        try:
            for annotation in found["annotations"]:
                groups.setdefault(annotation["image_id"], []).append(annotation)
            for index, entry in enumerate(found["images"]):
                image = _found(PurePosixPath(entry["file_name"].replace("\\", "/")), PurePosixPath(file), by_name)
                if image is not None and entry["id"] is not None:
                    self._places.setdefault(image, []).append((file, index))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.tree.path(file)}: an image or annotation of it lacks a field: {error!r}"
            ) from error
        if any("segments_info" in annotation for annotation in found["annotations"][:1]):
            raise InputError(f"{self.tree.path(file)}: panoptic annotations cannot be applied; move the file elsewhere")

    def _of(self, file: str, index: int) -> list[Json]:
        return self._annotations[file].get(self._images[file][index]["id"], [])

    def _where(self, file: str, annotation: Json) -> str:
        return f"{self.tree.path(file)}, annotation {annotation.get('id')}"


class _Ids:
    """New identifiers of the form that a file has: numbers that go on, or texts."""

    def __init__(self, entries: list[Json]) -> None:
        self._used = {entry.get("id") for entry in entries}
        self._last = max((value for value in self._used if isinstance(value, int)), default=0)

    def __call__(self, like: Any) -> Any:
        if isinstance(like, int):
            self._last += 1
            return self._last
        number = 1
        while f"{like}_bg{number}" in self._used:
            number += 1
        self._used.add(f"{like}_bg{number}")
        return f"{like}_bg{number}"


def _parsed(tree: Tree, file: str) -> Json | None:
    """A JSON file if it is of this form."""
    try:
        found = json.loads(tree.text(file))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(part), list) for part in _PARTS):
        return None
    return found


def _found(name: PurePosixPath, file: PurePosixPath, by_name: dict[str, list[str]]) -> str | None:
    """The image of the tree that a file's entry names, if it is certain.

    Of several, it is the one whose folder is part of the JSON file's name ("train2017" in "instances_train2017.json"),
    or the one below the JSON file's folder.
    """
    found = by_name.get(name.name, [])
    ends = [image for image in found if f"/{image}".endswith(f"/{name}")] or found
    if len(ends) > 1:
        named = [image for image in ends if any(part in file.stem for part in PurePosixPath(image).parts[:-1])]
        beside = [image for image in ends if PurePosixPath(image).is_relative_to(file.parent)]
        ends = next((one for one in (named, beside) if len(one) == 1), ends)
    return ends[0] if len(ends) == 1 else None


def _polygons(outline: Any, where: str) -> list[Points]:
    polygons = outline if isinstance(outline[0], list) else [outline]
    found = [numbers(polygon, f"{where}: segmentation") for polygon in polygons if polygon]
    if any(polygon.ndim != 1 or len(polygon) % 2 for polygon in found):
        raise InputError(f"{where}: segmentation: a polygon is x, y, x, y, …")
    return [polygon.reshape(-1, 2) for polygon in found]


def _moved(annotation: Json, new: New, where: str) -> Json:
    """An annotation whose object moved."""
    assert new.move is not None
    moved = dict(annotation)
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        moved["segmentation"] = _packed(new.move.masks(_unpacked(outline, new.size, where)), outline)
    elif outline:
        polygons = [_rounded(new.outline(polygon).ravel()) for polygon in _polygons(outline, where)]
        moved["segmentation"] = polygons if isinstance(outline[0], list) else polygons[0]
    if annotation.get("bbox"):
        left, top, right, bottom = new.boxes(numbers(annotation["bbox"], where).reshape(1, 4) @ _CORNERS)[0]
        moved["bbox"] = _rounded(np.array([left, top, right - left, bottom - top]))
    if isinstance(annotation.get("area"), int | float):
        moved["area"] = round(annotation["area"] * new.move.scale**2, 3)
    if annotation.get("keypoints"):
        triples = numbers(annotation["keypoints"], where).reshape(-1, 3)
        there = triples[:, 2] > 0
        triples[there, :2] = moved_points(new.move, triples[there, :2])
        moved["keypoints"] = [value for x, y, v in triples.tolist() for value in (round(x, 3), round(y, 3), int(v))]
    return moved


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(value, 3) for value in values.tolist()]


def _unpacked(outline: Json, size: Size, where: str) -> NDArray[np.bool_]:
    try:
        return np.asarray(_supervision().rle_to_mask(outline["counts"], (size[1], size[0])), bool)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{where}: segmentation: not the run lengths of a mask of {size}: {error!r}") from error


def _packed(mask: NDArray[np.bool_], like: Json) -> Json:
    counts = _supervision().mask_to_rle(mask, compressed=isinstance(like["counts"], str))
    return like | {"counts": counts if isinstance(counts, str) else [int(count) for count in counts]}


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise UnavailableError(
            "run-length masks need a package: install it with `pip install 'augment-backgrounds[detection]'`"
        ) from error
    return supervision
