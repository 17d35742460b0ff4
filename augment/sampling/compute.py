"""`on_miss="compute"`: the artifacts that a cache lacks of an image, made by the process that needs them."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info

from augment.artifacts import Image
from augment.chain import Chain
from augment.errors import InputError, StoreError
from augment.recipe import Recipe
from augment.sampling.recipes import recipe_for
from augment.stages.base import Item
from augment.store.cache import Cache
from augment.store.records import Store, find_record

logger = logging.getLogger(__name__)


class OnTheFly:
    """Fills a cache with one image at a time; `record` is the cache's record of the recipe.

    May be pickled; each process loads its own models. Raises StoreError if the store cannot be written.
    """

    def __init__(self, store: Store, recipe: str | Path | Recipe | None) -> None:
        if not isinstance(store, Cache):
            raise StoreError(f'on_miss="compute" needs a store that can be written; {store} cannot')
        self.recipe = recipe_for(store, recipe)
        self.cache = store
        self._chain.add_record(variants=1)
        self.record = find_record(store, self.recipe.record(variants=1).background)

    def compute(self, image: Image, key: str) -> None:
        """Make what the cache lacks of the image `(H, W, 3)` uint8 RGB; a failure is logged.

        Raises InputError in a forked worker if a stage runs on CUDA.
        """
        self._refuse_forked_cuda()
        outcome = self._chain.complete(self._chain.read(Item(image, key)), self.record.variants)
        for work, reason in outcome.failed:
            logger.warning("the image %s could not be computed: %s", work.item.key, reason)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_chain"}

    @cached_property
    def _chain(self) -> Chain:
        return Chain(self.recipe, self.cache)

    def _refuse_forked_cuda(self) -> None:
        """CUDA does not survive a fork: once the main process has used it, no forked worker can."""
        if get_worker_info() is None or not torch.cuda._is_in_bad_fork():
            return
        for name, stage in self.recipe.all_stages.items():
            if stage.target().startswith("cuda"):
                raise InputError(
                    f'on_miss="compute": {name} ({stage.backend}) needs CUDA, which a forked DataLoader worker cannot '
                    "use: run `augment prewarm` before training, or pass the DataLoader "
                    'multiprocessing_context="spawn", or set the device of that stage to "cpu" in the recipe'
                )
