"""`CopyPaste` as a torchvision v2 transform: objects of other images over this one, with their labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812  # torchvision's own name for it

from augment.artifacts import MATTE, Image, Matte
from augment.errors import InputError
from augment.imaging.composite import lay
from augment.keys import image_key, to_rgb
from augment.sampling.checks import check_range
from augment.sampling.counts import Counts
from augment.sampling.doubts import as_picture
from augment.sampling.cutouts import Donor, Donors, Instances, Paste, object_matte, paste, visible
from augment.sampling.placement import Placement, PlacementDraws
from augment.sampling.process import set_up
from augment.sampling.recipes import record_for
from augment.sampling.tv_images import fault, size_of, visible_part, write_back
from augment.sampling.tv_labels import float_array, upright_boxes, written_like
from augment.store.open import open_store
from augment.store.reader import Reader
from augment.store.records import Store

if TYPE_CHECKING:
    from augment.recipe import Recipe

_DRAWS = 2 + len(PlacementDraws._fields)  # of one object
_MANY = 256  # donors that are worth starting processes for
_OF_IMAGE = ("image_id", "id", "size", "orig_size", "file_name")  # they may be as long as there are objects


class _Sample(NamedTuple):
    """A sample as torchvision's detection datasets give it."""

    image: Any
    target: dict[str, Any]
    instances: Instances
    per_object: tuple[str, ...]  # the entries of the target that have one value an object

    def __len__(self) -> int:
        return len(self.instances)


