"""A limit on the time of a batch: stages run in processes of their own, which can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from augment.errors import AugmentError, RecipeError, UnavailableError
from augment.prewarming.source import end_with_parent
from augment.stages.calling import Made, StageCall, Unit

_START = 300.0  # seconds for a process to import what its stage needs


class Limited:
    """Calls a stage as `StageCall` does, in `count` processes. May be called from as many threads.

    A batch that takes longer than `seconds`, or whose process dies, is tried item by item; an item that takes longer
    on its own fails. The process is killed each time, because a thread that hangs cannot be ended, and the next batch
    starts another one, which loads the model again.
    """

    def __init__(self, call: StageCall, seconds: float, count: int) -> None:
        self._call, self._seconds = call, seconds
        self._processes = [_Process(call) for _ in range(count)]
        self._free: SimpleQueue[_Process] = SimpleQueue()
        for process in self._processes:
            self._free.put(process)

    def __call__(self, units: Sequence[Unit]) -> list[Made]:
        """One `Made` per unit, in order. Raises what a StageCall raises."""
        process = self._free.get()
        try:
            made = process.ask(units, self._seconds)
        finally:
            self._free.put(process)
        if not isinstance(made, str):
            return made
        if len(units) == 1:
            return [Made(units[0], failure=made)]
        return [one for unit in units for one in self([unit])]

    def close(self) -> None:
        """Kill the processes, whatever they are doing."""
        for process in self._processes:
            process.is_closed = True
            process.kill()


class _Process:
    """A process that makes a stage's calls, started when it is first asked."""

    def __init__(self, call: StageCall) -> None:
        self.is_closed = False
        self._call = call
        self._process: Any = None
        self._pipe: Connection | None = None

    def ask(self, units: Sequence[Unit], seconds: float) -> list[Made] | str:
        """What the stage made, or why there is no answer."""
        pipe = self._pipe or self._start()
        try:
            pipe.send(units)
            if not pipe.poll(seconds):
                self.kill()
                return f"it did not return within {seconds:g} s"
            answer: list[Made] | AugmentError = pipe.recv()
        except (OSError, EOFError):
            return f"its process {self._end()}, possibly out of memory"
        if isinstance(answer, AugmentError):
            raise answer
        return answer

    def kill(self) -> None:
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None:
            process.kill()
            process.join()
        if pipe is not None:
            with suppress(OSError):
                pipe.close()

    def _start(self) -> Connection[Any, Any]:
        if self.is_closed:
            raise UnavailableError("the run was stopped")
        backend = self._call.stage.backend
        pipe: Connection[Any, Any]
        pipe, other = _context().Pipe()
        try:
            process = _context().Process(target=_serve, args=(other, self._call, dict(os.environ)), daemon=True)
            process.start()
        except Exception as error:  # whatever a user's stage raises when it is pickled
            raise RecipeError(
                f"{backend}: it cannot run in a process of its own, which batch_timeout needs: {error!r}; define it at "
                "the top level of a module, or leave batch_timeout out"
            ) from error
        other.close()
        self._process, self._pipe = process, pipe
        try:
            if not pipe.poll(_START):
                raise EOFError
            pipe.recv()
        except (OSError, EOFError) as error:
            raise UnavailableError(
                f"{backend}: the process to run it in {self._end()} when it was started; a script that calls prewarm "
                'with batch_timeout has to do so below `if __name__ == "__main__":`'
            ) from error
        return pipe

    def _end(self) -> str:
        """How the process ended."""
        process = self._process
        if process is not None:
            process.join(5)
        code = None if process is None else process.exitcode
        self.kill()
        if code is None:
            return "was stopped"
        return f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def _context() -> Any:
    """Not fork: a model's threads, and what it holds on a GPU, do not survive one. A server that has the imports done
    starts a process in a tenth of a second, instead of some seconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _serve(pipe: Connection, call: StageCall, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the server has that of its own start
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    end_with_parent()
    pipe.send(None)
    while True:
        try:
            units = pipe.recv()
        except EOFError:
            return
        try:
            answer: Any = call(units)
        except AugmentError as error:
            answer = error
        except Exception as error:
            answer = UnavailableError(f"{call.stage.backend}: {type(error).__name__}: {error}")
        try:
            pipe.send(answer)
        except OSError:
            return
        except Exception as error:  # a result, or an error, that cannot be pickled
            pipe.send(UnavailableError(f"{call.stage.backend}: its result cannot be sent: {error!r}"))
