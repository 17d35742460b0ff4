"""DataLoader throughput with the transform, and the cost of starting a worker.

`python -m benchmarks loader` reads JPEG files of mixed sizes, with and without `ReplaceBackground` (p=1) before
RandomResizedCrop(224) and Normalize. The rows with a goal come first: 2 workers, JPEG backgrounds of the pool and the
images' own. Then it tries every number of workers up to the number of cores, forked and spawned. Epochs with and
without alternate, and the figures are their ratios.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2

from augment import Cache
from augment.torchvision import ReplaceBackground
from benchmarks.samples import fill, mixed
from benchmarks.timing import Figure, OldFigures, finish, ratios, show

_BATCH = 32
_THROUGHPUT = {"jpeg, pool": 0.7, "jpeg, own": 0.8}  # at least with 2 workers, relative to no transform
_START = 1.2  # at most, relative to a worker that imports only torchvision
_MEGABYTES = 40  # at most, in addition to that worker's

# A separate process, like a spawned worker: it unpickles its transform, decodes an image and transforms it.
_WORKER = """
import os, pickle, sys
import torch, torchvision
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2
torch.set_num_threads(1)
transforms = pickle.loads(sys.stdin.buffer.read())
image = default_loader(sys.argv[1])
for transform in transforms:
    image = transform(image)
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
"""


class Files(Dataset[torch.Tensor]):
    """Image files, each repeated `repeats` times."""

    def __init__(self, paths: Sequence[Path], repeats: int, first: Sequence[Any]) -> None:
        self.paths = list(paths)
        self.repeats = repeats
        self.transform = v2.Compose(
            [
                *first,
                v2.RandomResizedCrop(224),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths) * self.repeats

    def __getitem__(self, index: int) -> torch.Tensor:
        result: torch.Tensor = self.transform(default_loader(str(self.paths[index % len(self.paths)])))
        return result


def main(quick: bool = False, json: Path | None = None, compare: OldFigures = None) -> None:
    """Print the figures and write them to `json`; `compare` is such a file from an earlier run to compare with."""
    torch.set_num_threads(1)
    console = Console()
    count, repeats, rounds = (8, 32, 3) if quick else (32, 16, 7)
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as name:
        stores, _ = fill(Path(name), mixed(count), ["jpeg", "raw"])
        paths = sorted(Path(name, "images").iterdir())
        first = min(2, os.cpu_count() or 1)
        others = [] if quick else [number for number in range((os.cpu_count() or 1) + 1) if number != first]
        for number in [first, *others]:
            for method in ("fork", "spawn") if number else ("",):
                figures |= _throughput(stores, paths, repeats, rounds, number, method)
        figures |= _cold(stores, paths, rounds)
        figures |= _reading(stores, paths)
        figures |= _start(stores["jpeg"], paths[0], rounds)
    title = f"JPEG files of mixed sizes, batches of {_BATCH}, {count * repeats} per epoch, {os.cpu_count()} cores"
    show(title, figures, console, "ratios are relative to no transform; epochs alternate")
    finish(figures, json, compare, console)


def _throughput(
    stores: dict[Any, Cache], paths: Sequence[Path], repeats: int, rounds: int, workers: int, method: str
) -> dict[str, Figure]:
    """Images per second without the transform, and the throughput with it relative to that."""
    loaders = {
        codec: DataLoader(
            Files(paths, repeats, first),
            _BATCH,
            num_workers=workers,
            multiprocessing_context=method or None,
            persistent_workers=workers > 0,
        )
        for codec, first in _conditions(stores).items()
    }
    rates: dict[str, list[float]] = {codec: [] for codec in loaders}
    for number in range(-1, rounds):
        for codec, loader in loaders.items():
            started = time.perf_counter()
            for _ in loader:
                pass
            if number >= 0:
                rates[codec].append(len(loader.dataset) / (time.perf_counter() - started))  # type: ignore[arg-type]
    name = f"{workers} worker{'s' * (workers != 1)}" + (f", {method}ed" if method else "")
    without = rates.pop("")
    figures = {f"{name}: images per second without": Figure.of(without, absolute=True)}
    for codec, with_it in rates.items():
        goal = _THROUGHPUT.get(codec) if workers == 2 else None
        figures[f"{name}: throughput, {codec}"] = Figure.of(ratios(with_it, without), goal, more_is_better=True)
    return figures


def _cold(stores: dict[Any, Cache], paths: Sequence[Path], rounds: int) -> dict[str, Figure]:
    """The same in this process, with every file dropped from the page cache before each epoch."""
    rates: dict[str, list[float]] = {codec: [] for codec in _conditions(stores)}
    for _ in range(rounds):
        for codec, first in _conditions(stores).items():
            files = [*paths, *(path for store in stores.values() for path in store.directory.rglob("*"))]
            _drop(files)
            dataset = Files(paths, 1, first)  # each file once: a second read would be warm
            started = time.perf_counter()
            for _ in DataLoader(dataset, _BATCH):
                pass
            rates[codec].append(len(dataset) / (time.perf_counter() - started))
    without = rates.pop("")
    return {"cold, 0 workers: images per second without": Figure.of(without, absolute=True)} | {
        f"cold, 0 workers: throughput, {codec}": Figure.of(ratios(values, without), more_is_better=True)
        for codec, values in rates.items()
    }


def _drop(files: Sequence[Path]) -> None:
    """Ask the kernel to drop these files from its page cache; pages that are dirty or mapped stay."""
    os.sync()
    for path in files:
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def _reading(stores: dict[Any, Cache], paths: Sequence[Path]) -> dict[str, Figure]:
    """Bytes read from files per image; SQLite pages that are mapped into memory are not counted."""
    figures = {}
    for codec, first in _conditions(stores).items():
        dataset = Files(paths, 1, first)
        dataset[0]  # opens the store
        before = _bytes_read()
        for index in range(len(dataset)):
            dataset[index]
        kilobytes = (_bytes_read() - before) / len(dataset) / 1024
        figures[f"KB read per image, {codec + ' backgrounds' if codec else 'without'}"] = Figure.of([kilobytes])
    return figures


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def _start(store: Cache, path: Path, rounds: int) -> dict[str, Figure]:
    """CPU seconds and megabytes of a new process until its first transformed image."""
    crop = v2.RandomResizedCrop(224)
    seconds: dict[str, list[float]] = {}
    megabytes: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, transforms in {"without": [crop], "with": [ReplaceBackground(store, p=1), crop]}.items():
            before = os.times()
            done = subprocess.run(
                [sys.executable, "-c", _WORKER, str(path)],
                input=pickle.dumps(transforms),
                capture_output=True,
                check=True,
            )
            after = os.times()
            spent = after.children_user + after.children_system - before.children_user - before.children_system
            seconds.setdefault(name, []).append(spent)
            megabytes.setdefault(name, []).append(float(done.stdout))
    more = [one - other for one, other in zip(megabytes["with"], megabytes["without"], strict=True)]
    return {
        "a worker's start without, CPU seconds": Figure.of(seconds["without"], absolute=True),
        "a worker's start with the transform, ratio": Figure.of(ratios(seconds["with"], seconds["without"]), _START),
        "a worker's MB without": Figure.of(megabytes["without"], absolute=True),
        "extra MB with the transform": Figure.of(more, _MEGABYTES),
    }


def _conditions(stores: dict[Any, Cache]) -> dict[str, list[Any]]:
    return {"": []} | {
        f"{codec}, {source}": [ReplaceBackground(store, p=1, source=source)]
        for codec, store in stores.items()
        for source in ("pool", "own")
    }
