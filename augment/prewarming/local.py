"""The engine that runs a plan on this machine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any

from augment.chain import Outcome
from augment.errors import UnavailableError
from augment.prewarming.plan import Plan
from augment.prewarming.progress import bar
from augment.prewarming.report import Report
from augment.stages.base import Kind
from augment.stages.calling import Work


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a prewarm. The current batch is finished and kept. `report` says what has been done."""

    def __init__(self, report: Report) -> None:
        super().__init__("interrupted")
        self.report = report


class Ended(UnavailableError):
    """A stage cannot work, for any item, and has ended the prewarm. What was made is kept. `report` says what that
    is."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def run(plan: Plan, shown: bool) -> Report:
    """Do all work of the plan, with a progress bar per kind if `shown`.

    Raises Interrupted, Ended and StoreError; everything computed so far is kept, and used by training.
    """
    stopped = threading.Event()
    try:
        with _stop_on_interrupt(stopped):
            for kind in plan.kinds():
                if stopped.is_set():
                    break
                with plan.stage(kind):
                    _run_kind(plan, kind, stopped, shown)
    except UnavailableError as error:
        raise Ended(str(error), plan.finish(whole=False)) from error
    report = plan.finish(whole=not stopped.is_set())
    if stopped.is_set():
        raise Interrupted(report)
    return report


def _run_kind(plan: Plan, kind: Kind[Any], stopped: threading.Event, shown: bool) -> None:
    advances: list[Callable[[int], None]] = []
    works, total = plan.works(kind, lambda count: advances[0](count))
    with bar(kind.name, total, shown) as progress:
        advances.append(progress.advance)
        _compute(plan, kind, works, stopped, (lambda _: None) if plan.scans(kind) else progress.advance)


def _compute(
    plan: Plan, kind: Kind[Any], works: Iterable[Work], stopped: threading.Event, advance: Callable[[int], None]
) -> None:
    """Run batches in one thread if the stage has a model, or single images in several threads if it has none."""
    call = plan.chain.call(kind)
    threads = max(1, plan.workers) if call.parallel else 1
    pending: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(threads, thread_name_prefix=f"augment-{kind.name}") as pool:
        for batch in plan.batches(kind, works, 1 if call.parallel else call.stage.batch):
            if stopped.is_set():
                break
            pending.add(pool.submit(plan.chain.run, kind, batch))
            if len(pending) > threads:  # one batch is decoded ahead of the running ones
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    advance(plan.note(kind, future.result()))
        for future in pending:
            advance(plan.note(kind, future.result()))


@contextmanager
def _stop_on_interrupt(stopped: threading.Event) -> Iterator[None]:
    """The first Ctrl-C stops after the current item, a second one immediately."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
