"""Two removers that must agree: what one of them gets wrong, the other seldom gets wrong in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, InstanceOf

from augment.artifacts import Matte
from augment.errors import ItemFailed
from augment.models.rembg import count_threads
from augment.stages.base import Item, Stage, digest, given_by_kind
from augment.stages.remove import Remover
from augment.stages.remove.grabcut import GrabCut
from augment.stages.remove.onnx import Onnx


@dataclass(frozen=True)
class Consensus(Remover):
    """The matte of the `first` remover if the `second` finds the same object; otherwise it is marked unusable.

    The confidence is how far they agree: the intersection over union (IoU) of their mattes, 0 to 1. What either thinks
    of its own matte does not count, because agreement is the better evidence; an empty or a full matte is unusable as
    ever. An item that either of them fails on fails.

    - `first`, `second`: removers, best two that work in different ways, such as a network and GrabCut.
    - `agreement`: the least IoU, 0 to 1, at which the matte is kept. Of 240 mattes of U²-Netp (`benchmarks mattes`,
      seeds 505 and 11) that GrabCut agreed with to 0.65, none was below 0.6 IoU with the truth; 0.8 keeps a sixth less.
    """

    backend: ClassVar[str] = "consensus"
    substages: ClassVar[Mapping[str, type[Stage]]] = {"first": Remover, "second": Remover}

    first: InstanceOf[Remover] = field(default_factory=Onnx)
    second: InstanceOf[Remover] = field(default_factory=GrabCut)
    agreement: Annotated[float, Field(ge=0, le=1)] = 0.65

    @property
    def batch(self) -> int:
        return max(self.first.batch, self.second.batch, 2 * count_threads())

    def __call__(self, **given: Any) -> list[Matte | ItemFailed]:
        """See `Remover`."""
        return [
            self._compare(first, second)
            for first, second in zip(_call(self.first, given), _call(self.second, given), strict=True)
        ]

    def reads(self, item: Item) -> str:
        """A digest of what the two removers read of the item."""
        found = {name: getattr(self, name).reads(item) for name in self.substages}
        return digest(found) if any(found.values()) else ""

    def _compare(self, first: Matte | ItemFailed, second: Matte | ItemFailed) -> Matte | ItemFailed:
        if isinstance(first, ItemFailed):
            return first
        if isinstance(second, ItemFailed):
            return second
        if not first.alpha.size:
            return replace(first, confidence=0.0)  # with the reason why it is empty
        agreement = _overlap(first, second)
        verdict = Matte.from_full(first.uncropped()).unusable
        if verdict is None and agreement < self.agreement:
            verdict = (
                f"doubtful: {self.first.backend} and {self.second.backend} differ, "
                f"IoU {agreement:.2f} is below {self.agreement:.2f}"
            )
        return replace(first, confidence=agreement, unusable=verdict)


def _call(remover: Remover, given: Mapping[str, Sequence[Any]]) -> Sequence[Matte | ItemFailed]:
    """The remover's mattes; on several images at once if it can."""
    own = {name: values for name, values in given.items() if name in given_by_kind(type(remover))}
    if not remover.parallel:
        return remover(**own)
    with ThreadPoolExecutor(count_threads()) as pool:
        items = [dict(zip(own, item, strict=True)) for item in zip(*own.values(), strict=True)]
        return list(pool.map(lambda item: remover(**{name: [value] for name, value in item.items()})[0], items))


def _overlap(one: Matte, other: Matte) -> float:
    """Intersection over union of what is at least half object, 0 to 1."""
    first, second = one.uncropped() >= 128, other.uncropped() >= 128
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / max(1, union)
