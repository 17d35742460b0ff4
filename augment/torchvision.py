"""`ReplaceBackground` as a torchvision v2 transform."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812  # torchvision's own name for it

from augment.artifacts import Image
from augment.composite import Blend
from augment.errors import InputError
from augment.keys import to_rgb
from augment.labels import Labels
from augment.sampler import OnMiss, Sampler
from augment.store import Store

if TYPE_CHECKING:
    from augment.recipe import Recipe


class ReplaceBackground(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Put the object of an image onto another background, one that `augment.prewarm` made for this image.

    Put it first in the pipeline: an image is looked up by its decoded pixels, so a transform before it makes every
    lookup a miss. Takes PIL images (RGB, RGBA, L, LA), uint8 and float tensors (floats scaled 0 … 1, as torchvision
    does), `tv_tensors.Image`, alone or in any structure that v2 transforms take; returns what it was given. Boxes,
    masks and keypoints pass through: the object stays where it is.

    Args:
        store: an `augment.Cache`, what `augment.open_store` returns, or a path.
        p: probability of a sample's background being replaced.
        on_miss: what to do with an image that the store lacks: "keep" it, "raise" a MissError, or "compute" it here.
        blend: "alpha", or "feather" for an edge that fades inwards.
        harmonize: how far, 0 to 1, the object's colours move towards the background's.
        protect_labels: widen the matte to the sample's masks, and keep a sample as it is where its boxes or keypoints
            say that the matte is not the labelled object.
        recipe: which of the store's recipes: a name, a TOML file or a Recipe; the latest one where it is None.

    Random numbers come from torch's global generator, so the DataLoader's seeds hold. `counts` tells hits, misses,
    unusable mattes and samples kept to protect their labels, over all workers.
    """

    def __init__(
        self,
        store: Store | str | Path,
        *,
        p: float = 0.5,
        on_miss: OnMiss = "keep",
        blend: Blend = "alpha",
        harmonize: float = 0.0,
        protect_labels: bool = True,
        recipe: str | Path | Recipe | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise InputError(f"p: {p!r} is not within 0 … 1")
        self.p = p
        self.on_miss = on_miss
        self.blend = blend
        self.harmonize = harmonize
        self.protect_labels = protect_labels
        self._sampler = Sampler(
            store, on_miss=on_miss, blend=blend, harmonize=harmonize, protect_labels=protect_labels, recipe=recipe
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many images were "hits", "misses", "unusable" and "protected", in this process and its workers."""
        return self._sampler.counts.totals()

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for the sample whether it is replaced, and look up a composite for each of its images."""
        images = [leaf for leaf in flat_inputs if _is_image(leaf)]
        # Drawn whether needed or not, so that what is in the store does not change what later transforms draw.
        chance, *uniforms = torch.rand(1 + len(images)).tolist()
        if chance >= self.p:
            return {"composites": {}}
        labels = [_labels(leaf) for leaf in flat_inputs if not _is_image(leaf)]
        composites = {}
        for leaf, uniform in zip(images, uniforms, strict=True):
            write_back = _writer(leaf)
            composite = self._sampler.replace(to_rgb(leaf), uniform, labels)
            if composite is not None:
                composites[id(leaf)] = write_back(composite)
        return {"composites": composites}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image's composite, or the leaf as it came."""
        return params["composites"].get(id(inpt), inpt)

    def extra_repr(self) -> str:
        return f"{self._sampler.store}, recipe={self._sampler.filled.name}, {super().extra_repr()}"


def _is_image(leaf: Any) -> bool:
    labels = (tv_tensors.BoundingBoxes, tv_tensors.Mask, tv_tensors.KeyPoints, tv_tensors.Video)
    return not isinstance(leaf, labels)


def _labels(leaf: Any) -> Labels:
    """What a tv_tensor says of where objects are; a video says nothing."""
    if isinstance(leaf, tv_tensors.Mask):
        mask = leaf.detach().cpu().numpy() != 0
        return Labels(mask=mask.reshape(-1, *mask.shape[-2:]).any(0))
    if isinstance(leaf, tv_tensors.BoundingBoxes):
        return Labels(boxes=_upright_boxes(leaf))
    if isinstance(leaf, tv_tensors.KeyPoints):
        return Labels(points=leaf.cpu().numpy().reshape(-1, 2).astype(np.float64))
    return Labels()


def _upright_boxes(boxes: tv_tensors.BoundingBoxes) -> NDArray[np.float64]:
    if not tv_tensors.is_rotated_bounding_format(boxes.format):
        upright = F.convert_bounding_box_format(boxes, new_format="XYXY")
        return np.asarray(upright.cpu().numpy().reshape(-1, 4), np.float64)
    corners = F.convert_bounding_box_format(boxes, new_format="XYXYXYXY").cpu().numpy().reshape(-1, 4, 2)
    return np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float64)


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
        result = PIL.Image.fromarray(composite).convert(image.mode)
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
