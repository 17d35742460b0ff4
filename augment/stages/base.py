"""What every stage of the chain has in common, and the item it works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image
from augment.weights import Weights, pick_device


@dataclass(frozen=True, eq=False)
class Item:
    """One image on its way through the chain: its pixels, its key, and what its dataset says of it.

    `source` is its path where it has one, `group` its class, `mask` the dataset's own `(H, W)` mask (non-zero is
    object).
    """

    image: Image
    key: str
    source: str | None = None
    group: str | None = None
    mask: NDArray[np.uint8] | None = None


class Stage:
    """Base of all stages. A stage is a frozen dataclass whose fields are its settings, and so its fingerprint.

    Cheap to build, compare and pickle. A model is loaded at first use into a `functools.cached_property` and dropped
    by `unload()`. A stage is called on a batch and returns one artifact an item, in order, or `ItemFailed` in its
    place.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    backend: ClassVar[str]  # its name in a recipe
    version: ClassVar[int] = 1  # raised when the same settings come to give another result
    execution_only: ClassVar[frozenset[str]] = frozenset()  # settings that say how to run, not what comes out
    parallel: ClassVar[bool] = False  # plain functions on arrays: may be called from several threads at once
    parts: ClassVar[Mapping[str, Mapping[str, type[Stage]]]] = {}  # settings that are stages, and their backends

    @property
    def batch(self) -> int:
        """How many items it works on best at once: its `batch_size` setting, where it has one."""
        size: int = getattr(self, "batch_size", 1)
        return size

    def settings(self) -> dict[str, Any]:
        """Every setting by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise WeightsError where a library or weights that this stage needs are missing; loads no model."""

    def weights(self) -> Weights | None:
        """The model that it needs, found or not; None where it needs none, or a server has it."""
        return None

    def where(self) -> str:
        """The device that it will run on, or the server that it asks. Raises WeightsError where there is no such
        device."""
        return pick_device(getattr(self, "device", None) or "cpu")

    def unload(self) -> None:
        """Drop whatever was loaded; the next call loads it again."""
        names = {f.name for f in fields(self)}  # type: ignore[arg-type]
        for name in [name for name in self.__dict__ if name not in names]:
            del self.__dict__[name]
        for name in self.parts:
            getattr(self, name).unload()

    def __getstate__(self) -> dict[str, Any]:
        return self.settings()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
