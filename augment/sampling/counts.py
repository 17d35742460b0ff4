"""Counters that DataLoader workers and the main process share without a lock."""

from __future__ import annotations

from torch.utils.data import get_worker_info

from augment.sampling.shared import Shared

_SLOTS = 65  # the main process and 64 workers; if there are more, they share slots and may lose a count


class Counts:
    """How often each outcome happened, summed over all processes and copies that share this object (see `Shared`).

    Each process adds to its own row in shared memory, so that none waits for another.
    """

    def __init__(self, *names: str) -> None:
        self._columns = {name: column for column, name in enumerate(names)}
        self._shared = Shared(_SLOTS * len(names))

    def add(self, name: str) -> None:
        """Count one more of `name`."""
        worker = get_worker_info()
        slot = 0 if worker is None else 1 + worker.id % (_SLOTS - 1)
        self._shared.array[slot * len(self._columns) + self._columns[name]] += 1

    def totals(self) -> dict[str, int]:
        """Every counter's sum."""
        sums = self._shared.array.reshape(_SLOTS, -1).sum(0).tolist()
        return dict(zip(self._columns, sums, strict=True))
