"""Reject a background that shows the object's own class: with a second dog in the picture, the label is wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from pydantic import InstanceOf

from augment.artifacts import Image, Rejected
from augment.errors import RecipeError
from augment.stages.base import Stage
from augment.stages.coco import equivalents
from augment.stages.detect import Detector
from augment.stages.detect.mask_rcnn import MaskRcnn
from augment.stages.guard import Guard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnClass(Guard):
    """Rejects a background in which a detector finds the object's class, or what the detector calls that class: see
    `augment.stages.coco`.

    An item whose class is unknown, or is none of the detector's, passes unchecked, with one warning per class.

    - `group`: the class of items that have none of their own, for a dataset whose objects are all of one class.
    - `equivalents`: what else a class is found as, a list of the detector's classes for each: `mug = ["cup"]`; an empty
      list lets that class pass.
    - `detector`: what it looks with; its `score` says how sure a detection must be.
    """

    backend: ClassVar[str] = "own-class"
    substages: ClassVar[Mapping[str, type[Stage]]] = {"detector": Detector}

    equivalents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    detector: InstanceOf[Detector] = field(default_factory=MaskRcnn)

    def __call__(
        self, *, backgrounds: Sequence[Image], groups: Sequence[str | None], **_: Any
    ) -> list[Rejected | None]:
        """See `Guard`. Raises UnavailableError if the detector cannot be had."""
        wanted = [self.account(group) for group in groups]
        checked = [n for n, labels in enumerate(wanted) if labels]
        verdicts: list[Rejected | None] = [None] * len(wanted)
        if not checked:
            return verdicts  # and no detector is loaded
        found = self.detector(images=[backgrounds[n] for n in checked])
        for n, detections in zip(checked, found, strict=True):
            seen = {detection.label for detection in detections}
            if shown := tuple(label for label in wanted[n] if label in seen):
                verdicts[n] = Rejected(f"showing {' and '.join(shown)}", avoid=shown)
        return verdicts

    def check(self) -> None:
        """Raise RecipeError if `equivalents` names what the detector cannot find: it would never be rejected."""
        for group, found_as in self.equivalents.items():
            if unknown := [label for label in found_as if label not in self.detector.classes]:
                raise RecipeError(
                    f"guard.equivalents.{group}: {', '.join(unknown)} not among the detector's classes: "
                    f"{', '.join(self.detector.classes)}"
                )

    def account(self, group: str | None) -> tuple[str, ...]:
        """The detector's classes that it looks for; empty if backgrounds for this class cannot be checked."""
        name = group if group is not None else self.group
        if name not in self._labels:
            self._labels[name] = equivalents(name, self.detector.classes, self.equivalents)
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
