"""How good each remover's mattes are, compared with the true mattes of stamps over wallpapers.

`python -m benchmarks mattes` prints the intersection over union (IoU) with the true matte, for all mattes and for the
kept ones (those that the remover did not mark unusable), and how good the edges of the kept ones are: the error along
the true edge, how much background has leaked into the matte's rim, and how much of the object's rim is missing. It also
writes a picture of each remover's worst cases.
"""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from augment.artifacts import Alpha, Image, Matte
from augment.errors import ItemFailed
from augment.stages.remove import Remover
from augment.stages.remove.consensus import Consensus
from augment.stages.remove.grabcut import GrabCut
from augment.stages.remove.mask_rcnn import MaskRcnn
from augment.stages.remove.onnx import Onnx
from augment.stages.remove.rembg import Rembg
from augment.testing import parts
from augment.testing.scenes import Scene, scenes

SEED = 505  # GrabCut's confidence and its threshold were not chosen on these scenes
_EDGE = 4  # pixels: an edge reaches as far to both sides of its middle, and a rim as far inwards
_POOR = 0.6  # below this overlap, a matte shows something else
_WORST = 8  # cases in the picture


@dataclass(frozen=True)
class Score:
    """The score of a matte, each number from 0 to 1.

    `overlap` is the intersection over union at half alpha, `edge_error` the mean alpha error along the true edge.
    `leak` is the share of true background in the matte's own rim, `missing` the share of the true rim that the matte
    lacks. A rim is what an alpha holds of the pixels near its edge, and weighs them by alpha.
    """

    scene: str
    overlap: float
    edge_error: float
    leak: float
    missing: float
    confidence: float
    accepted: bool


@dataclass(frozen=True)
class Summary:
    """A summary of several mattes: their number, median overlap, share of poor ones, and the means of what is said of
    their edges."""

    count: int
    median_overlap: float
    poor: float
    edge_error: float
    leak: float
    missing: float

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Summary:
        if not scores:
            return cls(0, *[float("nan")] * 5)
        overlaps = np.array([score.overlap for score in scores])
        edges = np.array([(score.edge_error, score.leak, score.missing) for score in scores])
        poor = float((overlaps < _POOR).mean())
        return cls(len(scores), float(np.median(overlaps)), poor, *edges.mean(0).tolist())


@dataclass(frozen=True)
class Result:
    """The result of one remover. `seconds` is the CPU time of all threads per image, after a first image that is not
    counted: unlike wall time it hardly depends on what else the machine does."""

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
    found = {name: run(name, remover, made) for name, remover in removers(console, mask_rcnn)}
    for name in ("u2netp", "isnet"):
        if name in found:
            found[f"{name}+grabcut"] = agreeing(f"{name}+grabcut", found[name], found["grabcut"], made)
    results = [result for result, _ in found.values()]
    out.mkdir(parents=True, exist_ok=True)
    for result, mattes in found.values():
        cv2.imwrite(str(out / f"mattes-{result.remover}.png"), worst_cases(result, made, mattes)[..., ::-1])
    console.print(table(results, seed))
    console.print(f"worst cases: {out}/mattes-*.png")
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(jsonlib.dumps([asdict(result) for result in results], indent=1))


@dataclass(frozen=True)
class _Made(Remover):
    """Gives mattes that were made before."""

    backend: ClassVar[str] = "made"

    mattes: tuple[Matte, ...]

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[Matte]:
        return list(self.mattes)


def agreeing(
    name: str, first: tuple[Result, list[Matte]], second: tuple[Result, list[Matte]], made: Sequence[Scene]
) -> tuple[Result, list[Matte]]:
    """The consensus of two removers whose mattes are there already; its time is the sum of theirs."""
    both = Consensus(first=_Made(tuple(first[1])), second=_Made(tuple(second[1])))
    result, mattes = _scored(name, both(images=[scene.image for scene in made]), made)
    return replace(result, seconds=first[0].seconds + second[0].seconds), mattes


def removers(console: Console, mask_rcnn: Path | None = None) -> list[tuple[str, Any]]:
    """The available removers by name; the console says which are not available, and why."""
    found: list[tuple[str, Remover]] = [("grabcut", GrabCut())]
    networks: list[tuple[str, Callable[[], Remover]]] = [
        ("u2netp", lambda: Onnx(model=str(parts.u2netp()))),
        ("isnet", lambda: Rembg(model=str(parts.isnet()))),
    ]
    for name, network in networks:
        try:
            found.append((name, network()))
        except parts.PartMissing as missing:
            console.print(f"{name} left out: {missing}", markup=False)
    if mask_rcnn:
        found.append(("mask-rcnn", MaskRcnn(model=str(mask_rcnn))))
    return found


