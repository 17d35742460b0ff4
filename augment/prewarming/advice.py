"""What to do about a run of which too little can be used."""

from __future__ import annotations

from augment.prewarming.report import Report
from augment.recipe import Recipe

_MANY = 0.1  # of the images: from here on, another remover is worth its download

# By the remover's backend: what does better. Nothing is better than the dataset's own masks.
_BETTER = {"grabcut": "`--recipe light` does better, with a network of 4.6 MB", "masks": ""}
_BEST = (
    "the dataset's own masks do better (`--set remove.backend=masks`), or boxes around its objects "
    "(`--set remove.backend=sam2`)"
)


def better_remover(report: Report, recipe: Recipe) -> str | None:
    """One line that names a recipe or a remover that gives more usable mattes; None unless a tenth are unusable."""
    unusable = sum(report.unusable.values())
    better = _BETTER.get(recipe.stages["remove"].backend, _BEST)
    if not better or unusable < max(1, _MANY * report.images):
        return None
    return f"{unusable / report.images:.0%} of the mattes are unusable, and those images stay as they are: {better}"
