"""How good each remover's mattes are, compared with the true mattes of stamps over wallpapers.

`python -m benchmarks mattes` prints the intersection over union with the true matte and the error along the true edge,
for all mattes and for the kept ones (those that the remover did not mark unusable). It also writes a picture of each
remover's worst cases.
"""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from augment.artifacts import Matte
from augment.errors import ItemFailed
from augment.stages.remove import Remover
from augment.stages.remove.grabcut import GrabCut
from augment.stages.remove.mask_rcnn import MaskRcnn
from augment.stages.remove.rembg import Rembg
from augment.testing import parts
from augment.testing.scenes import Scene, scenes

SEED = 505  # GrabCut's confidence and its threshold were not chosen on these scenes
_EDGE = 4  # pixels on either side of the true edge, over which the error is averaged
_POOR = 0.6  # below this overlap, a matte shows something else
_WORST = 8  # cases in the picture


@dataclass(frozen=True)
class Score:
    """The score of a matte: `overlap` is the intersection over union at half alpha, `edge_error` the mean alpha error,
    0 to 1."""

    scene: str
    overlap: float
    edge_error: float
    confidence: float
    accepted: bool


@dataclass(frozen=True)
class Summary:
    """A summary of several mattes: their number, median overlap, share of poor ones, and mean edge error."""

    count: int
    median_overlap: float
    poor: float
    edge_error: float

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Summary:
        overlaps = np.array([score.overlap for score in scores])
        if not scores:
            return cls(0, float("nan"), float("nan"), float("nan"))
        errors = float(np.mean([score.edge_error for score in scores]))
        return cls(len(scores), float(np.median(overlaps)), float((overlaps < _POOR).mean()), errors)


@dataclass(frozen=True)
class Result:
    """The result of one remover. `seconds` is wall time per image, after a first image that is not counted."""

    remover: str
    every: Summary
    accepted: Summary
    seconds: float
    scores: list[Score]


def main(
    quick: bool = False,
    json: Path | None = None,
    out: Path = Path("benchmarks/out"),
    seed: int = SEED,
    mask_rcnn: Path | None = None,
) -> None:
    """Print the table, and write the worst cases to `out`/mattes-REMOVER.png and the numbers to `json`.

    `quick` uses 20 scenes instead of 120. `mask_rcnn` is a checkpoint; without it, that model is left out.
    """
    console = Console()
    count = 20 if quick else 120
    made = list(scenes(count, seed=seed))
    results = []
    for name, remover in removers(console, mask_rcnn):
        result, mattes = run(name, remover, made)
        results.append(result)
        out.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out / f"mattes-{name}.png"), worst_cases(result, made, mattes)[..., ::-1])
    console.print(table(results, seed))
    console.print(f"worst cases: {out}/mattes-*.png")
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(jsonlib.dumps([asdict(result) for result in results], indent=1))


def removers(console: Console, mask_rcnn: Path | None = None) -> list[tuple[str, Any]]:
    """The available removers by name; the console says which are not available, and why."""
    found: list[tuple[str, Remover]] = [("grabcut", GrabCut())]
    try:
        found.append(("rembg-isnet", Rembg(model=str(parts.isnet()))))
    except parts.PartMissing as missing:
        console.print(f"rembg-isnet left out: {missing}", markup=False)
    if mask_rcnn:
        found.append(("mask-rcnn", MaskRcnn(model=str(mask_rcnn))))
    return found


def run(name: str, remover: Remover, made: Sequence[Scene]) -> tuple[Result, list[Matte]]:
    """Call the remover on one scene at a time and score its mattes; a failed item counts as an empty matte."""
    images = [scene.image for scene in made]
    remover(images=images[:1], masks=[None], sources=[None])  # loads the model
    start = time.perf_counter()
    artifacts = [remover(images=[image], masks=[None], sources=[None])[0] for image in images]
    seconds = (time.perf_counter() - start) / len(images)
    mattes = [
        Matte.from_full(np.zeros(scene.alpha.shape, np.uint8), 0.0) if isinstance(artifact, ItemFailed) else artifact
        for artifact, scene in zip(artifacts, made, strict=True)
    ]
    scores = [score(matte, scene) for matte, scene in zip(mattes, made, strict=True)]
    accepted = [one for one in scores if one.accepted]
    return Result(name, Summary.of(scores), Summary.of(accepted), seconds, scores), mattes


def score(matte: Matte, scene: Scene) -> Score:
    alpha = matte.uncropped()
    found, true = alpha >= 128, scene.alpha >= 128
    kernel = np.ones((2 * _EDGE + 1,) * 2, np.uint8)
    edge = cv2.dilate(scene.alpha, kernel) != cv2.erode(scene.alpha, kernel)
    error = np.abs(alpha[edge].astype(np.float32) - scene.alpha[edge]).mean() / 255
    overlap = (found & true).sum() / max(1, (found | true).sum())
    name = f"{scene.name} in {scene.place}"
    return Score(name, float(overlap), float(error), matte.confidence, matte.unusable is None)


def table(results: Sequence[Result], seed: int) -> Table:
    count = results[0].every.count
    drawn = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        title=f"{count} scenes of seed {seed}: all mattes, then the kept ones",
        caption=f"IoU: median; poor: share below {_POOR}; edge: mean alpha error within {_EDGE} pixels of the edge",
    )
    drawn.add_column("remover", no_wrap=True)
    for column in ("IoU", "poor", "edge", "kept", "IoU", "poor", "edge", "s/image"):
        drawn.add_column(column, justify="right", no_wrap=True)
    for result in results:
        every, accepted = result.every, result.accepted
        drawn.add_row(
            result.remover,
            *_cells(every),
            f"{accepted.count / every.count:.0%}",
            *_cells(accepted),
            f"{result.seconds:.2f}",
        )
    return drawn


def worst_cases(result: Result, made: Sequence[Scene], mattes: Sequence[Matte]) -> NDArray[np.uint8]:
    """One row per accepted matte, worst overlap first: the image, the matte and the true matte, on green."""
    order = sorted(range(len(made)), key=lambda n: (not result.scores[n].accepted, result.scores[n].overlap))
    rows = []
    for n in order[:_WORST]:
        one, scene = result.scores[n], made[n]
        pictures = [scene.image, *(_on_green(scene.image, alpha) for alpha in (mattes[n].uncropped(), scene.alpha))]
        row = np.hstack([cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA) for picture in pictures])
        label = f"{one.scene}: IoU {one.overlap:.2f}, confidence {one.confidence:.2f}"
        cv2.rectangle(row, (0, 0), (512, 18), (0, 0, 0), -1)
        cv2.putText(row, label, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
        rows.append(row)
    return np.vstack(rows)


def _cells(summary: Summary) -> tuple[str, str, str]:
    return f"{summary.median_overlap:.3f}", f"{summary.poor:.1%}", f"{summary.edge_error:.3f}"


def _on_green(image: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    weight = alpha[..., None] / np.float32(255)
    return (image * weight + np.array([0, 200, 0], np.float32) * (1 - weight)).astype(np.uint8)
