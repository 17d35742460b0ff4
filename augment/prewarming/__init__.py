"""Fill a cache: run the chain over a whole dataset, ahead of training."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from augment.chain import Chain
from augment.errors import InputError
from augment.keys import Window
from augment.prewarming.advice import better_remover
from augment.prewarming.local import Ended, Interrupted, run
from augment.prewarming.plan import Plan
from augment.prewarming.report import Failure, Report, StageReport
from augment.prewarming.source import Images, open_source
from augment.recipe import Recipe, as_recipe
from augment.store.cache import Cache

logger = logging.getLogger(__name__)

__all__ = ["Ended", "Failure", "Interrupted", "Report", "StageReport", "prewarm"]


def prewarm(
    images: Images,
    cache: Cache | str | Path,
    recipe: str | Path | Recipe = "classic",
    *,
    variants: int = 1,
    workers: int | None = None,
    groups: Sequence[str | None] | str | Path | None = None,
    progress: bool = True,
    missing: bool = False,
    window: Window | None = None,
    batch_timeout: float | None = None,
) -> Report:
    """Compute what the cache lacks for each image. It can be stopped at any time and run again.

    Args:
        images: a folder (with its subfolders; the first folder level is the image's group, as in torchvision's
            ImageFolder), a CSV table with a column "path" and perhaps one "group", a list of paths, or a map-style
            Dataset whose items are an image or start with one. Pass the Dataset without random transforms, because
            images are looked up by their pixels.
        cache: a Cache, or its folder, which is created if it does not exist.
        recipe: a preset's name, a TOML file or a Recipe.
        variants: number of backgrounds per image.
        workers: number of processes that decode images, and of threads for stages without a model. None uses one per
            core; 0 decodes in this process.
        groups: the class of each image, in order, or a CSV table with the columns "path" and "group"; it is kept out of
            the background.
        progress: show a progress bar per stage on standard error, or below the cell of a notebook (which needs
            ipywidgets); elsewhere plain lines.
        missing: process only those of `images` that training looked for and did not find, as noted in the store.
        window: (low, high), the values of images of more than 8 bits that become black and white. Use the same window
            in training: `augment.torchvision.ImageLoader(window)`.
        batch_timeout: seconds that a stage may take for a batch, including the loading of its model; None is no limit.
            A batch that takes longer is tried item by item, and an item that does so fails. Each stage then runs in
            processes of its own, which takes a few seconds to start them, and a script needs
            `if __name__ == "__main__":`.

    Returns counts; a bad image is listed in `failures` and does not stop the run. Raises InputError for an invalid
    argument, RecipeError, UnavailableError if a stage's library, weights or server is missing (before any work is
    done) and StoreError if the cache cannot be written. Ctrl-C raises Interrupted when the current batch is done, and a
    second Ctrl-C raises it immediately. A stage that fails for every item raises Ended, an UnavailableError. Both have
    the report so far as `report`.
    """
    if variants < 1:
        raise InputError(f"variants: {variants} is not a number of backgrounds, 1 or more")
    if workers is not None and workers < 0:
        raise InputError(f"workers: {workers} is negative; 0 decodes in this process")
    if window is not None and not (len(window) == 2 and float(window[0]) < float(window[1])):
        raise InputError(f"window: {window!r} is not a range (low, high)")
    if batch_timeout is not None and not 0 < batch_timeout < math.inf:
        raise InputError(f"batch_timeout: {batch_timeout} is not a number of seconds; None is no limit")
    source = open_source(images, groups, window)
    chain = Chain(as_recipe(recipe), cache if isinstance(cache, Cache) else Cache(cache))
    chain.check()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = chain.cache.misses(chain.reader.record).read() if missing else None
    if missing and not wanted:
        raise InputError(
            f"missing: training has noted no misses in {chain.cache} with the recipe {chain.recipe.name!r}; train with "
            "it first, or leave `missing` out"
        )
    report = run(
        Plan(source, chain, variants, available if workers is None else workers, wanted), progress, batch_timeout
    )
    if wanted and not report.images:
        report.remarks.append(
            f"none of these images is among the {len(wanted)} that training did not find: they reach the transform "
            "decoded or resized differently, so put it first in the pipeline, or let samples carry a Key"
        )
    if advice := better_remover(report, chain.recipe):
        report.remarks.append(advice)
    logger.info("%s", report)
    return report
