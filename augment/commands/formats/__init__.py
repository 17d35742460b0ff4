"""The forms in which datasets keep their labels; a new one is a file here, and a line in the table."""

from __future__ import annotations

from augment.commands.formats.base import Format, Tree
from augment.commands.formats.coco import Coco
from augment.commands.formats.hf import HuggingFace
from augment.commands.formats.masks import Masks
from augment.commands.formats.voc import Voc
from augment.commands.formats.yolo import Yolo
from augment.errors import InputError

FORMATS: dict[str, type[Format]] = {kind.name: kind for kind in (Yolo, Coco, Voc, Masks, HuggingFace)}
CHOICES = ("auto", "imagefolder", *FORMATS)

_IMAGES = ("images", "imgs", "JPEGImages", "train2017", "val2017")
_LABELS = ("labels", "annotations", "Annotations", "masks")


def find_formats(tree: Tree, wanted: str) -> list[Format]:
    """The formats in which a tree has labels: all that are found ("auto"), or the wanted one.

    None for a plain image folder, whose folders are its labels. Raises InputError if the wanted one is not there, or if
    labels seem to lie outside the tree.
    """
    if wanted not in CHOICES:
        raise InputError(f"format: {wanted!r} is not one of {', '.join(CHOICES)}")
    if wanted == "imagefolder":
        return []
    found = [form for kind in FORMATS.values() if wanted in ("auto", kind.name) and (form := kind(tree)).files]
    if not found and wanted != "auto":
        raise InputError(f"{tree.root}: no labels of the format {wanted!r} are in it")
    root = tree.root.resolve()
    outside = [name for name in _LABELS if (root.parent / name).is_dir()]
    if not found and outside and root.name in _IMAGES:
        raise InputError(
            f"{tree.root}: its labels seem to be in {root.parent / outside[0]}: give the folder of the whole dataset, "
            f"{root.parent}, or say --format imagefolder if there are none"
        )
    return found
