"""Fill a cache: run the chain over a whole dataset, ahead of training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from augment.chain import Chain
from augment.errors import InputError
from augment.prewarming.local import Interrupted, run
from augment.prewarming.plan import Plan
from augment.prewarming.report import Failure, Report, StageReport
from augment.prewarming.source import Images, open_source
from augment.recipe import Recipe, as_recipe
from augment.store.cache import Cache

__all__ = ["Failure", "Interrupted", "Report", "StageReport", "prewarm"]


def prewarm(
    images: Images,
    cache: Cache | str | Path,
    recipe: str | Path | Recipe = "classic",
    *,
    variants: int = 1,
    workers: int | None = None,
    groups: Sequence[str | None] | None = None,
    progress: bool = True,
    missing: bool = False,
) -> Report:
    """Compute for every image what the cache lacks. Safe to stop at any moment and to run again.

    Args:
        images: a folder (searched below too; the first folder below it is the image's group, as in torchvision's
            ImageFolder), a list of paths, or a map-style Dataset whose items are an image or start with one. Pass the
            Dataset without random transforms: images are looked up by their pixels.
        cache: a Cache, or the folder of one, made if need be.
        recipe: a preset's name, a TOML file or a Recipe.
        variants: backgrounds for each image.
        workers: processes that decode, and threads for stages without a model; None is one per core, 0 none.
        groups: the class of each image, by position; it is kept out of the background.
        missing: only those of `images` that training looked for and did not find (the store notes them).
        progress: show a bar per stage on standard error (plain lines if that is not a terminal).

    Returns the counts; a bad image is listed in `failures` and the rest goes on. Raises InputError for an argument that
    cannot work, RecipeError, UnavailableError if a stage's library, weights or server is missing (before any work is done),
    StoreError where the cache cannot be written, and Interrupted, with the report so far, after Ctrl-C.
    """
    if variants < 1:
        raise InputError(f"variants: {variants} is not a number of backgrounds, 1 or more")
    if workers is not None and workers < 0:
        raise InputError(f"workers: {workers} is negative; 0 decodes in this process")
    source = open_source(images, groups)
    chain = Chain(as_recipe(recipe), cache if isinstance(cache, Cache) else Cache(cache))
    chain.check()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = chain.cache.misses(chain.reader.record).read() if missing else None
    return run(Plan(source, chain, variants, available if workers is None else workers, wanted), progress)
