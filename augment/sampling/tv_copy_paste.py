"""`CopyPaste` as a torchvision v2 transform: objects of other images over this one, with their labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812  # torchvision's own name for it

from augment.sampling.cutouts import Instances, Paste
from augment.sampling.doubts import as_picture
from augment.sampling.pasting import Pasted, Pasting, Sample, is_per_object
from augment.sampling.tv_images import fault, size_of, visible_part, write_back
from augment.sampling.tv_labels import float_array, upright_boxes, written_like


class CopyPaste(Pasting, v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Paste objects of other images over an image, and keep its boxes, masks and labels right.

    Samples are `(image, target)` as in torchvision's detection references: `target` is a dict with `boxes`
    (`tv_tensors.BoundingBoxes`), perhaps `masks` (`tv_tensors.Mask`, one an object), `labels`, and other values one an
    object (`iscrowd`, `area`, `keypoints`). Pasted objects bring theirs along. What they hide is taken out of the masks
    and of the boxes of masks; an object of which less than `min_visibility` is left is dropped. It may follow
    `ReplaceBackground`: objects are then pasted over the new background. Each class is pasted equally often, however
    rare it is.

    A sample of any other form is returned unchanged, and counted as "doubtful". Random numbers come from torch's
    global generator. `found` has the number of donors of each class, `refused` why other objects are none. Calls raise
    InputError for float images that are not in 0 … 1.

    Source: Ghiasi et al., "Simple Copy-Paste" (arXiv 2012.07177). Cutouts come from mattes here, with soft edges, so
    masks are not needed.
    """

    def forward(self, *inputs: Any) -> Any:
        """Transform a sample."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        # Drawn whether needed or not, so that what is in the store does not change what later transforms draw.
        found = self._pasted(sample, torch.rand(self._draws, dtype=torch.float64, device="cpu").tolist())
        if found is None:
            return sample
        pixels, parts, pasted = found
        left, share, keep = self._left(parts, pasted)
        target = dict(parts.target)
        for name in parts.per_object:
            target[name] = _joined(name, parts, pasted, left, keep)
        if parts.instances.masks is not None and isinstance(target.get("area"), torch.Tensor):
            target["area"] = (target["area"] * torch.from_numpy(share[keep])).to(target["area"].dtype)
        result = write_back(pixels, parts.image, None), target
        return list(result) if isinstance(sample, list) else result

    def parts(self, sample: Any) -> Sample | str:
        """The parts of a sample; in words, what of it is not understood."""
        return _parts(sample)

    def extra_repr(self) -> str:
        return f"{self.store}, p={self.p}, objects={self.objects}, {self.placement}, {len(self._donors)} donors"


def _parts(sample: Any) -> Sample | str:
    """The parts of a sample; in words, what of it is not understood."""
    if not isinstance(sample, tuple | list) or len(sample) != 2 or not isinstance(sample[1], dict):
        return "another form than (image, target)"
    image, target = sample
    boxes, masks, labels = (target.get(name) for name in ("boxes", "masks", "labels"))
    if not isinstance(boxes, tv_tensors.BoundingBoxes) or labels is None:
        return "no boxes as tv_tensors.BoundingBoxes, or no labels"
    if tv_tensors.is_rotated_bounding_format(boxes.format):
        return "rotated boxes"
    if not isinstance(image, tv_tensors.Image | torch.Tensor) and not hasattr(image, "getbands"):
        return f"{type(image).__name__} as image"
    if fault(image) or visible_part(image):
        return fault(image) or "an image that is transparent in part"
    corners = upright_boxes(boxes)
    count, size = len(corners), size_of(image)
    if masks is not None and not (isinstance(masks, tv_tensors.Mask) and tuple(masks.shape) == (count, *size)):
        return f"masks that are not tv_tensors.Mask of {(count, *size)}"
    if len(labels) != count:
        return f"{len(labels)} labels for {count} boxes"
    per_object = tuple(name for name, value in target.items() if is_per_object(name, value, count))
    others = [value for name, value in target.items() if name not in per_object]
    if any(isinstance(value, tv_tensors.TVTensor) or as_picture(value, [size]) for value in others):
        return "a second picture, or labels that are not one an object"
    solid = None if masks is None else torch.as_tensor(masks).numpy() != 0
    names = [label.item() if isinstance(label, torch.Tensor | np.generic) else label for label in labels]
    crowds = [bool(crowd) for crowd in (target["iscrowd"] if "iscrowd" in per_object else [False] * count)]
    return Sample(image, target, Instances(corners, solid), names, crowds, per_object)


def _joined(name: str, sample: Sample, pasted: list[Pasted], left: list[Instances], keep: Any) -> Any:
    """An entry of the target with one value an object."""
    value = sample.target[name]
    if name == "boxes":
        corners = torch.from_numpy(np.concatenate([one.boxes for one in left])[keep])
        box = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=value.canvas_size)
        converted = F.convert_bounding_box_format(box, new_format=value.format)
        return tv_tensors.wrap(written_like(float_array(converted), value), like=value)
    if name == "masks":
        masks = torch.from_numpy(np.concatenate([one.masks for one in left if one.masks is not None])[keep])
        return tv_tensors.wrap(masks.to(value.dtype), like=value)
    rows = [_row(name, parts, number, found) for parts, number, found in pasted]
    if isinstance(value, list | tuple):
        return type(value)(one for one, is_kept in zip([*value, *rows], keep, strict=True) if is_kept)
    if isinstance(value, np.ndarray):
        return np.concatenate([value, np.stack(rows).astype(value.dtype)])[keep]
    added = torch.stack([torch.as_tensor(row).to(value.dtype) for row in rows])
    joined = torch.cat([torch.as_tensor(value), added])[torch.from_numpy(keep)]
    return tv_tensors.wrap(joined, like=value) if isinstance(value, tv_tensors.TVTensor) else joined


def _row(name: str, parts: Sample, number: int, found: Paste) -> Any:
    """What a pasted object has under this name."""
    if name == "iscrowd":
        return 0
    if name == "area":
        return float(found.solid.sum())
    value = parts.target[name][number]
    if isinstance(parts.target[name], tv_tensors.KeyPoints):
        points = float_array(torch.as_tensor(value))
        return torch.from_numpy(found.points(points.reshape(-1, 2)).reshape(points.shape))
    return value
