"""`ReplaceBackground` as an albumentations transform; also under AlbumentationsX, which keeps most of its interface."""

from __future__ import annotations

import random
from dataclasses import asdict
from itertools import count
from typing import Any

import albumentations as A  # noqa: N812  # its own documentation's name for it
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from augment.artifacts import Image
from augment.errors import InputError
from augment.sampling.doubts import as_picture, pixels_of, untold_place
from augment.sampling.labels import Labels, is_missing, labeled_pixels, moved_boxes, moved_points, visible
from augment.sampling.outcomes import Outcome
from augment.sampling.placement import Move
from augment.sampling.replacing import Replacing
from augment.sampling.report import NAME, report_of
from augment.sampling.sample_copy_paste import CopyPaste
from augment.sampling.sampler import DRAWS, Draws
from augment.sampling.schedules import plain_schedule

__all__ = ["CopyPaste", "ReplaceBackground"]

_KINDS = ("image", "images", "mask", "masks", "bboxes", "keypoints")
_made = count()  # transforms without a seed that this worker made
_SAMPLES_IN_ONE_STEP = hasattr(A.DualTransform, "sample_parameters")  # AlbumentationsX


class ReplaceBackground(Replacing, A.DualTransform):  # type: ignore[misc]  # untyped
    """Put the object of an image onto another background, one that `augment.prewarm` made.

    Put it first in the pipeline: an image is looked up by its decoded pixels, so any transform that runs before it
    causes a cache miss. If one that only resizes must come before it, or another decoder is used, pass the image's key
    or path beside it: `transform(image=image, key=path)`. Images are RGB; OpenCV decodes BGR.

    The arguments (see `__init__`) are those of `augment.torchvision.ReplaceBackground`, and the same draws give the
    same pixels. If a sample has several images (`images`, additional targets), each is looked up, and all get the same
    draws.

    With `report=True` the result has a part "report".

    Targets: image, images, mask, masks, bboxes, keypoints. Image types: uint8, and float32 in 0 … 1; grayscale, RGB,
    RGBA.

    Random numbers come from albumentations' generator. The DataLoader workers of albumentations 2.0.8 would all draw
    the same, so each worker seeds a generator for this transform from the worker's own seed and that of Compose;
    AlbumentationsX does so by itself. A seed that is set in a worker holds there.

    Calls raise InputError for an image that cannot be written back in its own form, and MissError with
    `on_miss="raise"`.
    """

    _targets = tuple(
        getattr(Targets, name)
        for name in ("IMAGE", "IMAGES", "MASK", "MASKS", "BBOXES", "KEYPOINTS")
        if hasattr(Targets, name)
    )
    _seeded: int | None = None  # the seed of the worker in which its generator was set

    def set_random_seed(self, seed: int | None) -> None:
        """Set the random generators; a seed that is set in a worker holds there."""
        super().set_random_seed(seed)
        worker = get_worker_info()
        self._seeded = None if worker is None else worker.seed
        if worker is not None and seed is None:  # the same in each run, unlike the next one that the worker makes
            self.py_random = random.Random(f"{worker.seed} {next(_made)}")

    def set_random_state(self, random_generator: np.random.Generator, py_random: random.Random) -> None:
        """Set the random generators; those that are set in a worker hold there."""
        super().set_random_state(random_generator, py_random)
        worker = get_worker_info()
        self._seeded = None if worker is None else worker.seed

    def should_apply(self, force_apply: bool = False) -> bool:
        """Whether this sample is replaced, drawn from a generator of this worker's own."""
        worker = get_worker_info()
        if worker is not None and self._seeded != worker.seed:
            self._seeded = worker.seed
            self.py_random = random.Random(worker.seed if self.seed is None else f"{self.seed} {worker.seed}")
        return bool(super().should_apply(force_apply))

    if _SAMPLES_IN_ONE_STEP:

        def apply_in_invocation(self, invocation: Any, /, *args: Any, force_apply: bool, **kwargs: Any) -> Any:
            """Transform a sample. Raises InputError, whatever is drawn, for an image that cannot be written back."""
            self._check(kwargs)
            result = super().apply_in_invocation(invocation, *args, force_apply=force_apply, **kwargs)
            return self._reported(result, None)

        def sample_parameters(self, params: Any, data: Any, targets: Any, sampling: Any) -> Any:
            """All that is random in a composite."""
            from albumentations.core.transform_params import SampledParams

            return SampledParams(params=_draw(sampling.py_random))
    else:

        def __call__(self, *args: Any, force_apply: bool = False, **kwargs: Any) -> Any:
            """Transform a sample. Raises InputError, whatever is drawn, for an image that cannot be written back."""
            self._check(kwargs)
            return self._reported(super().__call__(*args, force_apply=force_apply, **kwargs), None)

        def get_params(self) -> dict[str, Any]:
            """All that is random in a composite."""
            return _draw(self.py_random)

    def apply_with_params(self, params: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Composite every image, and move the labels with the object."""
        draws = Draws.of(getattr(params, "params", params)["draws"])
        kinds = self._kinds(kwargs)
        owners = [(name, image) for name, kind in kinds.items() for image in _images(kind, kwargs[name])]
        images = [image for _, image in owners]
        result = dict(kwargs)
        if not images:
            return self._reported(result, self.sampler.no_image(", ".join(kwargs)))
        size = images[-1].shape[:2]
        labels = [_labels(kind, kwargs[name], size) for name, kind in kinds.items()]
        others = {name: kwargs[name] for name, kind in kinds.items() if kind not in _KINDS}
        pixels = _doubt(images, others, any(labels)) or pixels_of(images)
        if isinstance(pixels, str):
            return self._reported(result, self.sampler.doubt(pixels))
        outcome = self.sampler.replace(
            pixels,
            [draws] * len(images),
            labels,
            [kwargs.get("key") if name == "image" else None for name, _ in owners],
            attached=[shape for image in images if (shape := visible(_alpha(image)))],
            movable=len(images) == 1 or not any(labels),
        )
        found = outcome.replacements
        if not found:
            return self._reported(result, outcome)
        written = [_write_back(one.composite, image, one.move) for one, image in zip(found, images, strict=True)]
        for name, kind in kinds.items():
            mine = [image for (owner, _), image in zip(owners, written, strict=True) if owner == name]
            if kind == "image":
                result[name] = mine[0]
            elif kind == "images":
                result[name] = _like(mine, kwargs[name])
        move = found[0].move
        if move is not None:
            for name, kind in kinds.items():
                result[name] = _moved(kind, result[name], move, size)
        return self._reported(result, outcome)

    def _reported(self, result: dict[str, Any], outcome: Outcome | None) -> dict[str, Any]:
        """The sample with its report, unless it has it already or none is wanted."""
        if self.report and NAME not in result:
            result[NAME] = report_of(outcome)
        return result

    def _check(self, data: dict[str, Any]) -> None:
        """Raise InputError for an image that cannot be replaced. An additional target beside one that can is kept."""
        if self.report and NAME in data:
            raise InputError(f"report: the sample has a part {NAME!r} already: give that another name")
        kinds = self._kinds(data)
        sound = any(not _fault(image) for name, kind in kinds.items() for image in _images(kind, data[name]))
        for name, kind in kinds.items():
            for image in _images(kind, data[name]):
                if (fault := _fault(image)) and (name in ("image", "images") or not sound):
                    raise InputError(fault)

    def _kinds(self, data: dict[str, Any]) -> dict[str, str]:
        """The target that each part of a sample is."""
        return {name: self._additional_targets.get(name, name) for name, value in data.items() if value is not None}

    def _set_keys(self) -> None:
        super()._set_keys()
        self._available_keys.add("key")

    def get_base_init_args(self) -> dict[str, Any]:
        """`p`, as plain data."""
        return {"p": plain_schedule(self.schedule)}

    def get_transform_init_args(self) -> dict[str, Any]:
        """The other arguments as plain data, the store as its location."""
        sampler = self.sampler
        placement = sampler.placement
        return {
            "store": sampler.store.location,
            "source": asdict(sampler.source) | {"weights": sampler.source.table()},
            "on_miss": sampler.on_miss,
            "placement": None if placement is None else asdict(placement) | {"scale": list(placement.scale)},
            "blend": sampler.blend,
            "harmonize": sampler.harmonize,
            "protect_labels": sampler.protect_labels,
            "recipe": self.recipe,
            "report": self.report,
        }

    # albumentations requires them for its targets; `apply_with_params` does all the work.

    def apply(self, img: NDArray[Any], **params: Any) -> NDArray[Any]:
        return img

    def apply_to_bboxes(self, bboxes: NDArray[Any], **params: Any) -> NDArray[Any]:
        return bboxes

    def apply_to_keypoints(self, keypoints: NDArray[Any], **params: Any) -> NDArray[Any]:
        return keypoints


def _draw(generator: random.Random) -> dict[str, Any]:
    return {"draws": [generator.random() for _ in range(DRAWS)]}


def _images(kind: str, value: Any) -> list[NDArray[Any]]:
    """The images of a target; none if it is of another kind."""
    if kind == "image":
        return [value]
    return list(value) if kind == "images" else []


def _labels(kind: str, value: Any, size: tuple[int, int]) -> Labels:
    """Where a target says that objects are; boxes come in albumentations' own format, as shares of the image."""
    if kind == "mask":
        mask = labeled_pixels(np.asarray(value))
        return Labels(masks=mask[None] if mask.ndim == 2 else np.moveaxis(mask, 2, 0))
    if kind == "masks" and len(value):
        masks = np.stack([labeled_pixels(np.asarray(mask)) for mask in value])
        return Labels(masks=masks if masks.ndim == 3 else np.asarray(masks.any(3)))
    if kind == "bboxes" and len(value):
        return Labels(boxes=_floats(value)[:, :4] * _sides(size))
    if kind == "keypoints" and len(value):
        return Labels(points=_floats(value)[:, :2])
    return Labels()


def _moved(kind: str, value: Any, move: Move, size: tuple[int, int]) -> Any:
    """A label of an object that moved."""
    if kind == "mask":
        mask = np.asarray(value)
        return move.masks(mask) if mask.ndim == 2 else _move_channels(mask, move)
    if kind == "masks" and len(value):
        masks = [np.asarray(mask) for mask in value]
        return _like([move.masks(mask) if mask.ndim == 2 else _move_channels(mask, move) for mask in masks], value)
    if kind == "bboxes" and len(value):
        boxes = np.array(value)
        boxes[:, :4] = moved_boxes(move, _floats(value)[:, :4] * _sides(size)) / _sides(size)
        return boxes
    if kind == "keypoints" and len(value):
        points, before = np.array(value), _floats(value)
        points[:, :2] = moved_points(move, before[:, :2])
        if points.shape[1] >= 5:  # x, y, z, angle, scale
            there = ~is_missing(before[:, :2])
            points[there, 3] = move.directions(before[there, 3]) % (2 * np.pi)
            points[there, 4] = before[there, 4] * move.scale
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


def _fault(image: Any) -> str:
    """Why a composite cannot take the image's form without loss; empty if it can."""
    if not isinstance(image, np.ndarray):
        return f"not an image array: {type(image).__name__}; albumentations takes (H, W) or (H, W, C)"
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        return f"an image of {image.dtype}: ReplaceBackground takes uint8 and floats in 0 … 1"
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)):
        return f"an image array is (H, W) or (H, W, 1 | 3 | 4); got {image.shape}"
    return ""