class CopyPaste(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Paste objects of other images over an image, and keep its boxes, masks and labels right.

    Samples are `(image, target)` as in torchvision's detection references: `target` is a dict with `boxes`
    (`tv_tensors.BoundingBoxes`), perhaps `masks` (`tv_tensors.Mask`, one an object), `labels`, and other values one an
    object (`iscrowd`, `area`, `keypoints`). Pasted objects bring theirs along. What they hide is taken out of the masks
    and of the boxes of masks; an object of which less than `min_visibility` is left is dropped. It may follow
    `ReplaceBackground`: objects are then pasted over the new background. Classes come equally often, so rare ones come
    most often relative to their number.

    A sample of any other form is returned unchanged, and counted as "doubtful". Random numbers come from torch's
    global generator. `found` has the number of donors of each class, `refused` why other objects are none. Calls raise
    InputError for float images that are not in 0 … 1.

    Source: Ghiasi et al., "Simple Copy-Paste" (arXiv 2012.07177). Cutouts come from mattes here, with soft edges, so
    masks are not needed.
    """

    def __init__(
        self,
        store: Store | str | Path,
        donors: Dataset[Any],
        *,
        p: float = 0.5,
        objects: tuple[int, int] = (1, 3),
        placement: Placement | None = None,
        min_visibility: float = 0.3,
        recipe: str | Path | Recipe | None = None,
    ) -> None:
        """Look through the donors for objects that can be cut out.

        Args:
            store: a cache, a pack, or its path, into which the donors were prewarmed.
            donors: where objects come from: a map-style Dataset of samples as above, without random transforms. Usually
                the training set itself, without any transform. All of it is decoded once.
            p: probability that objects are pasted.
            objects: the smallest and the largest number of them.
            placement: how an object may be changed and moved; the default is half to 1.25 times its size, anywhere,
                mirrored half of the time.
            min_visibility: share, 0 to 1, of an object that must be left for it to stay labeled.
            recipe: which of the store's recipes; None is the latest.

        Raises StoreError if the store cannot be used, InputError for an argument that cannot work, or if no object can
        be cut out.
        """
        super().__init__()
        check_range("p", p)
        check_range("min_visibility", min_visibility)
        if not (len(objects) == 2 and 1 <= objects[0] <= objects[1]):
            raise InputError(f"objects: {objects!r} is not a range of numbers (smallest, largest), 1 or more")
        self.p, self.objects, self.min_visibility = p, objects, min_visibility
        self.placement = placement or Placement(scale=(0.5, 1.25), translate="uniform", flip=0.5)
        self.store = open_store(store)
        self.donors = donors
        self._reader = Reader(self.store, record_for(self.store, recipe))
        found, refused = _looked_through(_Objects(donors, self._reader))
        self._donors = Donors(found)
        if not found:
            told = ", ".join(f"{count} {reason}" for reason, count in refused.most_common(3)) or "there is none"
            raise InputError(f"donors: no object of them can be cut out: {told}")
        self._set_up_in = 0
        self.found = self._donors.labels
        self.refused = dict(refused)
        self._counts = Counts("pasted", "objects", "hidden", "doubtful", "changed donors", "unlike donors")

    @property
    def counts(self) -> dict[str, int]:
        """Over all workers: samples with "pasted" objects, how many "objects", labeled objects that were "hidden",
        "doubtful" samples that stayed unchanged, "changed donors" whose file is gone or is not the prewarmed one any
        more, and "unlike donors" whose target lacks what the sample's has."""
        return self._counts.totals()

    def forward(self, *inputs: Any) -> Any:
        """Transform a sample."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        low, high = self.objects
        # Drawn whether needed or not, so that what is in the store does not change what later transforms draw.
        chance, share, *uniforms = torch.rand(2 + _DRAWS * high, dtype=torch.float64, device="cpu").tolist()
        if chance >= self.p:
            return sample
        if self._set_up_in != os.getpid():  # not in this process yet
            self._set_up_in = os.getpid()
            set_up()
        parts = _parts(sample)
        if isinstance(parts, str):
            self._counts.add("doubtful")
            return sample
        pixels = to_rgb(parts.image).copy()
        pasted = []
        for number in range(low + int(share * (high - low + 1))):
            numbers = uniforms[_DRAWS * number : _DRAWS * (number + 1)]
            found = self._paste(self._donors.draw(*numbers[:2]), parts, pixels, PlacementDraws(*numbers[2:]))
            if found is not None:
                lay(found[2].layer, pixels)
                pasted.append(found)
        if not pasted:
            return sample
        target, hidden = _merged(parts, pasted, self.min_visibility)
        for name, count in (("pasted", 1), ("objects", len(pasted)), ("hidden", hidden)):
            for _ in range(count):
                self._counts.add(name)
        result = write_back(pixels, parts.image, None), target
        return list(result) if isinstance(sample, list) else result

    def extra_repr(self) -> str:
        return f"{self.store}, p={self.p}, objects={self.objects}, {self.placement}, {len(self._donors)} donors"

    def _paste(
        self, donor: Donor, onto: _Sample, pixels: Image, draws: PlacementDraws
    ) -> tuple[_Sample, int, Paste] | None:
        """The donor's sample, its object's number there, and the object over the pixels."""
        try:
            parts = _parts(self.donors[donor.sample])
            image = to_rgb(parts.image) if isinstance(parts, _Sample) else None
        except Exception:  # a user's Dataset may fail in any way
            parts, image = "", None
        matte = self._reader.get(MATTE, donor.key)
        if not isinstance(parts, _Sample) or image is None or matte is None or image_key(image) != donor.key:
            self._counts.add("changed donors")
            return None
        if not set(onto.per_object) <= {*parts.per_object, "iscrowd", "area"}:
            self._counts.add("unlike donors")
            return None
        cut = object_matte(matte, parts.instances, donor.number)
        found = None if isinstance(cut, str) else paste(image, cut, pixels, self.placement, draws)
        return None if found is None else (parts, donor.number, found)


class _Objects(Dataset[list[Donor | str]]):
    """Of each sample of a Dataset, its objects that can be cut out, and in words why others cannot."""

    def __init__(self, donors: Dataset[Any], reader: Reader) -> None:
        self.donors, self.reader = donors, reader

    def __len__(self) -> int:
        return len(self.donors)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> list[Donor | str]:
        try:
            parts = _parts(self.donors[index])
            if isinstance(parts, str):
                return [f"in samples with {parts}"]
            key = image_key(parts.image)
        except Exception as error:  # a user's Dataset may fail in any way
            return [f"in samples that cannot be read ({type(error).__name__})"]
        matte = self.reader.get(MATTE, key)
        if matte is None or matte.unusable:
            return ["in images that the store lacks" if matte is None else "in images whose mattes are unusable"]
        return [_donor(index, number, parts, key, matte) for number in range(len(parts))]


def _donor(index: int, number: int, parts: _Sample, key: str, matte: Matte) -> Donor | str:
    crowd = parts.target.get("iscrowd")
    if crowd is not None and bool(crowd[number]):
        return "crowds"
    cut = object_matte(matte, parts.instances, number)
    if isinstance(cut, str):
        return f"objects: {cut}"
    label = parts.target["labels"][number]
    return Donor(index, number, label.item() if isinstance(label, torch.Tensor | np.generic) else label, key)


def _looked_through(objects: _Objects) -> tuple[list[Donor], Counter[str]]:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = available if len(objects) > _MANY else 0
    loader = DataLoader(objects, batch_size=None, num_workers=workers, collate_fn=_as_it_is, worker_init_fn=_start)
    found: list[Donor] = []
    refused: Counter[str] = Counter()
    for one in _each(loader):
        if isinstance(one, Donor):
            found.append(one)
        else:
            refused[one] += 1
    return found, refused


def _each(loader: DataLoader[list[Donor | str]]) -> Iterator[Donor | str]:
    for objects in loader:
        yield from objects


def _start(_: int) -> None:
    set_up()


def _as_it_is(value: Any) -> Any:
    return value


def _parts(sample: Any) -> _Sample | str:
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
    if masks is not None and tuple(masks.shape) != (count, *size):
        return f"masks of {tuple(masks.shape)} for {count} objects of an image of {size}"
    if len(labels) != count:
        return f"{len(labels)} labels for {count} boxes"
    per_object = tuple(name for name, value in target.items() if _is_per_object(name, value, count))
    others = [value for name, value in target.items() if name not in per_object]
    if any(isinstance(value, tv_tensors.TVTensor) or as_picture(value, [size]) for value in others):
        return "a second picture, or labels that are not one an object"
    solid = None if masks is None else torch.as_tensor(masks).numpy() != 0
    return _Sample(image, target, Instances(corners, solid), per_object)


def _is_per_object(name: str, value: Any, count: int) -> bool:
    if name in _OF_IMAGE or not isinstance(value, torch.Tensor | np.ndarray | list | tuple):
        return False
    return (not hasattr(value, "ndim") or value.ndim > 0) and len(value) == count


def _merged(
    sample: _Sample, pasted: list[tuple[_Sample, int, Paste]], min_visibility: float
) -> tuple[dict[str, Any], int]:
    """The target with the pasted objects and without those that they hide, and the number of the latter."""
    has_masks = sample.instances.masks is not None
    boxes, masks = [sample.instances.boxes], [sample.instances.masks]
    for parts, number, found in pasted:
        boxes.append(found.box(parts.instances.boxes[number])[None])
        if has_masks:
            assert parts.instances.masks is not None
            masks.append(found.mask(parts.instances.masks[number])[None])
    left, shares = [], []
    for place, (own_boxes, own_masks) in enumerate(
        zip(boxes, masks if has_masks else [None] * len(boxes), strict=True)
    ):
        covers = [found.solid for _, _, found in pasted[place:]]  # those that came after it
        cover = np.any(covers, 0) if covers else np.zeros(size_of(sample.image), bool)
        one, seen = visible(Instances(own_boxes, own_masks), cover)
        left.append(one)
        shares.append(seen)
    share = np.concatenate(shares)
    keep = share >= min_visibility
    target = dict(sample.target)
    for name in sample.per_object:
        target[name] = _joined(name, sample, pasted, left, keep)
    if has_masks and isinstance(target.get("area"), torch.Tensor):
        target["area"] = (target["area"] * torch.from_numpy(share[keep])).to(target["area"].dtype)
    return target, int((~keep).sum())


def _joined(
    name: str, sample: _Sample, pasted: list[tuple[_Sample, int, Paste]], left: list[Instances], keep: Any
) -> Any:
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


def _row(name: str, parts: _Sample, number: int, found: Paste) -> Any:
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
