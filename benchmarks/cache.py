"""Whether a large store is as fast as a small one, also while another process writes, and the disk space per image.

`python -m benchmarks cache` looks up random entries in stores, and draws from pools, of 10³ to 10⁶ entries. Entries are
small (256 bytes), so that a million of them fit on disk; only the search grows with their number, not the reading.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from augment import Cache
from augment.store.entries import entry_name
from augment.store.pool import Pool, PoolEntry, PoolIndex
from benchmarks.samples import fill, squares
from benchmarks.timing import Figure, OldFigures, finish, in_turn, ratios, show

_SIZES = (1_000, 10_000, 100_000, 1_000_000)
_GOAL = 1.3  # at most, relative to a store of 1,000
_PAYLOAD = 256  # bytes
_LOOKUPS = 2000  # per round


def main(quick: bool = False, json: Path | None = None, compare: OldFigures = None) -> None:
    """Print the figures and write them to `json`; `compare` is such a file from an earlier run to compare with."""
    console = Console()
    sizes, rounds, count = (_SIZES[:3], 5, 4) if quick else (_SIZES, 15, 8)
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stores = {size: _filled(folder / str(size), size) for size in sizes}
        figures |= _growth("lookup", {size: _lookup(store, size) for size, store in stores.items()}, rounds)
        figures |= _growth(
            "drawing from a pool", {size: _draw(folder / f"{size}.pool", size) for size in sizes}, rounds
        )
        figures |= _beside_a_writer(stores[sizes[1]], sizes[1], rounds)
        figures |= _on_disk(folder / "scenes", count)
    show(f"entries of {_PAYLOAD} bytes, {_LOOKUPS} lookups per round, {rounds} rounds", figures, console)
    finish(figures, json, compare, console)


def _name(number: int) -> str:
    # A key is a hash: neighbors in number must not be neighbors in the index.
    return entry_name("matte", "0123456789abcdef", f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}")


def _filled(folder: Path, size: int) -> Cache:
    store = Cache(folder)
    payload = np.random.default_rng(0).bytes(_PAYLOAD)
    for number in range(size):
        store.put(_name(number), payload, {})
    return store


def _lookup(store: Cache, size: int) -> Callable[[int], object]:
    # Different names each time, so that SQLite's page cache does not make a large store look small.
    names = cycle([_name(int(number)) for number in np.random.default_rng(1).integers(size, size=50 * _LOOKUPS)])
    return lambda n: store.get(next(names))


def _draw(path: Path, size: int) -> Callable[[int], object]:
    PoolIndex.of({_name(number)[-32:]: PoolEntry(str(number % 100), 0.3, 4) for number in range(size)}).save(path)
    pool = Pool(PoolIndex.load(path), 0.8)
    uniforms = np.random.default_rng(2).random(_LOOKUPS).tolist()
    return lambda n: next(pool.draw("other", "7", uniforms[n]))


def _growth(what: str, candidates: dict[int, Callable[[int], object]], rounds: int) -> dict[str, Figure]:
    milliseconds = in_turn({str(size): candidate for size, candidate in candidates.items()}, _LOOKUPS, rounds)
    small = milliseconds[str(min(candidates))]
    figures = {f"{what} in {min(candidates):,}: µs": Figure.of([1000 * value for value in small], absolute=True)}
    for size in sorted(candidates)[1:]:
        figures[f"{what} in {size:,}: times that in {min(candidates):,}"] = Figure.of(
            ratios(milliseconds[str(size)], small), _GOAL
        )
    return figures


def _beside_a_writer(store: Cache, size: int, rounds: int) -> dict[str, Figure]:
    """Measured in wall time, because a lock would cost waiting time."""
    look = _lookup(store, size)
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(_clocked(look))
        with _writer(store.directory):
            beside.append(_clocked(look))
    return {
        f"lookup with a writer, {part}: relative to without": Figure.of(
            ratios([row[column] for row in beside], [row[column] for row in alone])
        )
        for column, part in enumerate(("median", "99th percentile"))
    }


def _clocked(look: Callable[[int], object]) -> tuple[float, float]:
    found = []
    for number in range(_LOOKUPS):
        started = time.perf_counter_ns()
        look(number)
        found.append(time.perf_counter_ns() - started)
    return float(np.median(found)), float(np.quantile(found, 0.99))


@contextmanager
def _writer(folder: Path) -> Iterator[None]:
    """A process that writes to the store all the time."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=_write, args=(folder, ready, stop))
    process.start()
    ready.wait()
    try:
        yield
    finally:
        stop.set()
        process.join()


def _write(folder: Path, ready: Any, stop: Any) -> None:
    store, number = Cache(folder), 0
    while not stop.is_set():
        store.put(f"written/{number % 1000}", os.urandom(_PAYLOAD), {})
        number += 1
        ready.set()


def _on_disk(folder: Path, count: int) -> dict[str, Figure]:
    """Kilobytes per image of 512 x 512 with one variant."""
    folder.mkdir()
    stores, samples = fill(folder, squares(count, 512))
    kilobytes: dict[str, list[float]] = {"an image's own JPEG": [len(sample.file) / 1024 for sample in samples]}
    for sample, (artifact, codec) in [
        (sample, kept) for sample in samples for kept in [("matte", "raw"), ("plate", "raw"), *_backgrounds(stores)]
    ]:
        what = f"a background, {codec}" if artifact == "background" else f"a {artifact}"
        kilobytes.setdefault(what, []).append(_stored(stores[codec], artifact, sample.key) / 1024)
    return {f"KB on disk, {what}": Figure.of(values) for what, values in kilobytes.items()}


def _backgrounds(stores: dict[Any, Cache]) -> Sequence[tuple[str, Any]]:
    return [("background", codec) for codec in stores]


def _stored(store: Cache, artifact: str, key: str) -> int:
    return sum(
        len(store.get(name) or b"") for name in store.names() if name.startswith(f"{artifact}/") and f"/{key}" in name
    )
