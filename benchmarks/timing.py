"""Timings for a busy machine: alternating candidates, ratios per round, and a comparison with an earlier run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

# Checked before anything is run.
OldFigures = Annotated[Path | None, typer.Option(exists=True, dir_okay=False)]

_WORSE = 0.05  # smaller changes are not reported, whatever the spread


@dataclass(frozen=True)
class Figure:
    """A figure's median and quartiles over all rounds. `goal` is an upper limit, or a lower one with `more_is_better`.

    An `absolute` figure depends on the machine and is not compared with another run's.
    """

    median: float
    low: float
    high: float
    goal: float | None = None
    more_is_better: bool = False
    absolute: bool = False

    @classmethod
    def of(
        cls, values: Sequence[float], goal: float | None = None, more_is_better: bool = False, absolute: bool = False
    ) -> Figure:
        low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        return cls(median, low, high, goal, more_is_better, absolute)

    def __str__(self) -> str:
        digits = 3 if self.median < 0.1 else 2 if self.median < 10 else 1 if self.median < 100 else 0
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} … {self.high:.{digits}f})"

    def verdict(self) -> str:
        """The goal, and whether it is met."""
        if self.goal is None:
            return ""
        met = self.median >= self.goal if self.more_is_better else self.median <= self.goal
        return f"{'≥' if self.more_is_better else '≤'} {self.goal:g} {'met' if met else '[bold]missed[/bold]'}"


def in_turn(candidates: Mapping[str, Callable[[int], object]], items: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds per item for each candidate, called with 0 … `items` - 1; one value per round.

    This is the CPU time of this thread, which other processes disturb less than wall time. Use it only for candidates
    that do not wait and start no threads.
    """
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            found[name].append(_timed(candidate, items, 1))
    return found


def side_by_side(
    candidates: Mapping[str, Callable[[int], object]],
    base: Callable[[int], object],
    items: int,
    rounds: int,
    passes: int,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds as in `in_turn`, over `passes` at a time, and their ratios to those of `base`.

    `base` is timed again before each candidate, because its time depends on the state of the allocator and caches.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in candidates}
    beside: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            before = _timed(base, items, passes)
            milliseconds[name].append(_timed(candidate, items, passes))
            beside[name].append(milliseconds[name][-1] / before)
    return milliseconds, beside


def _timed(candidate: Callable[[int], object], items: int, passes: int) -> float:
    for item in range(items):  # not counted: warms the processor's caches
        candidate(item)
    started = time.thread_time_ns()
    for _ in range(passes):
        for item in range(items):
            candidate(item)
    return (time.thread_time_ns() - started) / items / passes / 1e6


def ratios(values: Sequence[float], beside: Sequence[float]) -> list[float]:
    """Each value divided by the other one of the same round."""
    return [one / other for one, other in zip(values, beside, strict=True)]


def show(title: str, figures: Mapping[str, Figure], console: Console, caption: str = "") -> None:
    """Print a table of figures, with their goals, if any."""
    table = Table("figure", "median (quartiles)", "goal", title=title, caption=caption or None)
    for name, figure in figures.items():
        table.add_row(name, str(figure), figure.verdict())
    console.print(table)


def finish(figures: Mapping[str, Figure], file: Path | None, compare: Path | None, console: Console) -> None:
    """Write the figures to `file`, and report what is worse than in `compare`, the file of an earlier run."""
    if compare is not None:
        worse = _worse(figures, {name: Figure(**old) for name, old in json.loads(compare.read_text()).items()})
        for line in worse or [f"nothing is worse than in {compare}"]:
            console.print(line, highlight=False)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({name: asdict(figure) for name, figure in figures.items()}, indent=1))


def _worse(new: Mapping[str, Figure], old: Mapping[str, Figure]) -> list[str]:
    """Figures whose median is beyond the worse quartile of the earlier run."""
    lines = []
    for name in new.keys() & old.keys():
        now, before = new[name], old[name]
        if now.absolute:
            continue
        change = now.median / before.median - 1
        if now.more_is_better:
            worse = now.median < before.low and change < -_WORSE
        else:
            worse = now.median > before.high and change > _WORSE
        if worse:
            lines.append(f"worse: {name}: {before.median:.3g} → {now.median:.3g} ({change:+.0%})")
    return sorted(lines)
