"""ControlNets (Zhang et al. 2023): a second network that keeps what a pipeline draws to the edges of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from augment.artifacts import Image
from augment.errors import UnavailableError
from augment.imaging.fit import stretch
from augment.models.diffusion_files import INDEX, LIBRARIES
from augment.models.weights import HubWeights, missing_safetensors, read_json

if TYPE_CHECKING:
    import torch

_CANNY = (100, 200)  # the thresholds that canny ControlNets were trained with
_KIND, _DENOISER = "ControlNetModel", "UNet2DConditionModel"  # of Stable Diffusion and SDXL
_SAME = ("cross_attention_dim", "addition_embed_type")  # settings that are alike if both have the same base


@dataclass(frozen=True)
class ControlNet:
    """A ControlNet of the model's own base, which is a Stable Diffusion or SDXL.

    - `model`: its name on the hub, or a folder; `revision` of its files.
    - `control`: what it follows: "canny", the edges of the picture (Canny 1986), or "plate", the picture itself, for
      ControlNets called tile.
    - `weight`: how closely; 0 not at all.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    model: str
    control: Literal["canny", "plate"] = "canny"
    weight: Annotated[float, Field(ge=0, le=2)] = 1.0
    revision: str | None = None

    def weights(self) -> ControlNetWeights:
        return ControlNetWeights(self.model, self.revision)

    def arguments(self, pictures: Sequence[Image], size: tuple[int, int], known: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a pipeline, which takes those that are `known`, for pictures drawn at `size` (height,
        width)."""
        import torch

        seen = np.stack([self._control(stretch(picture, *size)) for picture in pictures])
        # Pipelines that start from an image take the control besides.
        name = "control_image" if "control_image" in known else "image"
        control = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255
        return {name: control, "controlnet_conditioning_scale": self.weight}

    def _control(self, picture: Image) -> Image:
        if self.control == "plate":
            return picture
        edges = cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), *_CANNY)
        return np.repeat(edges[..., None], 3, axis=2)


@dataclass(frozen=True)
class ControlNetWeights(HubWeights):
    """A ControlNet's files; `resolve` gives the folder for `from_pretrained`."""

    libraries = LIBRARIES
    index = "config.json"
    patterns = ("config.json", "diffusion_pytorch_model*")

    def variant_in(self, folder: Path) -> str | None:
        """None if there are plain weights in `folder`, else "fp16" if there are such."""
        return "fp16" if missing_safetensors(folder) and not missing_safetensors(folder, "fp16") else None

    def load(self, dtype: torch.dtype) -> Any:
        """The network. Raises UnavailableError if it cannot be had."""
        import diffusers

        folder = self.resolve()
        return getattr(diffusers, _KIND).from_pretrained(
            folder, variant=self.variant_in(folder), torch_dtype=dtype, use_safetensors=True
        )

    def _lacks(self, folder: Path) -> str | None:
        if not (folder / self.index).is_file():
            return self.index
        return missing_safetensors(folder, self.variant_in(folder))


def check_fit(controlnet: ControlNet, base: Path, model: str, table: str) -> None:
    """Raise UnavailableError if the ControlNet, where it is on this machine, belongs to another base than the pipeline
    in the folder `base`, which the recipe calls `model`."""
    weights = controlnet.weights()
    folder = weights.find()
    if folder is None:
        return
    own, way_out = (
        read_json(folder / weights.index),
        f"{table}.controlnet: take one that was trained for {model}'s base",
    )
    if own.get("_class_name") != _KIND:
        raise UnavailableError(f"{controlnet.model} is a {own.get('_class_name')}, and not a {_KIND}; {way_out}")
    part = "unet" if "unet" in read_json(base / INDEX) else "transformer"
    path = base / part / "config.json"
    if not path.is_file():
        return
    other = read_json(path)
    if other.get("_class_name") != _DENOISER:
        raise UnavailableError(
            f"{table}.controlnet: {model} is a {other.get('_class_name')}, and only models with a {_DENOISER} (Stable "
            "Diffusion, SDXL) take one here"
        )
    for name in _SAME:
        if own.get(name) != other.get(name):
            raise UnavailableError(
                f"{controlnet.model} is a ControlNet for another base model ({name} is {own.get(name)}, and "
                f"{other.get(name)} in {model}); {way_out}"
            )