def _doubt(images: list[Any], others: dict[str, Any], has_labels: bool) -> str:
    """What in a sample is not understood and might become wrong if its images changed, in words; or empty."""
    fault = next(filter(None, map(_fault, images)), "")
    if fault:
        return f"a second picture, such as a mask or a depth map: {fault.partition(':')[0]}"
    sizes = [image.shape[:2] for image in images]
    found = next((f"{name!r}, {text}" for name, value in others.items() if (text := as_picture(value, sizes))), "")
    return found or ("" if has_labels else untold_place(others, lambda value: False))


def _alpha(image: NDArray[Any]) -> NDArray[Any] | None:
    """How opaque each pixel of the image is, `(H, W)`; None if it does not say."""
    return image[..., 3] if image.ndim == 3 and image.shape[2] == 4 else None


def _write_back(composite: Image, image: NDArray[Any], move: Move | None) -> NDArray[Any]:
    """The composite `(H, W, 3)` uint8 in the form of the image: its channels, its element type and its alpha."""
    pixels = composite
    if image.ndim == 2 or image.shape[2] == 1:
        pixels = np.asarray(cv2.cvtColor(composite, cv2.COLOR_RGB2GRAY)).reshape(image.shape)
    if image.dtype != np.uint8:
        pixels = (pixels / np.float32(255)).astype(image.dtype)
    alpha = _alpha(image)
    if alpha is None:
        return pixels
    return np.dstack([pixels, alpha if move is None else move.plane(alpha)])
