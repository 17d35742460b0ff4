"""Whether memory, open files or latency grow in a long training while a prewarm refills its cache under eviction.

`python -m benchmarks soak --minutes 20` trains with persistent workers on two folders whose backgrounds do not fit
into the cache together. A second process prewarms one of them and the other in turn, so that each run evicts what the
last one made. The figures compare the last third of the epochs with the second one (the first third warms up). `--plot`
draws all of them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from rich.console import Console
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import default_loader

from augment import Cache, Recipe, prewarm
from augment.store.verify import verify
from augment.testing.scenes import scenes
from augment.torchvision import ReplaceBackground
from benchmarks.timing import Figure, OldFigures, finish, show

_SIDE = 192  # pixels
_IMAGES = 40  # per folder
_SHARE = 0.75  # of what both folders take is what the cache may hold
_REPEATS = 6  # of each image in an epoch
_WORKERS = 2
_GROWTH = 1.05  # of memory and files, at most
_SLOWER = 1.3  # latency, at most: other processes use the machine too
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Epoch:
    """What was seen in an epoch: seconds since the start, private megabytes and open files of all processes, median and
    99th percentile of a call in milliseconds, share of hits."""

    at: float
    megabytes: float
    files: int
    median: float
    slow: float
    hits: float


class Timed(Dataset[tuple[int, float]]):
    """The process and the seconds that each call of the transform took."""

    def __init__(self, paths: Sequence[Path], transform: ReplaceBackground) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths) * _REPEATS

    def __getitem__(self, index: int) -> tuple[int, float]:
        image = default_loader(str(self.paths[index % len(self.paths)]))
        started = time.perf_counter()
        self.transform(image)
        return os.getpid(), time.perf_counter() - started


def main(minutes: float = 20, plot: Path | None = None, json: Path | None = None, compare: OldFigures = None) -> None:
    """Print the figures and write them to `json`; `compare` is such a file from an earlier run to compare with."""
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, limit = _fill(folder)
        stop = multiprocessing.get_context("spawn").Event()
        runs = multiprocessing.get_context("spawn").Value("i", 0)
        refill = multiprocessing.get_context("spawn").Process(target=_refill, args=(folder, limit, stop, runs))
        refill.start()
        try:
            epochs = list(_train(folder / "cache", images, minutes * 60, refill.pid or 0))
        finally:
            stop.set()
            refill.join()
        cache = Cache(folder / "cache")
        wrong = verify(cache).wrong
        cache.checkpoint()  # as eviction does before it counts
        nbytes = cache.nbytes()
    figures = {
        "private memory, MB: last third relative to the second": _growth([e.megabytes for e in epochs], _GROWTH),
        "open files: last third relative to the second": _growth([e.files for e in epochs], _GROWTH),
        "latency, median: last third relative to the second": _growth([e.median for e in epochs], _SLOWER),
        "latency, 99th percentile: last third relative to the second": _growth([e.slow for e in epochs], _SLOWER),
        "bytes of the cache relative to its limit": Figure.of([nbytes / limit], 1.0),
        "wrong entries or files afterwards": Figure.of([len(wrong)], 0),
        "private memory, MB": Figure.of([e.megabytes for e in epochs], absolute=True),
        "open files": Figure.of([e.files for e in epochs], absolute=True),
        "latency, ms": Figure.of([e.median for e in epochs], absolute=True),
        "share of hits": Figure.of([e.hits for e in epochs], absolute=True),
    }
    calls = len(epochs) * len(images) * _REPEATS
    caption = f"{len(epochs)} epochs, {calls} calls, {runs.value} prewarms of {_IMAGES} images, {refill.exitcode=}"
    show(f"{minutes:g} minutes of training while the cache is refilled", figures, console, caption)
    if plot is not None:
        _draw(epochs, plot)
    finish(figures, json, compare, console)


def _recipe() -> Recipe:
    return Recipe.load("classic").changed({"inpaint": {"backend": "telea"}})


def _fill(folder: Path) -> tuple[list[Path], int]:
    """Two folders of images and a cache of the first; their paths, and the cache's limit."""
    paths = []
    for number, scene in enumerate(scenes(2 * _IMAGES, _SIDE, seed=11)):
        path = folder / f"images{number % 2}" / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(scene.image).save(path, quality=92)
        paths.append(path)
    cache = Cache(folder / "cache")
    for part in (0, 1):
        prewarm(folder / f"images{part}", cache, _recipe(), workers=0, progress=False)
    cache.checkpoint()
    limit = int(_SHARE * cache.nbytes())
    cache.close()
    shutil.rmtree(folder / "cache")
    prewarm(folder / "images0", Cache(folder / "cache", size_limit=limit), _recipe(), workers=0, progress=False)
    return paths, limit


def _refill(folder: Path, limit: int, stop: Any, runs: Any) -> None:
    """Prewarm one folder and the other until told to stop."""
    logging.disable(logging.WARNING)  # each run says how much will fit
    while not stop.is_set():
        cache = Cache(folder / "cache", size_limit=limit)
        prewarm(folder / f"images{runs.value % 2}", cache, _recipe(), workers=0, progress=False)
        cache.close()
        runs.value += 1


def _train(cache: Path, images: Sequence[Path], seconds: float, refill: int) -> Any:
    replace = ReplaceBackground(cache, p=1)
    loader = DataLoader(
        Timed(images, replace), batch_size=None, shuffle=True, num_workers=_WORKERS, persistent_workers=True
    )
    started, before = time.monotonic(), dict(replace.counts)
    while time.monotonic() < started + seconds:
        seen = list(loader)
        processes = {os.getpid(), refill, *(int(pid) for pid, _ in seen)}
        latency = 1000 * np.array([float(one) for _, one in seen])
        counts = dict(replace.counts)
        hits = (counts["hits"] - before["hits"]) / len(seen)
        before = counts
        median, slow = np.quantile(latency, [0.5, 0.99])
        megabytes, files = sum(map(_megabytes, processes)), sum(map(_files, processes))
        yield Epoch(time.monotonic() - started, megabytes, files, float(median), float(slow), hits)


def _megabytes(pid: int) -> float:
    """Of a process's own memory, without what it shares with others."""
    resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * _PAGE / 2**20


def _files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _growth(values: Sequence[float], goal: float) -> Figure:
    """The values of the last third relative to the median of the second one."""
    third = max(1, len(values) // 3)
    base = float(np.median(values[third : 2 * third] or values))
    return Figure.of([value / base for value in values[-third:]], goal)


def _draw(epochs: Sequence[Epoch], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 6), layout="constrained")
    rows: list[tuple[str, list[str]]] = [
        ("private memory of all processes, MB", ["megabytes"]),
        ("open files", ["files"]),
        ("latency, ms (median, 99th percentile)", ["median", "slow"]),
        ("share of hits", ["hits"]),
    ]
    for axes, (label, names) in zip(drawing.subplots(len(rows), sharex=True), rows, strict=True):
        for name in names:
            axes.plot([epoch.at / 60 for epoch in epochs], [getattr(epoch, name) for epoch in epochs], linewidth=1)
        axes.set_ylim(0, 1.1 * max(getattr(epoch, name) for epoch in epochs for name in names))
        axes.set_title(label, fontsize=8)
    axes.set_xlabel("minutes")
    FigureCanvasAgg(drawing).print_png(str(path))
