"""Numbers that a process shares with its workers, and with copies of the object that holds them."""

from __future__ import annotations

import mmap
import uuid
from multiprocessing.context import get_spawning_popen
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

_known: WeakValueDictionary[str, Shared] = WeakValueDictionary()


class Shared:
    """Whole numbers in memory that this process shares with its workers, forked or spawned, and with all copies.

    `array` is `(n,)` int64, 0 at first. `copy.deepcopy` returns the object itself, and so does unpickling in this
    process or one that was forked from it; anywhere else, an unpickled object starts with the numbers that it had. It
    holds no file descriptor until a worker is spawned.
    """

    def __init__(self, size: int) -> None:
        self._name = uuid.uuid4().hex
        self._tensor: torch.Tensor | None = None
        # Forked processes share anonymous memory; spawned ones cannot.
        self._use(np.frombuffer(mmap.mmap(-1, 8 * size), np.int64))

    def _use(self, array: NDArray[np.int64]) -> None:
        self.array = array
        _known[self._name] = self

    def __copy__(self) -> Shared:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self

    def __reduce__(self) -> Any:
        if get_spawning_popen() is None:
            return _restored, (self._name, self.array.tolist())
        if self._tensor is None:
            values = torch.from_numpy(self.array.copy())
            self._tensor = values.share_memory_()  # type: ignore[no-untyped-call]
            self._use(values.numpy())
        return _attached, (self._name, self._tensor)


def _restored(name: str, values: list[int]) -> Shared:
    """The object of that name if this process shares its memory, else a new one."""
    found = _known.get(name)
    if found is None:
        found = Shared(len(values))
        found.array[:] = values
    return found


def _attached(name: str, tensor: torch.Tensor) -> Shared:
    """The object in a spawned process."""
    found = _known.get(name)
    if found is None:
        found = Shared.__new__(Shared)
        found._name, found._tensor = name, tensor
        found._use(tensor.numpy())
    return found
