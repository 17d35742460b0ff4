"""Keep libraries from printing while they load or run a model."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Run "diffusers" or "transformers" without progress bars and without any message below an error; what they and
    their libraries warn of goes to the debug log."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with _quiet_loggers(*libraries):
                yield
        finally:
            for one in caught:
                logger.debug("%s: %s", one.category.__name__, one.message)


@contextmanager
def _quiet_loggers(*libraries: str) -> Iterator[None]:
    loggers: list[Any] = [importlib.import_module(f"{library}.utils.logging") for library in libraries]
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in loggers]
    for library in loggers:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(loggers, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


@contextmanager
def stderr_to_log(name: str) -> Iterator[Callable[[], list[str]]]:
    """Send what native code writes to file descriptor 2 to the debug log, each line after `name`.

    Gives a function that returns the lines so far.
    """
    try:
        kept = os.dup(2)
    except OSError:  # no standard error at all: nothing to keep quiet
        yield list
        return
    with tempfile.TemporaryFile() as file:

        def lines() -> list[str]:
            file.seek(0)
            return file.read().decode(errors="replace").splitlines()

        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            for line in lines():
                logger.debug("%s: %s", name, line)
