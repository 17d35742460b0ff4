"""How a process that composites is set up."""

from __future__ import annotations

import cv2
import numpy as np
from torch.utils.data import get_worker_info

_LARGEST = 31 * 2**20  # bytes; up to 32 MB, freed memory changes glibc's thresholds


def set_up() -> None:
    """Called once in each process, before its first image."""
    # By default glibc returns the memory of every image to the kernel, and gets it back page by page for the next one,
    # which takes longer than compositing. It stops once a large block was freed. The block itself is never touched.
    np.empty(_LARGEST, np.uint8)
    if get_worker_info() is not None:
        # One thread, as torch gives each of its workers: there are many, and OpenCV's pool does not survive a fork.
        cv2.setNumThreads(0)
