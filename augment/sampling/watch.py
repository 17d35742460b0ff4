"""Says when a run is without effect: how many images were changed, why the others were not, and the way out."""

from __future__ import annotations

import logging

import numpy as np
from torch.utils.data import get_worker_info

from augment.sampling.counts import Counts
from augment.sampling.shared import Shared

logger = logging.getLogger(__name__)

HIT = "hits"
UNMOVED = "unmoved"  # a hit too

_FIRST = 10  # images: if none of them was changed, something is wrong
_MANY = 100  # images after which a small share of changed ones is no accident
_STEP = 32  # images of this process between two looks at the totals of all
_NEVER = 2**62

# Why images stay as they are, and what to do about it.
ADVICE = {
    "misses": "the store lacks them. Either another transform runs before ReplaceBackground (put it first, or let each "
    "sample carry its key or path), or the images are decoded differently than `augment prewarm` did (prewarm the "
    "Dataset itself), or they were not prewarmed, or the store was emptied (run `augment prewarm` again)",
    "unusable": "their mattes must not be used. See what was cut out of one with `augment run IMAGE -o DIR`, and "
    "prewarm with another remover or with the dataset's own masks",
    "mismatched": "under their key or path, the store has a matte of another shape. Before ReplaceBackground, images "
    "may be resized, not cropped; a resize that changes the aspect ratio needs `KeyedImageFolder`, or a Key with the "
    "image's original size",
    "doubtful": "something goes with them that is not understood and might become wrong. Wrap masks as "
    "`tv_tensors.Mask` and boxes as `tv_tensors.BoundingBoxes` (torchvision's datasets: "
    "`wrap_dataset_for_transforms_v2`), or pass them as albumentations' own targets (`mask`, `bboxes`, `keypoints`)",
    "no image": "there is no image in the sample. ReplaceBackground takes PIL images and tensors: for NumPy arrays, "
    "put `torchvision.transforms.v2.ToImage()` before it, or use `augment.albumentations`",
    "protected: mask": "their masks do not fit. A mask must have the image's size and be 0 where nothing is labeled: "
    "set the value of the background to 0",
    "protected: box": "their boxes disagree with the mattes. Check the boxes' format (corners, or center and size?); "
    "if they are right, prewarm with a better remover or with the dataset's own masks",
    "protected: keypoint": "keypoints lie outside the mattes. Check their coordinates (x, y in pixels); if they are "
    "right, prewarm with a better remover or with the dataset's own masks",
}


class Watch:
    """Looks at the counts of all processes from time to time, and warns once if hardly any image is changed, and once
    if changes stop.

    Only the main process and the first worker of a DataLoader warn, so that workers do not race.
    """

    def __init__(self, counts: Counts, store: str) -> None:
        self._counts = counts
        self._store = store
        self._names = list(counts.totals())
        # The totals when an image was last seen to have been changed; then, of each warning, whether it was given: of
        # the first, 1 and the number of images that were changed by then.
        self._shared = Shared(len(self._names) + 2)
        self._wait = 0
        self._details: dict[str, str] = {}

    def add(self, outcome: str, detail: str = "") -> None:
        """Count an image's outcome; `detail` says more about it than its name does."""
        self._counts.add(outcome)
        if detail:
            self._details[outcome] = detail
        self._wait -= 1
        if self._wait < 0:
            self._look()

    def say(self, detail: str) -> None:
        """Warn of something that is certain from the first image on, in place of the first of the two warnings."""
        worker, said = get_worker_info(), self._shared.array[-2:]
        if not said[0] and (worker is None or not worker.id):
            said[0] = 1
            logger.warning("%s: images stay unchanged because %s", self._store, detail)

    def _look(self) -> None:
        worker = get_worker_info()
        if worker is not None and worker.id:
            self._wait = _NEVER
            return
        totals = np.array(list(self._counts.totals().values()), np.int64)
        before, said = self._shared.array[:-2], self._shared.array[-2:]
        hit = self._names.index(HIT)
        changed, looked = int(totals[hit]), self._images(totals)
        self._wait = 0 if looked < _FIRST else _STEP
        if changed > before[hit]:
            before[:] = totals
        kept = looked - self._images(before)
        if not said[1] and kept >= _MANY and changed >= max(1, said[0]):  # some were changed since the other warning
            said[:] = 1 + changed
            self._warn(f"none of the last {kept} images was given another background, unlike before", totals - before)
        elif not said[0] and (looked >= _FIRST if not changed else looked >= _MANY and 2 * changed < looked):
            said[0] = 1 + changed
            self._warn(f"{changed} of the first {looked} images were given another background", totals)
        if said.all():
            self._wait = _NEVER

    def _images(self, totals: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
        return int(totals.sum()) - int(totals[self._names.index(UNMOVED)])

    def _warn(self, what: str, totals: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        kept = dict(zip(self._names, totals.tolist(), strict=True))
        del kept[HIT], kept[UNMOVED]
        reason = max(kept, key=lambda name: kept[name])
        detail = self._details.get(reason, "")
        logger.warning(
            "%s (%s). %d stayed unchanged as %r%s: %s",
            what,
            self._store,
            kept[reason],
            reason,
            f" ({detail})" if detail else "",
            ADVICE[reason],
        )
