"""A stage of each kind that works, except for images of one width: there it does what a broken model may do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from augment.artifacts import Matte, Prompt
from augment.stages.enrich import Enricher
from augment.stages.guard import Guard
from augment.stages.kinds import KINDS
from tests import simple

WIDTH = 90  # of the images that go wrong


def _exits(_):
    sys.exit("no such model")


def _raises(_):
    raise ValueError("this item is broken")


def _hangs_in_python(_):
    while True:
        time.sleep(0.01)


def _hangs_in_c(_):
    ctypes.CDLL(None).pause()  # ctypes releases the interpreter's lock


def _hangs_with_the_lock(_):
    ctypes.PyDLL(None).pause()


def _dies(_):
    os.kill(os.getpid(), signal.SIGKILL)


def _misshapen(result):
    if isinstance(result, Matte):
        return Matte.from_full(result.uncropped()[:-1])
    return result[:-1] if isinstance(result, np.ndarray) else 3


def _of_nan(result):
    if isinstance(result, Matte):
        return Matte.from_full(result.uncropped(), confidence=float("nan"))
    return np.full(np.shape(result), np.nan, np.float32)


def _as_tensor(result):
    return torch.from_numpy(np.zeros((4, 4, 3)) if not isinstance(result, np.ndarray) else result)


# What each does to the results of a batch in which a bad item is, or to the bad item's own.
BATCH = {
    "raises": _raises,
    "exits": _exits,
    "returns too few": lambda results: results[:-1],
    "returns too many": lambda results: results * 2,
    "returns nothing": lambda _: None,
}
HANGS = {"in Python": _hangs_in_python, "in C": _hangs_in_c, "with the lock": _hangs_with_the_lock, "dies": _dies}
ITEM = {
    "returns None": lambda _: None,
    "returns NaN": _of_nan,
    "returns the wrong shape": _misshapen,
    "returns a tensor": _as_tensor,
    "returns an error": lambda _: ValueError("not raised"),
}


class Faulty:
    """Before a stage that works."""

    def __call__(self, **given):
        values = list(given.values())
        bad = [any(map(_is_bad, one)) for one in zip(*values, strict=True)]
        if any(bad) and self.fault in HANGS:
            HANGS[self.fault](None)
        if any(bad) and self.fault in BATCH:
            return BATCH[self.fault](super().__call__(**given))
        results = super().__call__(**given)
        return [ITEM[self.fault](one) if is_bad else one for one, is_bad in zip(results, bad, strict=True)]


def _is_bad(value):
    if isinstance(value, Prompt):
        return _is_bad(value.text)
    if isinstance(value, np.ndarray):
        return value.ndim == 3 and value.shape[1] == WIDTH
    return isinstance(value, str) and f"a plate of {WIDTH} by" in value


@dataclass(frozen=True)
class SameEnricher(Enricher):
    """Leaves its drafts as they are."""

    def __call__(self, *, drafts, **_):
        return list(drafts)


@dataclass(frozen=True)
class LenientGuard(Guard):
    """Allows everything."""

    def __call__(self, *, backgrounds, **_):
        return [None] * len(backgrounds)


@dataclass(frozen=True)
class FaultyRemover(Faulty, simple.RedRemover):
    backend: ClassVar[str] = "faulty"
    fault: str = "raises"


@dataclass(frozen=True)
class FaultyInpainter(Faulty, simple.MeanInpainter):
    backend: ClassVar[str] = "faulty"
    fault: str = "raises"


@dataclass(frozen=True)
class FaultyCaptioner(Faulty, simple.SizeCaptioner):
    backend: ClassVar[str] = "faulty-captioner"  # which tests/plugin names
    fault: str = "raises"


@dataclass(frozen=True)
class FaultyRefiner(Faulty, simple.EchoRefiner):
    backend: ClassVar[str] = "faulty"
    fault: str = "raises"


@dataclass(frozen=True)
class FaultyGenerator(Faulty, simple.NoiseGenerator):
    backend: ClassVar[str] = "faulty"
    fault: str = "raises"


@dataclass(frozen=True)
class FaultyEnricher(Faulty, SameEnricher):
    backend: ClassVar[str] = "faulty"
    fault: str = "raises"


@dataclass(frozen=True)
class FaultyGuard(Faulty, LenientGuard):
    backend: ClassVar[str] = "faulty"
    fault: str = "raises"


FAULTY = (
    *(FaultyRemover, FaultyInpainter, FaultyCaptioner, FaultyRefiner, FaultyGenerator),
    *(FaultyEnricher, FaultyGuard),
)
KIND = {stage.kind.name: stage for stage in FAULTY}
assert KIND.keys() == KINDS.keys()


def recipe(kind, fault):
    """Simple stages, and the one of that kind with that fault."""
    return simple.recipe(retries=1).changed({kind: KIND[kind](fault=fault)})
