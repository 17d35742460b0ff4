"""`ReplaceBackground` as a torchvision v2 transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812  # torchvision's own name for it

from augment.artifacts import Alpha, Image
from augment.errors import InputError
from augment.imaging.pillow import rgb_image
from augment.keys import Window, image_key, to_rgb
from augment.sampling.labels import Labels
from augment.sampling.placement import Move
from augment.sampling.replacing import Replacing
from augment.sampling.sampler import DRAWS, Draws, Replacement


class Key(str):
    """The key or the path of a sample's image, which goes with it through transforms that change its pixels."""


class _Transform(Replacing, v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """What torchvision calls for each sample: checks its inputs, draws and looks up, and applies what was found."""

    _transformed_types = (torch.Tensor, PIL.Image.Image, Key)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise InputError if an image cannot be replaced, or if it is not clear which image a Key belongs to."""
        # torchvision's rule for which plain tensors are images.
        needed = zip(flat_inputs, self._needs_transform_list(flat_inputs), strict=True)
        leaves = [leaf for leaf, is_needed in needed if is_needed]
        images = [leaf for leaf in leaves if _is_image(leaf)]
        keys = [leaf for leaf in leaves if isinstance(leaf, Key)]
        for image in images:
            _check_image(image)
        if keys and (len(keys) > 1 or len(images) > 1):
            raise InputError(f"a sample of {len(images)} images with {len(keys)} keys: a Key goes with a single image")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether the sample is replaced, and look up a new background for each of its images."""
        images = [leaf for leaf in flat_inputs if _is_image(leaf)]
        # Drawn whether needed or not, so that what is in the store does not change what later transforms draw.
        chance, *uniforms = torch.rand(1 + DRAWS * len(images), dtype=torch.float64).tolist()
        if chance >= self.p:
            return {"replacements": {}, "move": None}
        labels = [_labels(leaf) for leaf in flat_inputs if not _is_image(leaf)]
        key = next((str(leaf) for leaf in flat_inputs if isinstance(leaf, Key)), None)
        movable = len(images) == 1 or not any(labels)
        replacements, move = {}, None
        for number, image in enumerate(images):
            draws = Draws.of(uniforms[DRAWS * number : DRAWS * (number + 1)])
            replacement = self.sampler.replace(to_rgb(image), draws, labels, key, movable)
            if replacement is not None:
                replacements[id(image)] = replacement
                move = replacement.move
        return {"replacements": replacements, "move": move}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """What becomes of an image, or a label moved with its object."""
        if _is_image(inpt):
            return self.replaced(inpt, params["replacements"].get(id(inpt)))
        return inpt if params["move"] is None else _moved(inpt, params["move"])

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
        }
        named = [f"{name}={value}" for name, value in settings.items() if value is not None]
        return ", ".join([f"{sampler.store}", *named])


