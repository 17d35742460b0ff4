"""How often a transform applies, epoch by epoch, in the main process and in workers that persist."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from augment.errors import InputError
from augment.sampling.checks import check_range
from augment.sampling.shared import Shared

Schedule: TypeAlias = Callable[[int], float]


@dataclass(frozen=True)
class Linear:
    """Along a line from `start` in epoch 0 to `end` in epoch `epochs - 1`, and `end` from then on."""

    start: float
    end: float
    epochs: int

    def __post_init__(self) -> None:
        _check_ends(self.start, self.end, self.epochs)

    def __call__(self, epoch: int) -> float:
        return self.start + (self.end - self.start) * _progress(epoch, self.epochs)


@dataclass(frozen=True)
class Cosine:
    """Like Linear, along half a cosine: slow at both ends."""

    start: float
    end: float
    epochs: int

    def __post_init__(self) -> None:
        _check_ends(self.start, self.end, self.epochs)

    def __call__(self, epoch: int) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * _progress(epoch, self.epochs))) / 2


class Probability:
    """A probability, or a schedule of it with an epoch that all processes share.

    Raises InputError if `p` is neither, or not within 0 … 1 in this epoch.
    """

    def __init__(self, p: float | Schedule) -> None:
        self.p = p
        self._epoch = Shared(1)
        self.now()

    def set_epoch(self, epoch: int) -> None:
        """Tell every process and copy that shares this object (see `Shared`) which epoch it is."""
        self._epoch.array[0] = epoch

    def now(self) -> float:
        """The probability in this epoch."""
        p = self.p(int(self._epoch.array[0])) if callable(self.p) else self.p
        check_range("p", p)
        return p


_NAMED: dict[str, type[Linear] | type[Cosine]] = {"linear": Linear, "cosine": Cosine}


def plain_schedule(p: float | Schedule) -> float | dict[str, Any]:
    """A probability or schedule as plain data. Raises InputError for any other function."""
    for name, schedule in _NAMED.items():
        if isinstance(p, schedule):
            return {"schedule": name, "start": p.start, "end": p.end, "epochs": p.epochs}
    if callable(p):
        raise InputError(f"p: {p!r} cannot be serialized; use one of augment.sampling.schedules: {', '.join(_NAMED)}")
    return p


def as_schedule(p: float | Schedule | Mapping[str, Any]) -> float | Schedule:
    """A probability or schedule from itself or from what `plain_schedule` made of it. Raises InputError."""
    if not isinstance(p, Mapping):
        return p
    settings = dict(p)
    name = settings.pop("schedule", None)
    if name not in _NAMED:
        raise InputError(f"p: {p!r} names no schedule of {', '.join(_NAMED)}")
    try:
        return _NAMED[name](**settings)
    except TypeError as error:
        raise InputError(f"p: {p!r} is not a schedule: {error}") from error


def _progress(epoch: int, epochs: int) -> float:
    return min(1.0, max(0.0, epoch / max(1, epochs - 1)))


def _check_ends(start: float, end: float, epochs: int) -> None:
    for name, value in (("start", start), ("end", end)):
        check_range(name, value)
    if not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"epochs: {epochs!r} is not a number of epochs, 1 or more")
