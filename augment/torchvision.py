"""`ReplaceBackground` as a torchvision v2 transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten  # as v2.Transform does
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2

from augment.artifacts import Alpha, Image
from augment.errors import InputError
from augment.files import check_file
from augment.imaging.pillow import rgb_image
from augment.keys import Key, Window, image_key, to_rgb
from augment.sampling.doubts import as_picture, pixels_of, untold_place
from augment.sampling.outcomes import Replacement
from augment.sampling.replacing import Replacing
from augment.sampling.report import NAME, report_of
from augment.sampling.sampler import DRAWS, Draws
from augment.sampling.tv_copy_paste import CopyPaste
from augment.sampling.tv_images import fault, size_of, visible_part, write_back
from augment.sampling.tv_labels import labels_of, moved

__all__ = [
    "CopyPaste",
    "ImageLoader",
    "Key",
    "KeyedImageFolder",
    "Layers",
    "ReplaceBackground",
    "ReplaceBackgroundBatch",
]

_TOLD = (tv_tensors.Image, tv_tensors.BoundingBoxes, tv_tensors.Mask, tv_tensors.KeyPoints, tv_tensors.Video)
_PROBES = ((0.2, 0.3), (0.7, 0.4), (0.4, 0.8))  # points in shares of width and height; none is another's mirror image
_CHANGED = (0, 0)  # the original size of an image that was not only resized: none is a resize of it


class _Origin(NamedTuple):
    """A sample's key, and points of its image that v2 transforms move as they move the image."""

    key: Key
    points: tv_tensors.KeyPoints

    @classmethod
    def of(cls, key: str, image: Any) -> _Origin:
        """The origin of an image that no transform has changed yet."""
        size = size_of(image)
        points = torch.tensor(_PROBES) * torch.tensor([size[1], size[0]])
        return cls(Key(key, size), tv_tensors.KeyPoints(points, canvas_size=size))

    def now(self, size: tuple[int, int]) -> Key:
        """The key of the image as it is now, `(H, W)`: whether it was only resized is known if its points were moved
        with it."""
        if getattr(self.points, "canvas_size", None) != size:
            return Key(self.key)
        shares = torch.as_tensor(self.points) / torch.tensor([size[1], size[0]])
        slack = 1.0 / torch.tensor([size[1], size[0]])
        was_resized = bool(((shares - torch.tensor(_PROBES)).abs() <= slack).all())
        return self.key if was_resized else Key(self.key, _CHANGED)


