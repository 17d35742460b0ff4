"""Progress: one bar per stage on a terminal and in a notebook, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0


class Bar(Protocol):
    """Counts one stage's artifacts."""

    def advance(self, count: int) -> None:
        """Count `count` more as done."""


class Quiet:
    """Shows nothing."""

    def advance(self, count: int) -> None:
        pass


class Lines:
    """Prints a line every ten seconds, for logs."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        self.console, self.label, self.total = console, label, total
        self.done = 0
        self.started = self.shown = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.shown >= _SECONDS_BETWEEN_LINES:
            self.show()

    def show(self) -> None:
        """Print the current state."""
        self.shown = time.monotonic()
        rate = self.done / max(1e-9, self.shown - self.started)
        left = (self.total - self.done) / rate if rate else 0.0
        text = f"{self.label}: {self.done}/{self.total}, {rate:.1f}/s"
        self.console.print(text + (f", {left:.0f} s left" if self.done < self.total else ""), highlight=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")


class _RichBar:
    def __init__(self, progress: Progress, label: str, total: int) -> None:
        self.progress = progress
        self.task = progress.add_task(label, total=total)

    def advance(self, count: int) -> None:
        self.progress.advance(self.task, count)


@contextmanager
def bar(label: str, total: int, shown: bool) -> Iterator[Bar]:
    """A progress bar for one stage, on standard error."""
    console = Console(stderr=True)
    if not shown or total == 0:
        yield Quiet()
    elif console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None):
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            yield _RichBar(progress, label, total)
    else:
        lines = Lines(console, label, total)
        yield lines
        lines.show()
