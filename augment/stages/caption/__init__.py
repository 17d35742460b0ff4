"""Say what the plate shows: plate to caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from augment.artifacts import Image
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.caption.endpoint import Endpoint
from augment.stages.caption.measured import Measured
from augment.stages.caption.transformers import Transformers


class Captioner(Protocol):
    """`(H, W, 3)` uint8 RGB plates to one caption each."""

    def __call__(self, plates: Sequence[Image]) -> Sequence[str | ItemFailed]: ...


BACKENDS: dict[str, type[Stage]] = {backend.backend: backend for backend in (Measured, Transformers, Endpoint)}