class ReplaceBackground(_Transform):
    """Put the object of an image onto another background, one that `augment.prewarm` made.

    Put it first in the pipeline: an image is looked up by its decoded pixels, so any transform that runs before it
    causes a cache miss. (If one that only resizes must come before it, let the sample carry a `Key`; see
    `KeyedImageFolder`.) Takes PIL images (RGB, RGBA, L, LA), uint8 and float tensors (floats scaled to 0 … 1, as
    torchvision does) and `tv_tensors.Image`, in any structure that v2 transforms take, and returns what it was given.
    Boxes, masks and keypoints move with the object.

    Random numbers come from torch's global generator, so the DataLoader's seeds hold. `counts` reports hits, misses
    and why samples were returned unchanged, over all workers. For the arguments see `__init__`.

    Calls raise InputError for an image that cannot be written back in its own form (a palette image, say), and
    MissError with `on_miss="raise"`.
    """

    def replaced(self, image: Any, replacement: Replacement | None) -> Any:
        """The image's composite, in the image's own form."""
        return image if replacement is None else _write_back(replacement.composite, image)


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

    def replaced(self, image: Any, replacement: Replacement | None) -> Layers:
        """The image's object and background, not blended yet."""
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
    may resize and convert, but neither crop nor flip. With your own `loader`, whose pixels may differ from those that
    were prewarmed, the key is the file's path.
    """

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        image = self.loader(path)
        if self.transform is not None:
            key = Key(image_key(image) if self.loader is default_loader else path)
            image = self.transform(image, key)[0]
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
        with PIL.Image.open(path) as file:
            return rgb_image(to_rgb(file, self.window))


def _is_image(leaf: Any) -> bool:
    labels = (tv_tensors.BoundingBoxes, tv_tensors.Mask, tv_tensors.KeyPoints, tv_tensors.Video, Key)
    return not isinstance(leaf, labels)


def _labels(leaf: Any) -> Labels:
    """Where a tv_tensor says that objects are; a video says nothing."""
    if isinstance(leaf, tv_tensors.Mask):
        mask = leaf.detach().cpu().numpy() != 0
        return Labels(masks=mask.reshape(-1, *mask.shape[-2:]))
    if isinstance(leaf, tv_tensors.BoundingBoxes):
        return Labels(boxes=_upright_boxes(leaf))
    if isinstance(leaf, tv_tensors.KeyPoints):
        return Labels(points=_float_array(leaf).reshape(-1, 2))
    return Labels()


def _upright_boxes(boxes: tv_tensors.BoundingBoxes) -> NDArray[np.float64]:
    if not tv_tensors.is_rotated_bounding_format(boxes.format):
        return _float_array(F.convert_bounding_box_format(boxes, new_format="XYXY")).reshape(-1, 4)
    corners = _float_array(F.convert_bounding_box_format(boxes, new_format="XYXYXYXY")).reshape(-1, 4, 2)
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def _moved(label: Any, move: Move) -> Any:
    """A label of an object that moved; it keeps its type, format and element type."""
    if isinstance(label, tv_tensors.Mask):
        masks = move.masks(label.detach().cpu().numpy())
        return tv_tensors.wrap(torch.from_numpy(masks).to(label.device), like=label)
    if isinstance(label, tv_tensors.KeyPoints):
        return tv_tensors.wrap(_like(move.points(_float_array(label)), label), like=label)
    if not isinstance(label, tv_tensors.BoundingBoxes):
        return label
    if not tv_tensors.is_rotated_bounding_format(label.format):
        between, moved = "XYXY", move.boxes(_upright_boxes(label))
    else:
        between = "XYXYXYXY"
        corners = _float_array(F.convert_bounding_box_format(label, new_format=between)).reshape(-1, 4, 2)
        moved = move.corners(corners)
        if np.linalg.det(move.matrix[:, :2]) < 0:
            moved = moved[:, [1, 0, 3, 2]]  # mirrored, the first corner is the second
        moved = moved.reshape(-1, 8)
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(moved), format=between, canvas_size=label.canvas_size)
    boxes = F.convert_bounding_box_format(boxes, new_format=label.format)
    return tv_tensors.wrap(_like(_float_array(boxes), label).reshape(label.shape), like=label)


def _float_array(tensor: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().cpu().double().numpy(), np.float64)


def _like(values: NDArray[np.float64], tensor: torch.Tensor) -> torch.Tensor:
    found = torch.from_numpy(values)
    return (found if tensor.dtype.is_floating_point else found.round()).to(tensor.dtype).to(tensor.device)


def _check_image(image: Any) -> None:
    """Raise InputError unless a composite can take the image's form without loss."""
    if isinstance(image, PIL.Image.Image):
        if image.mode not in ("RGB", "RGBA", "L", "LA"):
            raise InputError(
                f'a PIL image of mode {image.mode}: call .convert("RGB") in the loader, before ReplaceBackground'
            )
    elif image.dtype != torch.uint8 and not image.dtype.is_floating_point:
        raise InputError(f"an image tensor of {image.dtype}: ReplaceBackground takes uint8 and floats in 0 … 1")
    elif image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise InputError(f"an image tensor is (1 | 3 | 4, H, W); got {tuple(image.shape)}")


def _write_back(composite: Image, image: Any) -> Any:
    """The composite `(H, W, 3)` uint8 in the form of the image: its type, mode, element type, alpha and device."""
    return _to_pil(composite, image) if isinstance(image, PIL.Image.Image) else _to_tensor(composite, image)


def _to_pil(composite: Image, image: PIL.Image.Image) -> PIL.Image.Image:
    result = rgb_image(composite)
    if image.mode != "RGB":  # convert copies in any case
        result = result.convert(image.mode)
    if image.mode.endswith("A"):
        result.putalpha(image.getchannel("A"))
    return result


def _to_tensor(composite: Image, image: torch.Tensor) -> torch.Tensor:
    channels = image.shape[0]
    if channels == 1:
        composite = cv2.cvtColor(composite, cv2.COLOR_RGB2GRAY)[..., None]
    tensor = torch.from_numpy(composite).permute(2, 0, 1)
    tensor = F.to_dtype(tensor, image.dtype, scale=True).to(image.device)
    if channels == 4:
        tensor = torch.cat([tensor, torch.as_tensor(image)[3:]])
    return tv_tensors.wrap(tensor, like=image) if isinstance(image, tv_tensors.TVTensor) else tensor
