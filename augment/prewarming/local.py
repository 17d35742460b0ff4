"""The engine that runs a plan on this machine."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any

from augment.chain import Outcome
from augment.errors import UnavailableError
from augment.prewarming.limited import Limited
from augment.prewarming.plan import Plan
from augment.prewarming.progress import bar
from augment.prewarming.report import Report, printable
from augment.prewarming.threads import Threads
from augment.stages.base import Kind
from augment.stages.calling import Work

logger = logging.getLogger(__name__)

_PATIENCE = 2.0  # seconds after Ctrl-C before it is said what is still being worked on
_NAMED = 5  # of its items


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a prewarm. The current batch is finished and kept, unless Ctrl-C is pressed again. `report` says
    what has been done."""

    def __init__(self, report: Report) -> None:
        super().__init__("interrupted")
        self.report = report


class Ended(UnavailableError):
    """A stage cannot work, for any item, and has ended the prewarm. What was made is kept. `report` says what that
    is."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def run(plan: Plan, shown: bool, batch_timeout: float | None = None) -> Report:
    """Do all work of the plan, with a progress bar per kind if `shown`; `batch_timeout` as in `prewarm`.

    Raises Interrupted, Ended and StoreError; everything computed so far is kept, and used by training.
    """
    stopped = threading.Event()
    try:
        with _stop_on_interrupt(stopped):
            for kind in plan.kinds():
                if stopped.is_set():
                    break
                with plan.stage(kind):
                    _run_kind(plan, kind, stopped, shown, batch_timeout)
    except UnavailableError as error:
        raise Ended(str(error), plan.finish(whole=False)) from error
    except KeyboardInterrupt:  # the second Ctrl-C
        stopped.set()
    report = plan.finish(whole=not stopped.is_set())
    if stopped.is_set():
        raise Interrupted(report)
    return report


def _run_kind(plan: Plan, kind: Kind[Any], stopped: threading.Event, shown: bool, batch_timeout: float | None) -> None:
    advances: list[Callable[[int], None]] = []
    works, total = plan.works(kind, lambda count: advances[0](count))
    with bar(kind.name, total, shown) as progress:
        advances.append(progress.advance)
        _compute(plan, kind, works, stopped, (lambda _: None) if plan.scans(kind) else progress.advance, batch_timeout)


def _compute(
    plan: Plan,
    kind: Kind[Any],
    works: Iterable[Work],
    stopped: threading.Event,
    advance: Callable[[int], None],
    batch_timeout: float | None,
) -> None:
    """Run batches in one thread if the stage has a model, or single images in several threads if it has none."""
    call = plan.chain.call(kind)
    count = max(1, plan.workers) if call.parallel else 1
    limited = None if batch_timeout is None else Limited(call, batch_timeout, count)
    pending: dict[Future[Outcome], list[Work]] = {}
    said = False

    def collect() -> None:
        nonlocal said
        done, _ = wait(pending, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
        if not done and stopped.is_set() and not said:
            said = True
            logger.warning("%s is still at work on %s: press Ctrl-C again to stop it", kind.name, _names(pending))
        for future in done:
            del pending[future]
            advance(plan.note(kind, future.result()))

    threads = Threads[Outcome](count, f"augment-{kind.name}")
    try:
        for batch in plan.batches(kind, works, 1 if call.parallel else call.stage.batch):
            if stopped.is_set():
                break
            pending[threads.submit(plan.chain.run, kind, batch, limited)] = batch
            while len(pending) > count:  # one batch is decoded ahead of the running ones
                collect()
        while pending:
            collect()
    except KeyboardInterrupt:
        if pending:
            plan.report.remarks.append(f"{kind.name} was stopped while it was at work on {_names(pending)}")
        raise
    except Exception:
        wait(pending)  # what is being made is kept
        raise
    finally:
        threads.close()
        if limited is not None:
            limited.close()


def _names(pending: dict[Future[Outcome], list[Work]]) -> str:
    """The items of batches, a few by name."""
    names = [work.item.source or work.item.key for batch in pending.values() for work in batch]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return printable(", ".join(names[:_NAMED]) + more)


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
