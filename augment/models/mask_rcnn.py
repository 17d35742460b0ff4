"""Find objects of named classes in an image: for mattes, and for whoever must know what a picture shows."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image
from augment.errors import WeightsError
from augment.weights import TorchvisionCheckpoint, pick_device

COCO = "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1"


@dataclass(frozen=True, eq=False)
class Detection:
    """One object: its class, a score from 0 to 1, `box` (left, top, right, bottom) in pixels, `mask` `(H, W)` bool."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


class Detector(Protocol):
    """`(H, W, 3)` uint8 RGB images of any sizes to what is found in each of them, best first."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class that it can find."""
        ...

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]: ...


@dataclass(frozen=True)
class MaskRCNN:
    """torchvision's `maskrcnn_resnet50_fpn_v2` (He et al. 2017; Li et al. 2021), with COCO's classes or with your own.

    `model` is the name of torchvision's weights, or a checkpoint of this architecture: a state dict as `.safetensors`,
    or as torch saves it, read with `weights_only=True`. `names` are the checkpoint's classes in the order of its
    outputs, without the background; empty means COCO's. Nothing scored below `score` is returned.
    """

    model: str = COCO
    names: tuple[str, ...] = ()
    score: float = 0.5
    device: str = "auto"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.names or tuple(name for name in _coco_names()[1:] if name != "N/A")

    def weights(self) -> TorchvisionCheckpoint:
        return TorchvisionCheckpoint(self.model)

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Raises WeightsError where the checkpoint cannot be had or does not fit."""
        import torch

        network, device = self._network
        labels = ("", *self.names) if self.names else _coco_names()
        found = []
        for image in images:
            # One at a time: in a batch the padding and the order of the sums shift masks by a pixel here and there.
            pixels = torch.tensor(image, device=device).permute(2, 0, 1).float() / 255
            with torch.inference_mode():
                (output,) = network([pixels])
            masks = (output["masks"][:, 0] >= 0.5).cpu().numpy()
            boxes, scores = output["boxes"].tolist(), output["scores"].tolist()
            found.append(
                [
                    Detection(labels[label], scores[n], tuple(boxes[n]), masks[n])
                    for n, label in enumerate(output["labels"].tolist())
                ]
            )
        return found

    @cached_property
    def _network(self) -> tuple[Any, str]:
        import torch
        from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

        device = pick_device(self.device)
        classes = 1 + len(self.names) if self.names else len(_coco_names())
        path = self.weights().resolve()
        state = _state_dict(path)
        outputs = state.get("roi_heads.box_predictor.cls_score.bias")
        if outputs is not None and len(outputs) != classes:
            names = f"{len(self.names)} names are given" if self.names else "no names are given, which means COCO's"
            raise WeightsError(
                f"{path}: the checkpoint has {len(outputs) - 1} classes besides the background, but {names}"
            )
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away; the caller's generator stays
            network = maskrcnn_resnet50_fpn_v2(
                weights=None, weights_backbone=None, num_classes=classes, box_score_thresh=self.score
            )
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise WeightsError(f"{path}: not a state dict of torchvision's maskrcnn_resnet50_fpn_v2") from error
        return network.to(device).eval(), device


def _coco_names() -> tuple[str, ...]:
    """COCO's classes by output, the background first; "N/A" where COCO has left a number out."""
    from torchvision.models import get_weight

    return tuple(get_weight(COCO).meta["categories"])


def _state_dict(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint; code in it is never run. torchvision's training script nests them under "model"."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state.get("model", state))
    except Exception as error:
        unsafe = isinstance(error, pickle.UnpicklingError)
        why = "it holds more than tensors, which augment does not load" if unsafe else "it is not a checkpoint"
        raise WeightsError(f"{path}: {why}; save the model's state_dict() as .safetensors") from error
