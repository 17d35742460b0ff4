"""`CopyPaste` for samples in albumentations' form. It needs nothing of albumentations itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from augment.artifacts import Image
from augment.errors import InputError
from augment.sampling.cutouts import Instances, Paste
from augment.sampling.doubts import as_picture
from augment.sampling.pasting import Pasted, Pasting, Sample, is_per_object
from augment.sampling.placement import Placement
from augment.store.records import Store

if TYPE_CHECKING:
    from augment.recipe import Recipe

BoxFormat: TypeAlias = Literal["pascal_voc", "coco", "yolo", "albumentations"]

_NOT_OF_OBJECTS = ("mask", "keypoints", "images", "volume")  # they would need to follow, and do not say how


class CopyPaste(Pasting):
    """Paste objects of other images over an image, and keep its boxes, masks and labels right.

    Call it on a whole sample, before the pipeline, which cannot learn of new boxes and labels while it runs:

        copy_paste = CopyPaste("path/to/cache", samples, bboxes="coco", labels="class_labels")
        pipeline(**copy_paste(image=image, bboxes=bboxes, masks=masks, class_labels=class_labels))

    A sample has an `image` `(H, W, 3)` uint8 or float in 0 … 1, `bboxes` `(n, 4 or more)`, its field of labels, perhaps
    `masks` (one an object, `(H, W)`), and other values one an object. Pasted objects bring theirs along. What they hide
    is taken out of the masks and of the boxes of masks; an object of which less than `min_visibility` is left is
    dropped. Each class is pasted equally often, however rare it is. To paste over a new background, first call a
    pipeline with `ReplaceBackground`.

    A sample with anything else that shows objects (`mask`, `keypoints`) is returned unchanged, and counted as
    "doubtful". Random numbers come from torch's global generator, so the DataLoader's seeds hold. `found` has the
    number of donors of each class, `refused` why other objects are none.

    Source: Ghiasi et al., "Simple Copy-Paste" (arXiv 2012.07177). Cutouts come from mattes here, with soft edges, so
    masks are not needed.
    """

    def __init__(
        self,
        store: Store | str | Path,
        donors: Dataset[Any],
        *,
        bboxes: BoxFormat = "pascal_voc",
        labels: str = "labels",
        p: float = 0.5,
        objects: tuple[int, int] = (1, 3),
        placement: Placement | None = None,
        min_visibility: float = 0.3,
        recipe: str | Path | Recipe | None = None,
    ) -> None:
        """Look through the donors for objects that can be cut out.

        Args:
            store: a cache, a pack, or its path, into which the donors were prewarmed.
            donors: a map-style Dataset of samples as above, as dicts. All of it is decoded once.
            bboxes: the format of boxes, as `albumentations.BboxParams` calls it.
            labels: the field that holds the objects' classes.

        The other arguments, and what is raised, are those of `augment.torchvision.CopyPaste`.
        """
        if bboxes not in get_args(BoxFormat):
            raise InputError(f"bboxes: {bboxes!r} is not one of {', '.join(get_args(BoxFormat))}")
        self.bboxes, self.labels = bboxes, labels
        super().__init__(
            store, donors, p=p, objects=objects, placement=placement, min_visibility=min_visibility, recipe=recipe
        )

    def __call__(self, **sample: Any) -> dict[str, Any]:
        """A sample with objects pasted over its image."""
        found = self._pasted(sample, torch.rand(self._draws, dtype=torch.float64, device="cpu").tolist())
        if found is None:
            return sample
        pixels, parts, pasted = found
        left, _, keep = self._left(parts, pasted)
        result = dict(sample)
        for name in parts.per_object:
            result[name] = self._joined(name, parts, pasted, left, keep)
        result["image"] = _written(pixels, sample["image"])
        return result

    def parts(self, sample: Any) -> Sample | str:
        """The parts of a sample; in words, what of it is not understood."""
        if not isinstance(sample, Mapping) or not {"image", "bboxes", self.labels} <= sample.keys():
            return f"another form than image, bboxes and {self.labels}"
        image = sample["image"]
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
            return "an image that is no array (H, W, 3)"
        size, count = image.shape[:2], len(sample["bboxes"])
        others = {name: value for name, value in sample.items() if name != "image"}
        names = tuple(name for name, value in others.items() if is_per_object(name, value, count))
        if unknown := next((name for name in _NOT_OF_OBJECTS if name in others), ""):
            return f"{unknown!r}, which is not one an object"
        if not {"bboxes", self.labels} <= {*names}:
            return f"{self.labels!r} of another length than its boxes"
        if any(as_picture(value, [size]) for name, value in others.items() if name not in names):
            return "a second picture"
        masks = [np.asarray(mask) for mask in others.get("masks", [])]
        if "masks" in others and ("masks" not in names or any(mask.shape != size for mask in masks)):
            return f"masks that are not one an object, of {size}"
        solid = np.stack(masks) != 0 if masks else np.zeros((0, *size), bool) if "masks" in others else None
        boxes = np.array([list(row)[:4] for row in sample["bboxes"]], np.float64).reshape(-1, 4)
        labels = [
            label.item() if isinstance(label, np.generic | torch.Tensor) else label for label in sample[self.labels]
        ]
        crowds = [bool(crowd) for crowd in (sample["iscrowd"] if "iscrowd" in names else [False] * count)]
        return Sample(image, others, Instances(self._corners(boxes, size), solid), labels, crowds, names)

    def _joined(self, name: str, sample: Sample, pasted: list[Pasted], left: list[Instances], keep: Any) -> Any:
        """An entry with one value an object, in the form in which it was given."""
        given = sample.target[name]
        if name == "masks":
            kinds = np.asarray(given[0]).dtype if len(given) else np.uint8
            rows = list(np.concatenate([one.masks for one in left if one.masks is not None]).astype(kinds))
        else:
            rows = [*given, *(_row(name, *one) for one in pasted)]
        if name == "bboxes":
            corners = np.concatenate([one.boxes for one in left])
            boxes = self._written_boxes(corners, sample.image.shape[:2])
            rows = [[*box, *list(row)[4:]] for box, row in zip(boxes.tolist(), rows, strict=True)]
        kept = [row for row, is_kept in zip(rows, keep, strict=True) if is_kept]
        if isinstance(given, np.ndarray):
            return np.array(kept, given.dtype).reshape(len(kept), *given.shape[1:])
        return type(given)(kept) if isinstance(given, list | tuple) else kept

    def _corners(self, boxes: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
        """Left, top, right, bottom in pixels."""
        if self.bboxes in ("yolo", "albumentations"):
            boxes = boxes * (size[1], size[0], size[1], size[0])
        if self.bboxes == "coco":
            return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        if self.bboxes == "yolo":
            return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
        return boxes

    def _written_boxes(self, corners: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
        sides = corners[:, 2:] - corners[:, :2]
        if self.bboxes == "coco":
            corners = np.concatenate([corners[:, :2], sides], 1)
        elif self.bboxes == "yolo":
            corners = np.concatenate([corners[:, :2] + sides / 2, sides], 1)
        if self.bboxes in ("yolo", "albumentations"):
            corners = corners / (size[1], size[0], size[1], size[0])
        return corners


def _row(name: str, donor: Sample, number: int, found: Paste) -> Any:
    """What a pasted object has under this name."""
    if name == "iscrowd":
        return 0
    return float(found.solid.sum()) if name == "area" else donor.target[name][number]


def _written(pixels: Image, image: NDArray[Any]) -> NDArray[Any]:
    return pixels if image.dtype == np.uint8 else (pixels / np.float32(255)).astype(image.dtype)
