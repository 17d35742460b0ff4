"""`augment doctor`: whether this machine has what a recipe needs, found out without loading a model."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from augment.errors import RecipeError, UnavailableError
from augment.recipe import Recipe


@dataclass(frozen=True)
class Finding:
    """One stage's state: `target` is the device it will run on or the server it asks, `weights` is where its model is,
    or what will happen to it; `problem` is None if nothing is missing."""

    kind: str
    backend: str
    target: str
    weights: str
    problem: str | None


def examine(recipe: Recipe) -> list[Finding]:
    """One finding per stage. Asks the network if weights are missing, for a few seconds at most; downloads nothing."""
    findings = []
    for kind, stage in recipe.all_stages.items():
        # Stages inside a stage have findings of their own.
        target, weights, problem = "-", "none of its own" if stage.substages else "none needed", None
        try:
            target = target if stage.substages else stage.target()
            model = stage.weights()
            if model is not None:
                weights = "missing"
                weights = str(model.find() or f"{model.model}: will be downloaded at first use")
            stage.check()
        except (UnavailableError, RecipeError) as error:
            problem = str(error)
        findings.append(Finding(kind, stage.backend, target, weights, problem))
    return findings


def free_resources(folder: Path) -> list[tuple[str, int]]:
    """Bytes free by name: memory, each CUDA device's, and the disk that `folder` is on."""
    import torch

    found = [("disk", shutil.disk_usage(folder).free)]
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        found.insert(0, ("memory", os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    for device in range(torch.cuda.device_count()):
        found.append((f"cuda:{device} ({torch.cuda.get_device_name(device)})", torch.cuda.mem_get_info(device)[0]))
    return found
