"""`ReplaceBackground` as an albumentations transform; also under AlbumentationsX, which keeps most of its interface."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import albumentations as A  # noqa: N812  # its own documentation's name for it
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from augment.artifacts import Image
from augment.composite import Blend
from augment.errors import InputError
from augment.keys import to_rgb
from augment.labels import Labels
from augment.placement import Move, Placement
from augment.pools import Source
from augment.sampler import DRAWS, Draws, OnMiss, Sampler
from augment.schedules import Chance, Schedule, as_schedule, plain_schedule
from augment.store import Store

if TYPE_CHECKING:
    from augment.recipe import Recipe

_SAMPLES_IN_ONE_STEP = hasattr(A.DualTransform, "sample_parameters")  # AlbumentationsX


class ReplaceBackground(A.DualTransform):  # type: ignore[misc]  # untyped
    """Put the object of an image onto another background, one that `augment.prewarm` made.

    Put it first in the pipeline: an image is looked up by its decoded pixels, so a transform before it makes every
    lookup a miss. Where one must come before that only resizes, or another decoder is used, pass the image's key or
    path beside it: `transform(image=image, key=path)`.

    The arguments are those of `augment.torchvision.ReplaceBackground`, and the same choice gives the same pixels.
    `placement` and `source` may also be the dicts that serialisation makes of them, and so may `p`. Further images of a
    sample (`images`, additional targets) are each looked up, and get the same draws.

    Targets: image, images, mask, masks, bboxes, keypoints. Image types: uint8, and float32 in 0 … 1; grey, RGB, RGBA.

    Random numbers come from albumentations' generator. Under albumentations 2.0.8, whose DataLoader workers would all
    draw the same, each worker seeds a generator for this transform from the worker's own seed; AlbumentationsX does so
    by itself.
    """

    _targets = tuple(
        getattr(Targets, name)
        for name in ("IMAGE", "IMAGES", "MASK", "MASKS", "BBOXES", "KEYPOINTS")
        if hasattr(Targets, name)
    )

    def __init__(
        self,
        store: Store | str | Path,
        *,
        p: float | Schedule | Mapping[str, Any] = 0.5,
        source: str | Mapping[str, Any] | Source = "own",
        on_miss: OnMiss = "keep",
        placement: Placement | Mapping[str, Any] | None = None,
        blend: Blend = "alpha",
        harmonize: float = 0.0,
        protect_labels: bool = True,
        recipe: str | Path | Recipe | None = None,
    ) -> None:
        self._chance = Chance(as_schedule(p))
        self._seeded: int | None = None
        self._sampler = Sampler(
            store,
            source=source,
            on_miss=on_miss,
            placement=placement,
            blend=blend,
            harmonize=harmonize,
            protect_labels=protect_labels,
            recipe=recipe,
        )
        self._recipe = recipe
        super().__init__(p=self._chance.now())

    @property
    def p(self) -> float:
        """The probability, in this epoch."""
        return self._chance.now()

    @p.setter
    def p(self, value: float) -> None:
        if value != self._chance.now():
            self._chance = Chance(value)

    @property
    def counts(self) -> dict[str, int]:
        """How many images were "hits", "misses" and so on, in this process and its workers; see the other face."""
        return self._sampler.counts.totals()

    def set_epoch(self, epoch: int) -> None:
        """Tell the schedule `p` which epoch begins, in this process and its workers, those that persist too."""
        self._chance.set_epoch(epoch)

    def should_apply(self, force_apply: bool = False) -> bool:
        """As every transform, from a generator that is this worker's own."""
        worker = get_worker_info()
        if worker is not None and self._seeded != worker.seed:
            self._seeded = worker.seed
            self.py_random = random.Random(worker.seed)
        return bool(super().should_apply(force_apply))

    if _SAMPLES_IN_ONE_STEP:

        def sample_parameters(self, params: Any, data: Any, targets: Any, sampling: Any) -> Any:
            """All that is random in a composite."""
            from albumentations.core.transform_params import SampledParams

            return SampledParams(params=_draw(sampling.py_random))
    else:

        def get_params(self) -> dict[str, Any]:
            """All that is random in a composite."""
            return _draw(self.py_random)

    def apply_with_params(self, params: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Composite every image, and move the labels where its object moved."""
        draws = Draws.of(getattr(params, "params", params)["draws"])
        kinds = {name: self._additional_targets.get(name, name) for name, value in kwargs.items() if value is not None}
        result = dict(kwargs)
        count, size = 0, None
        for name, kind in kinds.items():
            if kind in ("image", "images"):
                frames = [kwargs[name]] if kind == "image" else kwargs[name]
                count, size = count + len(frames), frames[0].shape[:2]
        if size is None:
            return result
        labels = [_labels(kind, kwargs[name], size) for name, kind in kinds.items()]
        movable = count == 1 or not any(labels)
        moves: list[Move | None] = []

        def replaced(image: NDArray[Any], key: str | None = None) -> NDArray[Any]:
            write_back = _writer(image)
            replacement = self._sampler.replace(to_rgb(image), draws, labels, key, movable)
            moves.append(None if replacement is None else replacement.move)
            return image if replacement is None else write_back(replacement.composite())

        for name, kind in kinds.items():
            if kind == "image":
                result[name] = replaced(kwargs[name], kwargs.get("key") if name == "image" else None)
            elif kind == "images":
                result[name] = _like([replaced(frame) for frame in kwargs[name]], kwargs[name])
        move = moves[0]
        if move is not None:
            for name, kind in kinds.items():
                result[name] = _moved(kind, result[name], move, size)
        return result

    def _set_keys(self) -> None:
        super()._set_keys()
        self._available_keys.add("key")

    def get_base_init_args(self) -> dict[str, Any]:
        """`p`, as plain data."""
        return {"p": plain_schedule(self._chance.p)}

    def get_transform_init_args(self) -> dict[str, Any]:
        """The other arguments as plain data, the store as its path."""
        sampler = self._sampler
        recipe = self._recipe
        if is_dataclass(recipe):
            recipe = sampler.filled.fingerprints["generate"]
        source = sampler.source
        return {
            "store": str(getattr(sampler.store, "directory", sampler.store)),
            "source": {"weights": source.table(), "max_coverage": source.max_coverage, "flip": source.flip},
            "on_miss": sampler.on_miss,
            "placement": None
            if sampler.placement is None
            else asdict(sampler.placement) | {"scale": list(sampler.placement.scale)},
            "blend": sampler.blend,
            "harmonize": sampler.harmonize,
            "protect_labels": sampler.protect_labels,
            "recipe": None if recipe is None else str(recipe),
        }

    # Declared as targets; all the work is done in `apply_with_params`.

    def apply(self, img: NDArray[Any], **params: Any) -> NDArray[Any]:
        return img

    def apply_to_bboxes(self, bboxes: NDArray[Any], **params: Any) -> NDArray[Any]:
        return bboxes

    def apply_to_keypoints(self, keypoints: NDArray[Any], **params: Any) -> NDArray[Any]:
        return keypoints


def _draw(generator: random.Random) -> dict[str, Any]:
    return {"draws": [generator.random() for _ in range(DRAWS)]}


def _labels(kind: str, value: Any, size: tuple[int, int]) -> Labels:
    """What a target says of where objects are; boxes come in albumentations' own format, as shares of the image."""
    if kind == "mask":
        mask = np.asarray(value) != 0
        return Labels(masks=mask[None] if mask.ndim == 2 else np.moveaxis(mask, 2, 0))
    if kind == "masks" and len(value):
        masks = np.stack([np.asarray(mask) for mask in value]) != 0
        return Labels(masks=masks if masks.ndim == 3 else masks.any(3))
    if kind == "bboxes" and len(value):
        return Labels(boxes=_floats(value)[:, :4] * _sides(size))
    if kind == "keypoints" and len(value):
        return Labels(points=_floats(value)[:, :2])
    return Labels()


def _moved(kind: str, value: Any, move: Move, size: tuple[int, int]) -> Any:
    """A label that lies on an object that moved."""
    if kind == "mask":
        mask = np.asarray(value)
        return move.masks(mask) if mask.ndim == 2 else _move_channels(mask, move)
    if kind == "masks" and len(value):
        masks = [np.asarray(mask) for mask in value]
        return _like([move.masks(mask) if mask.ndim == 2 else _move_channels(mask, move) for mask in masks], value)
    if kind == "bboxes" and len(value):
        boxes = np.array(value)
        boxes[:, :4] = move.boxes(_floats(value)[:, :4] * _sides(size)) / _sides(size)
        return boxes
    if kind == "keypoints" and len(value):
        points, before = np.array(value), _floats(value)
        points[:, :2] = move.points(before[:, :2])
        if points.shape[1] >= 5:  # x, y, z, angle, scale
            points[:, 3] = move.directions(before[:, 3]) % (2 * np.pi)
            points[:, 4] = before[:, 4] * move.scale
        return points
    return value


def _move_channels(mask: NDArray[Any], move: Move) -> NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(move.masks(np.moveaxis(mask, 2, 0)), 0, 2))


def _sides(size: tuple[int, int]) -> NDArray[np.float64]:
    height, width = size
    return np.array([width, height, width, height], np.float64)


def _floats(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)


def _like(items: list[NDArray[Any]], given: Any) -> Any:
    """The items in the form in which they were given: an array, a tuple or a list."""
    return np.stack(items) if isinstance(given, np.ndarray) else type(given)(items)


def _writer(image: NDArray[Any]) -> Callable[[Image], NDArray[Any]]:
    """How a composite `(H, W, 3)` uint8 becomes what the image was. Raises InputError where it cannot without loss."""
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise InputError(f"an image of {image.dtype}: ReplaceBackground takes uint8 and floats in 0 … 1")
    channels = 0 if image.ndim == 2 else image.shape[2]

    def write(composite: Image) -> NDArray[Any]:
        pixels = composite
        if channels in (0, 1):
            pixels = np.asarray(cv2.cvtColor(composite, cv2.COLOR_RGB2GRAY)).reshape(image.shape)
        if image.dtype != np.uint8:
            pixels = (pixels / np.float32(255)).astype(image.dtype)
        return np.concatenate([pixels, image[..., 3:]], axis=2) if channels == 4 else pixels

    return write
