"""`augment doctor`: whether this machine has what a recipe needs, found out without loading a model."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from augment.errors import WeightsError
from augment.recipe import Recipe


@dataclass(frozen=True)
class Finding:
    """One stage's state: `weights` is where its model lies, or what becomes of it; `problem` is None where all is
    there."""

    kind: str
    backend: str
    where: str
    weights: str
    problem: str | None


def examine(recipe: Recipe) -> list[Finding]:
    """One finding a stage. Asks the network where weights are missing, at most for seconds; downloads nothing."""
    findings = []
    for kind, stage in recipe.everything.items():
        if stage.parts:
            continue  # each of them has a finding of its own
        where, weights, problem = "-", "none needed", None
        try:
            where = stage.where()
            model = stage.weights()
            if model is not None:
                weights = str(model.find() or f"{model.model}: to be fetched at first use")
            stage.check()
        except WeightsError as error:
            weights, problem = "missing", str(error)
        findings.append(Finding(kind, stage.backend, where, weights, problem))
    return findings


def free_resources(folder: Path) -> list[tuple[str, int]]:
    """Bytes free by name: memory, each CUDA device's, and the disk that `folder` lies on."""
    import torch

    found = [("disk", shutil.disk_usage(folder).free)]
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        found.insert(0, ("memory", os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    for device in range(torch.cuda.device_count()):
        found.append((f"cuda:{device} ({torch.cuda.get_device_name(device)})", torch.cuda.mem_get_info(device)[0]))
    return found
