"""The forms that torchvision's transforms give images: PIL images and tensors."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812  # torchvision's own name for it

from augment.artifacts import Image
from augment.imaging.metadata import with_metadata
from augment.imaging.pillow import rgb_image
from augment.sampling.labels import Labels, visible
from augment.sampling.placement import Move


def size_of(image: Any) -> tuple[int, int]:
    """Height and width."""
    return (image.height, image.width) if isinstance(image, PIL.Image.Image) else (image.shape[-2], image.shape[-1])


def fault(image: Any) -> str:
    """Why a composite cannot take the image's form without loss; empty if it can."""
    if isinstance(image, PIL.Image.Image):
        if image.mode not in ("RGB", "RGBA", "L", "LA"):
            return f'a PIL image of mode {image.mode}: call .convert("RGB") in the loader, before ReplaceBackground'
    elif image.dtype != torch.uint8 and not image.dtype.is_floating_point:
        return f"an image tensor of {image.dtype}: ReplaceBackground takes uint8 and floats in 0 … 1"
    elif image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        return f"an image tensor is (1 | 3 | 4, H, W); got {tuple(image.shape)}"
    return ""


def _alpha(image: Any) -> NDArray[Any] | None:
    """How opaque each pixel of the image is, `(H, W)` uint8 or float; None if it does not say."""
    if isinstance(image, PIL.Image.Image):
        return np.asarray(image.getchannel("A")) if image.mode.endswith("A") else None
    if image.shape[0] != 4:
        return None
    plane = torch.as_tensor(image)[3].detach().cpu()
    return np.asarray((plane.float() if plane.dtype == torch.bfloat16 else plane).numpy())


def visible_part(image: Any) -> Labels:
    """Where an image is opaque, if it is so in part: a shape that must go with the object."""
    return visible(_alpha(image))


def write_back(composite: Image, image: Any, move: Move | None) -> Any:
    """The composite `(H, W, 3)` uint8 in the form of the image: its type, mode, element type, alpha and device."""
    alpha = _alpha(image)
    if move is not None and alpha is not None:
        alpha = move.plane(alpha)
    write = _to_pil if isinstance(image, PIL.Image.Image) else _to_tensor
    return write(composite, alpha, image)


def _to_pil(composite: Image, alpha: NDArray[Any] | None, image: PIL.Image.Image) -> PIL.Image.Image:
    result = rgb_image(composite)
    if image.mode != "RGB":  # convert copies in any case
        result = result.convert(image.mode)
    if alpha is not None:
        result.putalpha(PIL.Image.fromarray(alpha))
    return with_metadata(result, image)


def _to_tensor(composite: Image, alpha: NDArray[Any] | None, image: torch.Tensor) -> torch.Tensor:
    if image.shape[0] == 1:
        composite = cv2.cvtColor(composite, cv2.COLOR_RGB2GRAY)[..., None]
    tensor = torch.from_numpy(composite).permute(2, 0, 1)
    tensor = F.to_dtype(tensor, image.dtype, scale=True).to(image.device)
    if alpha is not None:
        tensor = torch.cat([tensor, torch.from_numpy(np.array(alpha))[None].to(image)])
    return tv_tensors.wrap(tensor, like=image) if isinstance(image, tv_tensors.TVTensor) else tensor
