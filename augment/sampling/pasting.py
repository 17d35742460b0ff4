"""What both `CopyPaste` have in common: donors, draws, counts, and what becomes of objects that are hidden.

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (arXiv 2012.07177).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from augment.artifacts import MATTE, Image, Matte
from augment.errors import InputError
from augment.imaging.composite import lay
from augment.keys import image_key, to_rgb
from augment.sampling.checks import check_range
from augment.sampling.counts import Counts
from augment.sampling.cutouts import Instances, Paste, object_matte, paste, visible
from augment.sampling.placement import Placement, PlacementDraws
from augment.sampling.process import set_up
from augment.sampling.recipes import record_for
from augment.store.open import open_store
from augment.store.reader import Reader
from augment.store.records import Store

if TYPE_CHECKING:
    from augment.recipe import Recipe

_OBJECT_DRAWS = 2 + len(PlacementDraws._fields)
_MANY = 256  # donors that are worth starting processes for
_OF_IMAGE = ("image_id", "id", "size", "orig_size", "file_name")  # they may be as long as there are objects


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample: its image, everything else of it by name, its objects, their classes, whether each is a crowd, and the
    names of what has one value an object."""

    image: Any
    target: dict[str, Any]
    instances: Instances
    labels: Sequence[Hashable]
    crowds: Sequence[bool]
    per_object: tuple[str, ...]


Pasted: TypeAlias = tuple[Sample, int, Paste]  # a donor's sample, the number of the object in it, how it lies


class Donor(NamedTuple):
    """An object that can be pasted: the index of its sample, its number there, its class, and its image's key."""

    sample: int
    number: int
    label: Hashable
    key: str


class Donors:
    """Draws objects so that each class comes equally often, however rare it is: an object's weight is the inverse of
    its class's frequency."""

    def __init__(self, objects: Iterable[Donor]) -> None:
        self._by_label: dict[Hashable, list[Donor]] = {}
        for donor in objects:
            self._by_label.setdefault(donor.label, []).append(donor)
        self._labels = sorted(self._by_label, key=repr)

    def __len__(self) -> int:
        return sum(map(len, self._by_label.values()))

    @property
    def labels(self) -> dict[Hashable, int]:
        """The number of objects of each class."""
        return {label: len(self._by_label[label]) for label in self._labels}

    def draw(self, label: float, number: float) -> Donor:
        """An object, by two numbers in [0, 1)."""
        group = self._by_label[self._labels[int(label * len(self._labels))]]
        return group[int(number * len(group))]


class Pasting:
    """Base class of every `CopyPaste`. It comes before the library's own base class."""

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
        found, refused = _looked_through(_Objects(donors, self._reader, self.parts))
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

    def parts(self, sample: Any) -> Sample | str:
        """The parts of a sample; in words, what of it is not understood."""
        raise NotImplementedError

    @property
    def _draws(self) -> int:
        """How many random numbers a sample takes, whatever the store holds."""
        return 2 + _OBJECT_DRAWS * self.objects[1]

    def _pasted(self, sample: Any, uniforms: Sequence[float]) -> tuple[Image, Sample, list[Pasted]] | None:
        """The pixels with objects over them, the sample's parts and the objects; None if it stays unchanged."""
        low, high = self.objects
        chance, share, *rest = uniforms
        if chance >= self.p:
            return None
        if self._set_up_in != os.getpid():  # not in this process yet
            self._set_up_in = os.getpid()
            set_up()
        parts = self.parts(sample)
        if isinstance(parts, str):
            self._counts.add("doubtful")
            return None
        pixels = to_rgb(parts.image).copy()
        pasted: list[Pasted] = []
        for number in range(low + int(share * (high - low + 1))):
            numbers = rest[_OBJECT_DRAWS * number : _OBJECT_DRAWS * (number + 1)]
            found = self._paste(self._donors.draw(*numbers[:2]), parts, pixels, PlacementDraws(*numbers[2:]))
            if found is not None:
                lay(found[2].layer, pixels)
                pasted.append(found)
        return (pixels, parts, pasted) if pasted else None

    def _left(self, parts: Sample, pasted: Sequence[Pasted]) -> tuple[list[Instances], NDArray[Any], NDArray[np.bool_]]:
        """What is left of the sample's objects and then of each pasted one; the share of each, and whether it keeps
        its label. Counts them."""
        has_masks = parts.instances.masks is not None
        own = [parts.instances]
        for donor, number, found in pasted:
            masks = donor.instances.masks
            mask = found.mask(masks[number])[None] if has_masks and masks is not None else None
            own.append(Instances(found.box(donor.instances.boxes[number])[None], mask))
        left, shares = [], []
        for place, instances in enumerate(own):
            cover = np.zeros(pasted[0][2].solid.shape, bool)
            for _, _, found in pasted[place:]:  # those that came after it
                cover |= found.solid
            one, share = visible(instances, cover)
            left.append(one)
            shares.append(share)
        share = np.concatenate(shares)
        keep = share >= self.min_visibility
        for name, count in (("pasted", 1), ("objects", len(pasted)), ("hidden", int((~keep).sum()))):
            for _ in range(count):
                self._counts.add(name)
        return left, share, keep

    def _paste(self, donor: Donor, onto: Sample, pixels: Image, draws: PlacementDraws) -> Pasted | None:
        """The donor's sample, its object's number there, and the object over the pixels."""
        try:
            parts = self.parts(self.donors[donor.sample])
            image = to_rgb(parts.image) if isinstance(parts, Sample) else None
        except Exception:  # a user's Dataset may fail in any way
            parts, image = "", None
        matte = self._reader.get(MATTE, donor.key)
        if not isinstance(parts, Sample) or image is None or matte is None or image_key(image) != donor.key:
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

    def __init__(self, donors: Dataset[Any], reader: Reader, parts: Callable[[Any], Sample | str]) -> None:
        self.donors, self.reader, self.parts = donors, reader, parts

    def __len__(self) -> int:
        return len(self.donors)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> list[Donor | str]:
        try:
            parts = self.parts(self.donors[index])
            if isinstance(parts, str):
                return [f"in samples with {parts}"]
            key = image_key(parts.image)
        except Exception as error:  # a user's Dataset may fail in any way
            return [f"in samples that cannot be read ({type(error).__name__})"]
        matte = self.reader.get(MATTE, key)
        if matte is None or matte.unusable:
            return ["in images that the store lacks" if matte is None else "in images whose mattes are unusable"]
        return [_donor(index, number, parts, key, matte) for number in range(len(parts.labels))]


def _donor(index: int, number: int, parts: Sample, key: str, matte: Matte) -> Donor | str:
    if parts.crowds[number]:
        return "crowds"
    cut = object_matte(matte, parts.instances, number)
    if isinstance(cut, str):
        return f"objects: {cut}"
    return Donor(index, number, parts.labels[number], key)


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


def is_per_object(name: str, value: Any, count: int) -> bool:
    """Whether an entry of a sample has one value for each of its objects."""
    if name in _OF_IMAGE or isinstance(value, str) or not hasattr(value, "__len__") or isinstance(value, dict):
        return False
    return getattr(value, "ndim", 1) > 0 and len(value) == count
