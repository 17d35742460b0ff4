"""Pascal VOC's XML files, one an image.

Read and written here, because `supervision` keeps of them names and whole-number boxes alone: it drops `pose`,
`truncated`, `difficult`, parts and every field of one's own. Here, only what a composite changes is changed.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath

import numpy as np

from augment.commands.formats.base import Format, New, Points, Size, Tree, numbers, outlined, sibling, write
from augment.errors import InputError
from augment.sampling.labels import Labels

_FOLDERS = ("Annotations", "annotations", "labels", "xml", "")
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_FROM_ONE = np.array([1, 1, 0, 0])  # pixels count from 1, and the right and lower edges are the object's last pixels
_MIRRORED = {"Left": "Right", "Right": "Left"}


class Voc(Format):
    """`Annotations/NAME.xml` for `JPEGImages/NAME.jpg`, or an XML file beside each image."""

    name = "voc"

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree)
        found = {image: next(tree.beside(image, _FOLDERS, (".xml",)), "") for image in tree.images}
        self._files = {image: file for image, file in found.items() if file and self._is_label(file)}
        self.files = frozenset(self._files.values())

    def own_files(self, image: str) -> list[str]:
        return [self._files[image]] if image in self._files else []

    def size(self, image: str) -> Size | None:
        if image not in self._files:
            return None
        root = self._parsed(image)
        texts = [root.findtext(f"size/{side}") or "" for side in ("height", "width")]
        height, width = (int(text) if text.strip().isdigit() else 0 for text in texts)
        return (height, width) if height and width else None  # some tools write 0

    def labels(self, image: str, size: Size) -> list[Labels]:
        if image not in self._files:
            return []
        root = self._parsed(image)
        boxes = [self._box(image, box) for box in root.iterfind("object/bndbox")]
        polygons = [[self._polygon(image, polygon)] for polygon in root.iterfind("object/polygon")]
        found = [Labels(boxes=np.concatenate(boxes))] if boxes else []
        return [*found, outlined(polygons, size)] if polygons else found

    def add(self, new: New, out: Path) -> None:
        if new.image not in self._files:
            return
        root = self._parsed(new.image)
        name = PurePosixPath(new.name).name
        for field in ("filename", "path"):
            element = root.find(field)
            if element is not None and element.text:
                element.text = re.sub(r"[^/\\]*$", name, element.text, count=1)
        if new.move is not None:
            for box in root.iter("bndbox"):
                moved = new.boxes(self._box(new.image, box))[0] + _FROM_ONE
                for side, value in zip(_SIDES, moved, strict=True):
                    element = box.find(side)
                    assert element is not None
                    element.text = f"{round(value)}" if "." not in (element.text or "") else f"{value:.3f}"
            for polygon in root.iterfind("object/polygon"):
                for number, point in enumerate(new.outline(self._polygon(new.image, polygon)).tolist(), 1):
                    for axis, value in zip("xy", point, strict=True):
                        element = polygon.find(f"{axis}{number}")
                        assert element is not None
                        element.text = f"{value:.3f}"
            if np.linalg.det(new.move.matrix[:, :2]) < 0:
                for pose in root.iter("pose"):
                    pose.text = _MIRRORED.get(pose.text or "", pose.text)
        text = ET.tostring(root, encoding="unicode")
        declared = re.match(r"\s*<\?xml.*?\?>\s*", self.tree.text(self._files[new.image]))
        data = (declared[0] if declared else "") + text + "\n"
        write(out / sibling(self._files[new.image], new.image, new.name), data.encode())

    def _is_label(self, file: str) -> bool:
        try:
            return b"<annotation" in self.tree.path(file).read_bytes()
        except OSError:
            return True  # said of its image

    def _parsed(self, image: str) -> ET.Element:
        file = self._files[image]
        parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
        try:
            return ET.fromstring(self.tree.text(file), parser)
        except (ET.ParseError, ValueError) as error:
            raise InputError(f"{self.tree.path(file)}: it cannot be read as XML: {error}") from error

    def _box(self, image: str, box: ET.Element) -> Points:
        values = [box.findtext(side) for side in _SIDES]
        return np.array([numbers(values, f"{self.tree.path(self._files[image])}: bndbox") - _FROM_ONE])

    def _polygon(self, image: str, polygon: ET.Element) -> Points:
        count = sum(element.tag.startswith("x") for element in polygon)
        values = [[polygon.findtext(f"{axis}{number}") for axis in "xy"] for number in range(1, count + 1)]
        return numbers(values, f"{self.tree.path(self._files[image])}: polygon")
