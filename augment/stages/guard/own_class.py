"""Refuse a background that shows the object's own class: with a second dog in the picture, the label is wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol, cast

from pydantic import InstanceOf

from augment.artifacts import Image, Rejected
from augment.detect import Detector
from augment.errors import ItemFailed, RecipeError
from augment.stages.base import Stage
from augment.stages.coco import equivalents
from augment.stages.detector import DETECTORS, MaskRcnn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShowsClass(Rejected):
    """A background rejected for what it shows: `labels`, as the detector names them."""

    labels: tuple[str, ...]


class Guard(Protocol):
    """`(H, W, 3)` uint8 RGB backgrounds and their objects' classes to what is wrong with each; None is nothing."""

    def __call__(
        self, backgrounds: Sequence[Image], groups: Sequence[str | None]
    ) -> Sequence[ShowsClass | ItemFailed | None]: ...

    def labels(self, group: str | None) -> tuple[str, ...]:
        """What it looks for, for an object of this class; empty where such a background cannot be checked."""
        ...


@dataclass(frozen=True)
class OwnClass(Stage):
    """Rejects a background in which a detector finds the object's class, or what that class is called in the
    detector's own terms: see `augment.stages.coco`.

    An item whose class is unknown, or that the detector has no class for, passes unchecked, with one warning a class.

    - `group`: the class of items that have none of their own, where a dataset holds objects of one class only.
    - `equivalents`: what else a class is found as, a list of the detector's classes for each: `mug = ["cup"]`; an empty
      list lets that class pass.
    - `detector`: what it looks with; its `score` says how sure a finding must be.
    """

    backend: ClassVar[str] = "own-class"
    parts: ClassVar[Mapping[str, Mapping[str, type[Stage]]]] = {"detector": DETECTORS}

    group: str | None = None
    equivalents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    detector: InstanceOf[Stage] = field(default_factory=MaskRcnn)

    def __call__(self, backgrounds: Sequence[Image], groups: Sequence[str | None]) -> list[ShowsClass | None]:
        """See `Guard`. Raises WeightsError where the detector cannot be had."""
        wanted = [self.labels(group) for group in groups]
        checked = [n for n, labels in enumerate(wanted) if labels]
        verdicts: list[ShowsClass | None] = [None] * len(wanted)
        if not checked:
            return verdicts  # and no detector is loaded
        for n, detections in zip(checked, self._detector([backgrounds[n] for n in checked]), strict=True):
            seen = {detection.label for detection in detections}
            if shown := tuple(label for label in wanted[n] if label in seen):
                verdicts[n] = ShowsClass(f"showing {' and '.join(shown)}", shown)
        return verdicts

    def check(self) -> None:
        """Raise RecipeError where `equivalents` names what the detector cannot find; it would never be rejected."""
        for group, found_as in self.equivalents.items():
            if unknown := [label for label in found_as if label not in self._detector.classes]:
                raise RecipeError(
                    f"guard.equivalents.{group}: {', '.join(unknown)} not among the detector's classes: "
                    f"{', '.join(self._detector.classes)}"
                )

    def labels(self, group: str | None) -> tuple[str, ...]:
        name = group if group is not None else self.group
        if name not in self._labels:
            self._labels[name] = equivalents(name, self._detector.classes, self.equivalents)
            if not self._labels[name] and name not in self.equivalents:
                logger.warning(
                    "guard: backgrounds for %s are not checked: %s",
                    "images without a class" if name is None else f"the class {name!r}",
                    "give groups, or guard.group"
                    if name is None
                    else "the detector has no such class; name what it is found as in guard.equivalents",
                )
        return self._labels[name]

    def unload(self) -> None:
        labels = self._labels
        super().unload()
        self.__dict__["_labels"] = labels  # a few words, and nobody is warned twice

    @cached_property
    def _labels(self) -> dict[str | None, tuple[str, ...]]:
        """What was looked up so far."""
        return {}

    @property
    def _detector(self) -> Detector:
        return cast(Detector, self.detector)


BACKENDS: dict[str, type[Stage]] = {OwnClass.backend: OwnClass}
