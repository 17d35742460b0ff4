"""Substages of guard and enrichment with fixed results: what is found, what is answered, how it is painted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from augment.errors import ItemFailed
from augment.models.mask_rcnn import Detection
from augment.stages.detect import Detector
from augment.stages.enrich.chat import ChatModel
from augment.stages.enrich.inpainters import ObjectInpainter

CALLS: Counter[str] = Counter()  # calls by substage
QUESTIONS: list[list[dict[str, str]]] = []


def detection(label, box, size=(96, 112), score=0.9):
    """A rectangle: box is (left, top, right, bottom)."""
    mask = np.zeros(size, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return Detection(label, score, tuple(map(float, box)), mask)


@dataclass(frozen=True)
class SetDetector(Detector):
    """Finds `labels`, each in a rectangle with its own place and size; `half` finds nothing in images whose pixels have
    an even sum."""

    backend: ClassVar[str] = "fixed-detector"
    classes: ClassVar[tuple[str, ...]] = ("person", "dog", "car", "cup", "traffic light")

    labels: tuple[str, ...] = ("person", "car", "person")
    half: bool = False

    def __call__(self, *, images, **_):
        CALLS["detector"] += 1
        return [[] if self.half and image.sum() % 2 == 0 else self._found(image.shape[:2]) for image in images]

    def _found(self, size):
        side = 40
        found = []
        for n, label in enumerate(self.labels):
            left = 4 + 30 * n
            found.append(detection(label, (left, 10, left + side - 8 * n, 10 + side), size, 0.95 - 0.1 * n))
        return found


@dataclass(frozen=True)
class SetChat(ChatModel):
    """Gives the same answer to everything; "fail" fails."""

    backend: ClassVar[str] = "fixed-chat"

    answer: str = '{"person 1": "a man in a red coat", "person 2": "a child with a kite", "car": "an old yellow taxi"}'

    def __call__(self, *, chats, seeds, **_):
        QUESTIONS.extend(chats)
        CALLS["chat"] += 1
        return [ItemFailed("no words") if self.answer == "fail" else self.answer for _ in chats]


@dataclass(frozen=True)
class ColorInpainter(ObjectInpainter):
    """Fills the whole part it is given with the color that the seed decides, outside the mask too."""

    backend: ClassVar[str] = "color-inpainter"

    def __call__(self, *, images, masks, seeds, **_):
        CALLS["inpainter"] += 1
        for image, mask in zip(images, masks, strict=True):
            assert image.shape[:2] == mask.shape
            assert set(np.unique(mask)) <= {0, 255}
        return [
            np.broadcast_to(np.random.default_rng(seed).integers(0, 256, 3).astype(np.uint8), image.shape)
            for image, seed in zip(images, seeds, strict=True)
        ]


SUBSTAGES = {
    "detector": {"backend": SetDetector.backend},
    "chat": {"backend": SetChat.backend},
    "inpainter": {"backend": ColorInpainter.backend},
}


def forget() -> None:
    """Forget the calls and questions so far."""
    CALLS.clear()
    QUESTIONS.clear()
