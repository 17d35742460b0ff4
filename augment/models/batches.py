"""Batches on a device whose memory may not suffice, and how memory is given back."""

from __future__ import annotations

import gc
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from augment.errors import ItemFailed

logger = logging.getLogger(__name__)

# What torch and its libraries say, apart from OutOfMemoryError: after accelerate's `should_reduce_batch_size`.
_OUT_OF_MEMORY = re.compile(
    r"\bout of memory\b|can't allocate memory|not enough memory: you tried|Allocation failed|cannot allocate memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDNN_STATUS_NOT_SUPPORTED|CUSOLVER_STATUS_ALLOC_FAILED"
    r"|Invalid buffer size",
    re.IGNORECASE,
)

T = TypeVar("T")
R = TypeVar("R")


def in_batches(
    items: Sequence[T], batch_size: int, work: Callable[[Sequence[T]], Sequence[R]], too_large: str
) -> tuple[list[R | ItemFailed], int]:
    """`work` on the items in batches, halved whenever the device runs out of memory; also the batch size that fitted.

    An item that does not fit even on its own becomes `ItemFailed(too_large)`.
    """
    results: list[R | ItemFailed] = []
    while len(results) < len(items):
        batch = items[len(results) : len(results) + batch_size]
        try:
            results += work(batch)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.debug("out of memory: %s", error)
        # Only after the handler, because the error's traceback holds the tensors of the batch that failed.
        free_memory()
        if len(batch) == 1:
            results.append(ItemFailed(too_large))
        else:
            batch_size = len(batch) // 2
            logger.warning("out of memory with a batch of %d: going on with %d", len(batch), batch_size)
    return results, batch_size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that a device, or this machine, has no memory left: CUDA's, MPS's, the CPU's, cuBLAS's."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def free_memory() -> None:
    """Give back what dropped models held, on the GPU too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
