"""`ReplaceBackground` as a torchvision v2 transform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812  # torchvision's own name for it

from augment.artifacts import Alpha, Image
from augment.composite import Blend
from augment.errors import InputError
from augment.keys import image_key, to_rgb
from augment.labels import Labels
from augment.pillow import rgb_image
from augment.placement import Move, Placement
from augment.pools import Source
from augment.sampler import DRAWS, Draws, OnMiss, Replacement, Sampler
from augment.schedules import Chance, Schedule
from augment.store import Store

if TYPE_CHECKING:
    from augment.recipe import Recipe


class Key(str):
    """The key or the path of a sample's image, to go with it through transforms that change its pixels."""


class ReplaceBackground(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Put the object of an image onto another background, one that `augment.prewarm` made.

    Put it first in the pipeline: an image is looked up by its decoded pixels, so a transform before it makes every
    lookup a miss. (Where one must come before that only resizes, let the sample carry a `Key`; see `KeyedImageFolder`.)
    Takes PIL images (RGB, RGBA, L, LA), uint8 and float tensors (floats scaled 0 … 1, as torchvision does),
    `tv_tensors.Image`, alone or in any structure that v2 transforms take; returns what it was given. Boxes, masks and
    keypoints move where the object moves.

    Args:
        store: an `augment.Cache`, what `augment.open_store` returns, or a path.
        p: probability of a sample's background being replaced, or a function of the epoch that gives it, such as
            `augment.schedules.Linear`; then call `set_epoch` before each epoch.
        source: where backgrounds come from: "own", "pool", "pool:same", "pool:other", any of these with "plates:"
            before it, a mapping of weights over them, or an `augment.pools.Source`, which explains them all.
        on_miss: what to do with an image that the store lacks: "keep" it, "compute" what is missing here, "raise" a
            MissError, or, where only its background is lacking, take one from the "pool".
        placement: how the object may be moved, an `augment.placement.Placement`; None keeps it where it is. It also
            stays where a label speaks of anything but the object, or where several images share a sample's labels.
        blend: "alpha", "feather" for an edge that fades inwards, or "poisson" for one whose step in colour is halved.
        harmonize: how far, 0 to 1, the object's colours move towards the background's, but never to another colour.
        protect_labels: keep every labelled pixel. The matte is widened to the sample's masks; a sample is kept as it
            is where its boxes or keypoints say that the matte is not the labelled object; and a sample with any such
            label is blended by alpha alone, without `harmonize`.
        recipe: which of the store's recipes: a name, a TOML file or a Recipe; the latest one where it is None.

    Random numbers come from torch's global generator, so the DataLoader's seeds hold. `counts` tells hits, misses and
    why samples were kept, over all workers.
    """

    _transformed_types = (torch.Tensor, PIL.Image.Image, Key)

    def __init__(
        self,
        store: Store | str | Path,
        *,
        p: float | Schedule = 0.5,
        source: str | Mapping[str, float] | Source = "own",
        on_miss: OnMiss = "keep",
        placement: Placement | None = None,
        blend: Blend = "alpha",
        harmonize: float = 0.0,
        protect_labels: bool = True,
        recipe: str | Path | Recipe | None = None,
    ) -> None:
        super().__init__()
        self._chance = Chance(p)
        self.p = p
        self.source = source
        self.on_miss = on_miss
        self.placement = placement
        self.blend = blend
        self.harmonize = harmonize
        self.protect_labels = protect_labels
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

    @property
    def counts(self) -> dict[str, int]:
        """How many images were "hits", "misses" and so on, in this process and its workers.

        "unusable": the matte is; "mismatched": a `Key`'s matte has another shape; "protected: mask" (box, keypoint):
        kept because of such a label; "unmoved": hits whose labels forbade moving the object.
        """
        return self._sampler.counts.totals()

    def set_epoch(self, epoch: int) -> None:
        """Tell the schedule `p` which epoch begins, in this process and its workers, those that persist too."""
        self._chance.set_epoch(epoch)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for the sample whether it is replaced, and make a composite of each of its images."""
        images = [leaf for leaf in flat_inputs if _is_image(leaf)]
        # Drawn whether needed or not, so that what is in the store does not change what later transforms draw.
        chance, *uniforms = torch.rand(1 + DRAWS * len(images), dtype=torch.float64).tolist()
        if chance >= self._chance.now():
            return {"composites": {}, "move": None}
        labels = [_labels(leaf) for leaf in flat_inputs if not _is_image(leaf)]
        keys = [str(leaf) for leaf in flat_inputs if isinstance(leaf, Key)]
        if keys and (len(keys) > 1 or len(images) > 1):
            raise InputError(f"a sample of {len(images)} images with {len(keys)} keys: a Key goes with a single image")
        key = keys[0] if keys else None
        composites, move = {}, None
        for number, leaf in enumerate(images):
            write_back = self._writer(leaf)
            draws = Draws.of(uniforms[DRAWS * number : DRAWS * (number + 1)])
            replacement = self._sampler.replace(
                to_rgb(leaf), draws, labels, key, movable=len(images) == 1 or not any(labels)
            )
            if replacement is not None:
                composites[id(leaf)] = write_back(replacement)
                move = replacement.move
        return {"composites": composites, "move": move}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image's composite, a label moved with its object, or the leaf as it came."""
        if params["move"] is not None and not _is_image(inpt):
            return _moved(inpt, params["move"])
        return params["composites"].get(id(inpt), inpt)

    def _writer(self, leaf: Any) -> Callable[[Replacement], Any]:
        """What becomes of a leaf that gets a new background. Raises InputError where it cannot be that."""
        write_back = _writer(leaf)
        return lambda replacement: write_back(replacement.composite())

    def extra_repr(self) -> str:
        # torchvision itself leaves out what is not a number or a text.
        more = [
            f"{name}={getattr(self, name)}"
            for name in ("p", "source", "placement")
            if _is_compound(getattr(self, name))
        ]
        return ", ".join([f"{self._sampler.store}", f"recipe={self._sampler.filled.name}", super().extra_repr(), *more])


class Layers(NamedTuple):
    """Images in layers, for `ReplaceBackgroundBatch` to blend: uint8 tensors, one image's or a batch's.

    `object` and `background` are `(…, H, W, 3)` RGB, `alpha` `(…, H, W, 1)`: 0 background … 255 object. An image that
    stays as it is is all object.
    """

    object: torch.Tensor
    alpha: torch.Tensor
    background: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layers:
        """The same on another device."""
        return Layers(*(layer.to(device, non_blocking=non_blocking) for layer in self))


class ReplaceBackgroundBatch(nn.Module):
    """`ReplaceBackground` in two halves, for loops that augment whole batches on the GPU.

    In the workers, its `collate` looks samples up and batches them, each image as `Layers`; in the training loop the
    module blends a batch on the device it is on. The images of a batch have to be of one size; the Dataset gives them
    without any transform but a resize (with a `Key`, see `ReplaceBackground`). The arguments are those of
    `ReplaceBackground`, and so are the draws: the same seed gives the same composites, within one grey level.

        replace = ReplaceBackgroundBatch("path/to/cache", p=0.5)
        for layers, labels in DataLoader(dataset, batch_size=64, num_workers=8, collate_fn=replace.collate):
            images = replace(layers.to("cuda"))  # (64, 3, H, W) uint8
    """

    def __init__(self, store: Store | str | Path, **arguments: Any) -> None:
        super().__init__()
        self._split = _Split(store, **arguments)

    @property
    def counts(self) -> dict[str, int]:
        """As `ReplaceBackground.counts`."""
        return self._split.counts

    def set_epoch(self, epoch: int) -> None:
        """As `ReplaceBackground.set_epoch`."""
        self._split.set_epoch(epoch)

    def collate(self, samples: list[Any]) -> Any:
        """Samples as torch's `default_collate` batches them, each image in them as `Layers`."""
        return default_collate([self._split(sample) for sample in samples])

    def forward(self, layers: Layers) -> torch.Tensor:
        """The composites `(B, 3, H, W)` uint8, in channels-last memory, on the layers' device."""
        weight = layers.alpha.float() / 255
        blended = torch.lerp(layers.background.float(), layers.object.float(), weight)
        return blended.round_().to(torch.uint8).movedim(-1, -3)


class _Split(ReplaceBackground):
    """`ReplaceBackground` up to the point where the layers are blended."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        result = super().transform(inpt, params)
        if result is not inpt or not _is_image(inpt):
            return result
        image = to_rgb(inpt)
        return _layers(image, np.full(image.shape[:2], 255, np.uint8), np.zeros_like(image))

    def _writer(self, leaf: Any) -> Callable[[Replacement], Any]:
        def write(replacement: Replacement) -> Layers:
            layer, background = replacement.layer, replacement.background
            colors = np.zeros_like(background)
            alpha = np.zeros(background.shape[:2], np.uint8)
            colors[layer.window], alpha[layer.window] = layer.colors, layer.alpha
            return _layers(colors, alpha, background)

        return write


def _layers(colors: Image, alpha: Alpha, background: Image) -> Layers:
    # Torch takes no array that cannot be written to.
    arrays = (np.require(array, requirements="W") for array in (colors, alpha[..., None], background))
    return Layers(*map(torch.from_numpy, arrays))


class KeyedImageFolder(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """An ImageFolder that hands each image to its transform with its Key, so that `ReplaceBackground` may come later.

    `transform` has to be a v2 transform (or Compose), which takes any number of inputs; before `ReplaceBackground` it
    may resize and convert, but neither crop nor flip. With a `loader` of your own, whose pixels may differ from those
    that were prewarmed, the key is the file's path.
    """

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        image = self.loader(path)
        if self.transform is not None:
            key = Key(image_key(image) if self.loader is default_loader else path)
            image = self.transform(image, key)[0]
        return image, target if self.target_transform is None else self.target_transform(target)


def _is_compound(value: Any) -> bool:
    return value is not None and not isinstance(value, str | int | float)


def _is_image(leaf: Any) -> bool:
    labels = (tv_tensors.BoundingBoxes, tv_tensors.Mask, tv_tensors.KeyPoints, tv_tensors.Video, Key)
    return not isinstance(leaf, labels)


def _labels(leaf: Any) -> Labels:
    """What a tv_tensor says of where objects are; a video says nothing."""
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
    """A label that lies on an object that moved; it keeps its type, format and element type."""
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


def _writer(image: Any) -> Callable[[Image], Any]:
    """How a composite `(H, W, 3)` uint8 becomes what the image was. Raises InputError where it cannot without loss."""
    if isinstance(image, PIL.Image.Image):
        return _pil_writer(image)
    if image.dtype != torch.uint8 and not image.dtype.is_floating_point:
        raise InputError(f"an image tensor of {image.dtype}: ReplaceBackground takes uint8 and floats in 0 … 1")
    return lambda composite: _to_tensor(composite, image)


def _pil_writer(image: PIL.Image.Image) -> Callable[[Image], PIL.Image.Image]:
    if image.mode not in ("RGB", "RGBA", "L", "LA"):
        raise InputError(
            f'a PIL image of mode {image.mode}: call .convert("RGB") in the loader, before ReplaceBackground'
        )

    def write(composite: Image) -> PIL.Image.Image:
        result = rgb_image(composite)
        if image.mode != "RGB":  # convert copies in any case
            result = result.convert(image.mode)
        if image.mode.endswith("A"):
            result.putalpha(image.getchannel("A"))
        return result

    return write


def _to_tensor(composite: Image, image: torch.Tensor) -> torch.Tensor:
    channels = image.shape[0]
    if channels == 1:
        composite = cv2.cvtColor(composite, cv2.COLOR_RGB2GRAY)[..., None]
    tensor = torch.from_numpy(composite).permute(2, 0, 1)
    tensor = F.to_dtype(tensor, image.dtype, scale=True).to(image.device)
    if channels == 4:
        tensor = torch.cat([tensor, torch.as_tensor(image)[3:]])
    return tv_tensors.wrap(tensor, like=image) if isinstance(image, tv_tensors.TVTensor) else tensor
