"""Mask R-CNN: find objects of named classes in an image."""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from augment.artifacts import Image
from augment.errors import UnavailableError
from augment.models.mask_rcnn_files import Layout, read_layout, read_tensors
from augment.models.weights import PROBE_SECONDS, Weights, pick_device

if TYPE_CHECKING:
    from torchvision.models.detection import MaskRCNN

COCO = "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1"

_BUILDERS = {"v1": "maskrcnn_resnet50_fpn", "v2": "maskrcnn_resnet50_fpn_v2"}
_WITHOUT_EPSILON = "maskrcnn_resnet50_fpn_coco-"  # torchvision sets the epsilon of these weights' norms to 0


@dataclass(frozen=True, eq=False)
class Detection:
    """One object: its class, a score from 0 to 1, `box` (left, top, right, bottom) in pixels, `mask` `(H, W)` bool."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class TorchvisionCheckpoint(Weights):
    """A local checkpoint file, or the name of torchvision's own, "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1"."""

    model: str

    libraries = ("torchvision",)

    def find(self) -> Path | None:
        if (local := Path(self.model).expanduser()).is_file():
            return local
        cached = self._cached()
        return cached if cached.is_file() else None

    def _url(self) -> str:
        from torchvision.models import get_weight

        try:
            return str(get_weight(self.model).url)
        except (ValueError, KeyError) as error:
            raise UnavailableError(
                f"{self.model}: there is no such file, and torchvision has no weights of that name"
            ) from error

    def _cached(self) -> Path:
        import torch

        return Path(torch.hub.get_dir(), "checkpoints", self._url().rpartition("/")[2])

    def _fetch(self) -> Path:
        import torch

        path = self._cached()
        path.parent.mkdir(parents=True, exist_ok=True)
        # torchvision's file names end in the start of their SHA-256; the download is checked against it.
        digest = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(self._url(), str(path), hash_prefix=digest, progress=False)
        return path

    def _probe(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self._url(), method="HEAD"), timeout=PROBE_SECONDS).close()

    @property
    def tried(self) -> str:
        return str(self._cached())

    @property
    def command(self) -> str:
        return f"python -c \"from torchvision.models import get_weight as g; g('{self.model}').get_state_dict()\""


@dataclass(frozen=True)
class MaskRcnnModel:
    """The settings that every role of torchvision's Mask R-CNN has: `maskrcnn_resnet50_fpn` (He et al. 2017) or
    `maskrcnn_resnet50_fpn_v2` (Li et al. 2021), whichever the checkpoint is of.

    - `model`: torchvision's weights by name, or a checkpoint: a state dict as `.safetensors`, or as torch saves it, on
      its own or as torchvision's reference scripts, DataParallel and Lightning keep it, read with `weights_only=True`.
    - `names`: the classes of your checkpoint, in the order of its outputs, without the background; empty for COCO's.
    - `score`: objects scored below it are left out, 0 to 1.
    - `device`: as torch names it, or "auto".
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"device"})

    model: str = COCO
    names: tuple[str, ...] = ()
    score: Annotated[float, Field(ge=0, le=1)] = 0.5
    device: str = "auto"

    @property
    def labels(self) -> tuple[str, ...]:
        """Every class that it can find."""
        return self.names or tuple(name for name in _coco_names()[1:] if name != "N/A")

    def weights(self) -> TorchvisionCheckpoint:
        return TorchvisionCheckpoint(self.model)

    def target(self) -> str:
        return pick_device(self.device)

    def check(self) -> None:
        """Raise UnavailableError if there is no such checkpoint or device, or if the checkpoint does not fit."""
        self.target()
        self.weights().check()
        if (path := self.weights().find()) is not None:
            self._fitting(path)

    def detect(self, images: Sequence[Image]) -> list[list[Detection]]:
        """`(H, W, 3)` uint8 RGB images of any sizes to what is found in each of them, best first.

        Raises UnavailableError if the checkpoint cannot be had or does not fit.
        """
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
    def _network(self) -> tuple[MaskRCNN, str]:
        import torch
        from torchvision.models import detection

        device = self.target()
        path = self.weights().resolve()
        layout = self._fitting(path)
        build = getattr(detection, _BUILDERS[layout.version])
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away; the caller's generator stays
            network = build(
                weights=None, weights_backbone=None, num_classes=layout.outputs, box_score_thresh=self.score
            )
        try:
            network.load_state_dict(read_tensors(path, layout))
        except RuntimeError as error:
            raise UnavailableError(f"{path}: not a state dict of torchvision's {_BUILDERS[layout.version]}") from error
        if path.name.startswith(_WITHOUT_EPSILON):
            for module in network.backbone.body.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = 0.0
        return network.to(device).eval(), device

    def _fitting(self, path: Path) -> Layout:
        """The checkpoint's layout. Raises UnavailableError if it has another number of classes than there are names."""
        layout = read_layout(path)
        classes = 1 + len(self.names) if self.names else len(_coco_names())
        if layout.outputs != classes:
            names = f"{len(self.names)} names are given" if self.names else "no names are given, which means COCO's"
            raise UnavailableError(
                f"{path}: the checkpoint has {layout.outputs - 1} classes besides the background, but {names}"
            )
        return layout


def _coco_names() -> tuple[str, ...]:
    """COCO's classes by output, the background first; "N/A" for the numbers that COCO has left out."""
    from torchvision.models import get_weight

    return tuple(get_weight(COCO).meta["categories"])