def run(name: str, remover: Remover, made: Sequence[Scene]) -> tuple[Result, list[Matte]]:
    """Call the remover on one scene at a time and score its mattes; a failed item counts as an empty matte."""
    nothing: dict[str, list[None]] = {"masks": [None], "sources": [None], "boxes": [None]}
    remover(images=[made[0].image], **nothing)  # loads the model
    start = time.process_time()
    artifacts = [remover(images=[scene.image], **nothing)[0] for scene in made]
    seconds = (time.process_time() - start) / len(made)
    result, mattes = _scored(name, artifacts, made)
    return replace(result, seconds=seconds), mattes


def _scored(name: str, artifacts: Sequence[Matte | ItemFailed], made: Sequence[Scene]) -> tuple[Result, list[Matte]]:
    mattes = [
        Matte.from_full(np.zeros(scene.alpha.shape, np.uint8), 0.0) if isinstance(artifact, ItemFailed) else artifact
        for artifact, scene in zip(artifacts, made, strict=True)
    ]
    scores = [score(matte, scene) for matte, scene in zip(mattes, made, strict=True)]
    accepted = [one for one in scores if one.accepted]
    return Result(name, Summary.of(scores), Summary.of(accepted), 0.0, scores), mattes


def score(matte: Matte, scene: Scene) -> Score:
    alpha = matte.uncropped()
    found, true = alpha >= 128, scene.alpha >= 128
    kernel = np.ones((2 * _EDGE + 1,) * 2, np.uint8)
    edge = cv2.dilate(scene.alpha, kernel) != cv2.erode(scene.alpha, kernel)
    error = np.abs(alpha[edge].astype(np.float32) - scene.alpha[edge]).mean() / 255
    overlap = (found & true).sum() / max(1, (found | true).sum())
    name = f"{scene.name} in {scene.place}"
    lost = _outside(_rim(alpha), scene.alpha), _outside(_rim(scene.alpha), alpha)
    return Score(name, float(overlap), float(error), *lost, matte.confidence, matte.unusable is None)


def _rim(alpha: Alpha) -> Alpha:
    """The alpha of the pixels near its edge, 0 elsewhere. Where the picture cuts the object off there is no edge."""
    solid = (alpha >= 128).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _EDGE + 1,) * 2)
    near = (cv2.dilate(solid, kernel) > 0) & (cv2.erode(solid, kernel) == 0)
    return np.where(near, alpha, 0)


def _outside(rim: Alpha, alpha: Alpha) -> float:
    """The share of the rim that goes beyond the alpha."""
    return float(cv2.subtract(rim, alpha).sum(dtype=np.int64) / max(1, rim.sum(dtype=np.int64)))


def table(results: Sequence[Result], seed: int) -> Table:
    count = results[0].every.count
    drawn = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        title=f"{count} scenes of seed {seed}: all mattes, then the kept ones",
        caption=f"IoU: median; poor: share below {_POOR}; edge: mean alpha error at the true edge; leak: background\n"
        f"in the matte's rim; lost: the object's rim that the matte lacks (all within {_EDGE} pixels of the edge)",
    )
    drawn.add_column("remover", no_wrap=True)
    for column in ("IoU", "poor", "kept", "IoU", "poor", "edge", "leak", "lost", "CPU s"):
        drawn.add_column(column, justify="right", no_wrap=True)
    for result in results:
        every, accepted = result.every, result.accepted
        drawn.add_row(
            result.remover,
            f"{every.median_overlap:.3f}",
            f"{every.poor:.1%}",
            f"{accepted.count / every.count:.0%}",
            f"{accepted.median_overlap:.3f}",
            f"{accepted.poor:.1%}",
            f"{accepted.edge_error:.3f}",
            f"{accepted.leak:.1%}",
            f"{accepted.missing:.1%}",
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


def _on_green(image: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    weight = alpha[..., None] / np.float32(255)
    return (image * weight + np.array([0, 200, 0], np.float32) * (1 - weight)).astype(np.uint8)
