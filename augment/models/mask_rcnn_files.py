"""Checkpoints of torchvision's Mask R-CNN, as its users have them: which version they are of, and their tensors."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from augment.errors import UnavailableError
from augment.models.headers import tensor_shapes

# Where training code puts the weights: torchvision's reference scripts, Lightning, and others.
_NESTED = ("model", "state_dict", "model_state_dict", "module", "weights")
_CLASSES = "roi_heads.box_predictor.cls_score.bias"
_MASKS = "roi_heads.mask_predictor.mask_fcn_logits.weight"
_HEADS: Mapping[str, Literal["v1", "v2"]] = {
    "roi_heads.box_head.fc6.weight": "v1",  # maskrcnn_resnet50_fpn
    "roi_heads.box_head.0.0.weight": "v2",  # maskrcnn_resnet50_fpn_v2
}


@dataclass(frozen=True)
class Layout:
    """What a checkpoint holds: the network's version, its outputs with the background, and the names' prefix, such as
    "module." of DataParallel or "model." of Lightning."""

    version: Literal["v1", "v2"]
    outputs: int
    prefix: str


def read_layout(path: Path) -> Layout:
    """The layout of a checkpoint; reads its head, not its tensors. Raises UnavailableError."""
    shapes = _shapes(path)
    for name, shape in shapes.items():
        if name.endswith(_CLASSES) and len(shape) == 1:
            prefix = name.removesuffix(_CLASSES)
            break
    else:
        raise UnavailableError(
            f"{path}: not a state dict of torchvision's Mask R-CNN (maskrcnn_resnet50_fpn or its _v2): it has no "
            f"{_CLASSES}"
        )
    version = next((version for head, version in _HEADS.items() if prefix + head in shapes), None)
    if version is None or f"{prefix}backbone.body.conv1.weight" not in shapes:
        raise UnavailableError(
            f"{path}: a detector, but not torchvision's maskrcnn_resnet50_fpn or its _v2, which are those that augment "
            "builds"
        )
    if prefix + _MASKS not in shapes:
        raise UnavailableError(f"{path}: it finds boxes and no masks (Faster R-CNN): use a Mask R-CNN")
    return Layout(version, shape[0], prefix)


def read_tensors(path: Path, layout: Layout) -> dict[str, Any]:
    """The network's tensors by torchvision's names. Raises UnavailableError."""
    state = _load(path)
    return {
        name.removeprefix(layout.prefix): tensor for name, tensor in state.items() if name.startswith(layout.prefix)
    }


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".safetensors":
        try:
            return tensor_shapes(path)
        except (OSError, ValueError) as error:
            raise UnavailableError(f"{path}: it is not a checkpoint: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in _load(path).items()}


def _load(path: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint by its name; code in it is never run. Those in a ZIP file are mapped, not read."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        # torchvision's reference scripts keep their arguments beside the weights: plain values in a plain object.
        with torch.serialization.safe_globals([argparse.Namespace]):
            zipped = zipfile.is_zipfile(path)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        for _ in _NESTED:
            inner = next((state[name] for name in _NESTED if isinstance(state.get(name), Mapping)), None)
            if inner is None:
                break
            state = inner
        return {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    except Exception as error:
        unsafe = isinstance(error, pickle.UnpicklingError)
        why = "it holds more than tensors, which augment does not load" if unsafe else "it is not a checkpoint"
        raise UnavailableError(f"{path}: {why}; save the model's state_dict() as .safetensors") from error
