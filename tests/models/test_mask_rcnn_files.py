"""Checkpoints of Mask R-CNN as torchvision, its reference scripts, DataParallel and Lightning write them."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import detection

from augment.errors import UnavailableError
from augment.models.mask_rcnn_files import read_layout, read_tensors
from augment.stages.detect.mask_rcnn import MaskRcnn


def build(version: str) -> nn.Module:
    name = {"v1": "maskrcnn_resnet50_fpn", "v2": "maskrcnn_resnet50_fpn_v2"}[version]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3)


@pytest.fixture(scope="module")
def states() -> dict[str, Any]:
    return {version: build(version).state_dict() for version in ("v1", "v2")}


FORMS = {
    "plain": lambda state: state,
    "reference script": lambda state: {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(model="maskrcnn_resnet50_fpn", epochs=26),
        "epoch": 3,
    },
    "DataParallel": lambda state: OrderedDict((f"module.{name}", value) for name, value in state.items()),
    "Lightning": lambda state: {
        "state_dict": {f"model.{name}": value for name, value in state.items()} | {"metric.total": torch.zeros(1)},
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {},
    },
}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_networks_own_tensors(form: str, version: str, states: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(FORMS[form](states[version]), path)
    layout = read_layout(path)
    assert (layout.version, layout.outputs) == (version, 3)
    tensors = read_tensors(path, layout)
    assert tensors.keys() == states[version].keys()
    assert all(torch.equal(tensors[name], states[version][name]) for name in list(tensors)[::20])


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_checkpoint_of_either_version_is_loaded_and_checked(version: str, states: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.ckpt"
    torch.save(FORMS["Lightning"](states[version]), path)
    stage = MaskRcnn(str(path), names=("cat", "dog"))
    stage.check()
    network, _ = stage._network
    assert all(torch.equal(value, states[version][name]) for name, value in list(network.state_dict().items())[::20])


def test_old_names_and_frozen_norms_of_version_1_are_loaded(states: Any, tmp_path: Path) -> None:
    # As in torchvision's own file of 2019: no `num_batches_tracked`, other names in the pyramid and the heads.
    old = {}
    for name, value in states["v1"].items():
        if not name.endswith("num_batches_tracked"):
            for new, before in (("_blocks.{}.0.", "_blocks.{}."), ("rpn.head.conv.0.0.", "rpn.head.conv.")):
                for n in range(4):
                    name = name.replace(new.format(n), before.format(n))
            old[name] = value
    path = tmp_path / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    torch.save(old, path)
    network, _ = MaskRcnn(str(path), names=("cat", "dog"))._network
    assert network.backbone.body.bn1.eps == 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {"weight": torch.zeros(2)}, "not a state dict of torchvision's Mask R-CNN"),
        (lambda state: {k: v for k, v in state.items() if "mask" not in k}, "finds boxes and no masks"),
        (lambda state: {k: v for k, v in state.items() if "box_head" not in k}, "which are those that augment builds"),
    ],
)
def test_other_networks_are_named_before_the_work(change: Any, words: str, states: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(change(states["v2"]), path)
    with pytest.raises(UnavailableError, match=words):
        MaskRcnn(str(path), names=("cat", "dog")).check()
