"""Counters that DataLoader workers and the main process share without a lock."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

_SLOTS = 65  # the main process and 64 workers; if there are more, they share slots and may lose a count


class Counts:
    """How often each outcome happened, summed over all processes that got this object by fork or from a DataLoader.

    Each process adds to its own row in shared memory, so that none waits for another.
    """

    def __init__(self, *names: str) -> None:
        self._columns = {name: column for column, name in enumerate(names)}
        self._rows = torch.zeros(_SLOTS, len(names), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._array: NDArray[np.int64] | None = None

    def add(self, name: str) -> None:
        """Count one more of `name`."""
        worker = get_worker_info()
        slot = 0 if worker is None else 1 + worker.id % (_SLOTS - 1)
        if self._array is None:  # the same memory: indexing the tensor itself takes fifty times as long
            self._array = self._rows.numpy()
        self._array[slot, self._columns[name]] += 1

    def totals(self) -> dict[str, int]:
        """Every counter's sum."""
        sums = self._rows.sum(0).tolist()
        return {name: sums[column] for name, column in self._columns.items()}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None}
