"""A name, or a mapping of names to weights of which each sample draws one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Any, Generic, TypeVar

from augment.errors import InputError

T = TypeVar("T", bound=str)


def as_weights(argument: str, value: Any, names: Collection[str]) -> dict[str, float]:
    """The weights by name; a name by itself has all the weight. Raises InputError, naming the argument."""
    if not isinstance(value, str | Mapping):
        raise InputError(f"{argument}: {value!r} is not a name or a mapping of names to weights")
    table = {value: 1.0} if isinstance(value, str) else dict(value)
    for name, weight in table.items():
        if name not in names:
            raise InputError(f"{argument}: {name!r} is not one of {', '.join(names)}")
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise InputError(f"{argument}: {name}: {weight!r} is not a weight, 0 or more")
    if sum(table.values()) <= 0:
        raise InputError(f"{argument}: no weight is above 0")
    return {str(name): weight for name, weight in table.items()}


class Weighted(Generic[T]):
    """Draws a name, each as often as its share of the weights."""

    def __init__(self, weights: Mapping[T, float]) -> None:
        self._names = [name for name, weight in weights.items() if weight]
        self._ends = list(accumulate(weights[name] for name in self._names))

    def pick(self, uniform: float) -> T:
        """The name that `uniform`, in [0, 1), falls on."""
        at = bisect_right(self._ends, uniform * self._ends[-1])
        return self._names[min(at, len(self._names) - 1)]