class _Transform(Replacing, v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """What torchvision calls for each sample: checks its inputs, draws and looks up, and applies what was found."""

    _transformed_types = (torch.Tensor, PIL.Image.Image, Key)

    _takes_views = True

    def forward(self, *inputs: Any) -> Any:
        """Transform a sample of any structure."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        leaves, structure = tree_flatten(sample)
        self.check_inputs(leaves)
        needed = self._needs_transform_list(leaves)
        origin = _find_origin(sample) if len(leaves) > 1 else None
        flat = [leaf for leaf, is_needed in zip(leaves, needed, strict=True) if is_needed]
        doubt = _doubt(sample, leaves, needed) if len(leaves) > 1 else ""
        drawn = [self.make_params(flat, origin, doubt) for _ in range(self.views)]
        results = [
            self._views(leaf, drawn) if is_needed and (origin is None or leaf is not origin.points) else leaf
            for leaf, is_needed in zip(leaves, needed, strict=True)
        ]
        result = tree_unflatten(results, structure)
        if not self.report:
            return result
        reports = tuple(report_of(params["outcome"]) for params in drawn)
        return _with_report(result, reports if self.views > 1 else reports[0])

    def _views(self, leaf: Any, drawn: list[dict[str, Any]]) -> Any:
        """What becomes of an image or a label: a tuple if there are several views."""
        if self.views == 1 or isinstance(leaf, Key) or _is_users_own(leaf):
            return self.transform(leaf, drawn[0])
        return tuple(self.transform(leaf, params) for params in drawn)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise InputError if no image can be replaced, or if it is not clear which image a Key belongs to."""
        # torchvision's rule for which plain tensors are images.
        needed = zip(flat_inputs, self._needs_transform_list(flat_inputs), strict=True)
        leaves = [leaf for leaf, is_needed in needed if is_needed]
        images = [leaf for leaf in leaves if _is_image(leaf)]
        keys = [leaf for leaf in leaves if isinstance(leaf, Key)]
        # One that cannot be replaced beside one that can is something else: a mask, a depth map.
        if images and all(map(fault, images)):
            raise InputError(fault(images[0]))
        if keys and (len(keys) > 1 or len(images) > 1):
            raise InputError(f"a sample of {len(images)} images with {len(keys)} keys: a Key goes with a single image")

    def make_params(self, flat_inputs: list[Any], origin: _Origin | None = None, doubt: str = "") -> dict[str, Any]:
        """Draw whether the sample is replaced, and look up a new background for each of its images.

        `doubt` says what in the sample is not understood, in words.
        """
        images = [leaf for leaf in flat_inputs if _is_image(leaf)]
        # Drawn whether needed or not, so that what is in the store does not change what later transforms draw.
        chance, *uniforms = torch.rand(1 + DRAWS * len(images), dtype=torch.float64, device="cpu").tolist()
        params: dict[str, Any] = {"replacements": {}, "move": None, "outcome": None}
        if chance >= self.p:
            return params
        if not images:
            return params | {"outcome": self.sampler.no_image(doubt)}
        pixels = doubt or pixels_of(images)
        if isinstance(pixels, str):
            return params | {"outcome": self.sampler.doubt(pixels)}
        told = [leaf for leaf in flat_inputs if not _is_image(leaf) and (origin is None or leaf is not origin.points)]
        labels = [labels_of(leaf) for leaf in told]
        key = next((leaf for leaf in flat_inputs if isinstance(leaf, Key)), None)
        movable = len(images) == 1 or not any(labels)
        params["outcome"] = outcome = self.sampler.replace(
            pixels,
            [Draws.of(uniforms[DRAWS * number : DRAWS * (number + 1)]) for number in range(len(images))],
            labels,
            [key if origin is None else origin.now(size_of(images[0]))] * len(images),
            attached=[shape for image in images if (shape := visible_part(image))],
            movable=movable and not any(map(_is_users_own, flat_inputs)),
        )
        found = outcome.replacements
        if found:
            params["replacements"] = {id(image): one for image, one in zip(images, found, strict=True)}
            params["move"] = found[-1].move
        return params

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """What becomes of an image, or a label moved with its object."""
        if _is_image(inpt):
            return self.replaced(inpt, params["replacements"].get(id(inpt)))
        return inpt if params["move"] is None else moved(inpt, params["move"])

    def replaced(self, image: Any, replacement: Replacement | None) -> Any:
        """What becomes of an image; with None it stays unchanged."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        sampler = self.sampler
        settings = {
            "recipe": sampler.record.name,
            "p": self.schedule,
            "source": sampler.source,
            "on_miss": sampler.on_miss,
            "placement": sampler.placement,
            "blend": sampler.blend,
            "harmonize": sampler.harmonize,
            "protect_labels": sampler.protect_labels,
            "report": self.report or None,
            "views": self.views if self.views > 1 else None,
        }
        named = [f"{name}={value}" for name, value in settings.items() if value is not None]
        return ", ".join([f"{sampler.store}", *named])


class ReplaceBackground(_Transform):
    """Put the object of an image onto another background, one that `augment.prewarm` made.

    Put it first in the pipeline: an image is looked up by its decoded pixels, so any transform that runs before it
    causes a cache miss. (If one that only resizes must come before it, let the sample carry a `Key`; see
    `KeyedImageFolder`.) Takes PIL images (RGB, RGBA, L, LA), uint8 and float tensors (floats scaled to 0 … 1, as
    torchvision does) and `tv_tensors.Image`, in any structure that v2 transforms take, and returns what it was given.
    Boxes, masks and keypoints move with the object. With `report=True` a dict gets an entry "report", and any other
    sample the report as a further, last part: `(image, label, report)`.

    Random numbers come from torch's global generator, so the DataLoader's seeds hold. `counts` reports hits, misses
    and why samples were returned unchanged, over all workers. For the arguments see `__init__`.

    A sample with anything that might become wrong and is not told as a label (a second picture that is not in the
    store, an array of the image's size, plain boxes) is returned unchanged, and so is one with a video.

    Calls raise InputError for an image that cannot be written back in its own form (a palette image, say), and
    MissError with `on_miss="raise"`.
    """

    def replaced(self, image: Any, replacement: Replacement | None) -> Any:
        """The image's composite, in the image's own form."""
        return image if replacement is None else write_back(replacement.composite, image, replacement.move)


class Layers(NamedTuple):
    """Images in layers, for `ReplaceBackgroundBatch` to blend: uint8 tensors, of one image or of a batch.

    `object` and `background` are `(…, H, W, 3)` RGB, `alpha` `(…, H, W, 1)`: 0 background … 255 object. An image that
    stays unchanged is all object.
    """

    object: torch.Tensor
    alpha: torch.Tensor
    background: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layers:
        """The same on another device."""
        return Layers(*(layer.to(device, non_blocking=non_blocking) for layer in self))


class ReplaceBackgroundBatch(_Transform):
    """`ReplaceBackground` in two halves, for loops that augment whole batches on the GPU.

    In the workers, its `collate` looks samples up and batches them, each image as `Layers`; in the training loop the
    module blends a batch on the device it is on. All images of a batch must have the same size. The Dataset returns
    them without any transform except a resize (with a `Key`, see `ReplaceBackground`). The arguments are those of
    `ReplaceBackground`, and so are the draws: the same seed gives the same composites, within one grey level.

        replace = ReplaceBackgroundBatch("path/to/cache", p=0.5)
        for layers, labels in DataLoader(dataset, batch_size=64, num_workers=8, collate_fn=replace.collate):
            images = replace(layers.to("cuda"))  # (64, 3, H, W) uint8
    """

    def collate(self, samples: list[Any]) -> Any:
        """Samples as torch's `default_collate` batches them, with `Layers` for each image."""
        split = super().forward
        return default_collate([split(sample) for sample in samples])

    def forward(self, layers: Layers) -> torch.Tensor:
        """The composites `(B, 3, H, W)` uint8, in channels-last memory, on the layers' device."""
        weight = layers.alpha.float() / 255
        blended = torch.lerp(layers.background.float(), layers.object.float(), weight)
        return blended.round_().to(torch.uint8).movedim(-1, -3)

    def replaced(self, image: Any, replacement: Replacement | None) -> Layers | torch.Tensor:
        """The image's object and background, not blended yet."""
        if replacement is None and fault(image):  # a mask or a depth map: its own values
            return torch.as_tensor(image if isinstance(image, torch.Tensor) else np.array(image))
        if replacement is None:
            pixels = to_rgb(image)
            return _layers(pixels, np.full(pixels.shape[:2], 255, np.uint8), np.zeros_like(pixels))
        layer, background = replacement.layer, replacement.background
        colors = np.zeros_like(background)
        alpha = np.zeros(background.shape[:2], np.uint8)
        colors[layer.window], alpha[layer.window] = layer.colors, layer.alpha
        return _layers(colors, alpha, background)


def _layers(colors: Image, alpha: Alpha, background: Image) -> Layers:
    # Torch takes no array that cannot be written to.
    arrays = (np.require(array, requirements="W") for array in (colors, alpha[..., None], background))
    return Layers(*map(torch.from_numpy, arrays))


class KeyedImageFolder(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """An ImageFolder that passes each image to its transform with its Key, so that `ReplaceBackground` may come later.

    `transform` must be a v2 transform (or Compose), which takes any number of inputs. Before `ReplaceBackground` it
    may resize and convert; what was cropped or flipped stays unchanged. With your own `loader`, whose pixels may differ
    from those that were prewarmed, the key is the file's path. `with_key=True` returns `((image, key), target)`, for
    `ReplaceBackgroundBatch.collate`.
    """

    def __init__(self, *args: Any, with_key: bool = False, **kwargs: Any) -> None:
        """The arguments are ImageFolder's."""
        super().__init__(*args, **kwargs)
        self.with_key = with_key

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        image, more = self.loader(path), []
        if self.transform is not None or self.with_key:
            origin = _Origin.of(image_key(image) if self.loader is default_loader else path, image)
            if self.transform is not None:
                image, origin, *more = self.transform(image, origin)
            if self.with_key:
                more = [origin.now(size_of(image)), *more]
            if more:  # its key, and what the transform reports
                image = (image, *more)
        return image, target if self.target_transform is None else self.target_transform(target)


class ImageLoader:
    """Loads image files with the pixels that `augment prewarm` sees: `ImageFolder(root, loader=ImageLoader())`.

    ImageFolder's own loader clips 16-bit grayscale images to white. This one uses the top 8 bits of their values, or
    with `window` (low, high) makes these two values 0 and 255; pass the window that was prewarmed with. Raises
    InputError for an image whose range is not clear.
    """

    def __init__(self, window: Window | None = None) -> None:
        self.window = window

    def __call__(self, path: str | Path) -> PIL.Image.Image:
        """The image in mode RGB."""
        check_file(path)
        with PIL.Image.open(path) as file:
            return rgb_image(to_rgb(file, self.window))


def _with_report(sample: Any, report: Any) -> Any:
    """The sample with its report: a dict under "report", anything else as the last part of a tuple or a list."""
    if isinstance(sample, dict):
        return {**sample, NAME: report}
    if isinstance(sample, list):
        return [*sample, report]
    return (*sample, report) if isinstance(sample, tuple) else (sample, report)


def _is_image(leaf: Any) -> bool:
    labels = (tv_tensors.BoundingBoxes, tv_tensors.Mask, tv_tensors.KeyPoints, tv_tensors.Video, Key)
    return not isinstance(leaf, labels) and not _is_users_own(leaf)


def _is_users_own(leaf: Any) -> bool:
    """Whether it is of a tv_tensor class that torchvision does not know."""
    return isinstance(leaf, tv_tensors.TVTensor) and not isinstance(leaf, _TOLD)


def _find_origin(sample: Any) -> _Origin | None:
    if isinstance(sample, _Origin):
        return sample
    if not isinstance(sample, list | tuple):
        return None
    return next((found for value in sample if (found := _find_origin(value)) is not None), None)


def _doubt(sample: Any, leaves: list[Any], needed: list[bool]) -> str:
    """What in a sample is not understood and might become wrong if its images changed, in words; or empty."""
    pairs = list(zip(leaves, needed, strict=True))
    images = [leaf for leaf, is_needed in pairs if is_needed and _is_image(leaf)]
    for leaf in leaves:
        if isinstance(leaf, tv_tensors.Video):
            return "a video"
    second = next(filter(None, map(fault, images)), "")
    if second:  # what to do about an image is wrong advice for a mask
        return f"a second picture, such as a mask or a depth map: {second.partition(':')[0]}"
    sizes = [size_of(image) for image in images]
    others = [leaf for leaf, is_needed in pairs if not is_needed and isinstance(leaf, torch.Tensor | np.ndarray)]
    if not images:
        return type(others[0]).__name__ if others else ""
    found = next((text for leaf in others if (text := as_picture(leaf, sizes))), "")
    if not found and not any(isinstance(leaf, tv_tensors.TVTensor) and not _is_image(leaf) for leaf in leaves):
        found = untold_place(sample, lambda value: isinstance(value, tv_tensors.TVTensor | PIL.Image.Image))
    return found
