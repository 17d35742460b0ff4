"""The table of kinds, and where the backends of each are found."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Any

from augment.errors import RecipeError
from augment.stages.base import Kind, Stage
from augment.stages.caption import Captioner
from augment.stages.enrich import Enricher
from augment.stages.generate import Generator
from augment.stages.guard import Guard
from augment.stages.inpaint import Inpainter
from augment.stages.refine import Refiner
from augment.stages.remove import Remover

logger = logging.getLogger(__name__)

BASES: tuple[type[Stage], ...] = (Remover, Inpainter, Captioner, Refiner, Generator, Enricher, Guard)
KINDS: dict[str, Kind[Any]] = {base.kind.name: base.kind for base in BASES}

# The entry-point group in which a package names its own backends, each under its `backend`:
#     [project.entry-points."augment.backends"]
#     red = "my_package.stages:RedRemover"
GROUP = "augment.backends"


def base_class(name: str) -> type[Stage] | None:
    """The base class of the kind of that name, built in or brought by a backend of another package; None if there is
    none."""
    for base in BASES:
        if base.kind.name == name:
            return base
    for backend in map(_load, entry_points(group=GROUP)):
        if backend is not None and hasattr(backend, "kind") and backend.kind.name == name:
            return next(base for base in reversed(backend.__mro__) if getattr(base, "kind", None) is backend.kind)
    return None


def find_backend(base: type[Stage], name: str) -> type[Stage] | None:
    """The backend of that name among the subclasses of `base`: a built-in one, or another package's; None if there is
    none. Raises RecipeError if it cannot be imported."""
    if name in base.backends:
        return _built_in(base.backends[name])
    found = (_load(point) for point in entry_points(group=GROUP, name=name))
    return next((backend for backend in found if backend is not None and issubclass(backend, base)), None)


def backend_names(base: type[Stage]) -> list[str]:
    """The names of all backends that `find_backend` knows."""
    return [*base.backends, *sorted(_others(base))]


def _others(base: type[Stage]) -> Iterator[str]:
    for point in entry_points(group=GROUP):
        backend = _load(point)
        if backend is not None and issubclass(backend, base):
            yield point.name


@cache
def _built_in(target: str) -> type[Stage]:
    backend: type[Stage] = resolve_name(target)
    return backend


@cache
def _load(point: EntryPoint) -> type[Stage] | None:
    """The class that an entry point names; None, with a warning, if it is not a stage called so."""
    try:
        backend = point.load()
    except Exception as error:  # another package's import may fail in any way
        logger.warning("the backend %s cannot be imported from %s: %r", point.name, point.value, error)
        return None
    if not (isinstance(backend, type) and issubclass(backend, Stage)):
        logger.warning("the backend %s: %s is not a subclass of a kind of stage", point.name, point.value)
        return None
    if getattr(backend, "backend", None) != point.name:
        raise RecipeError(
            f"the entry point {point.name} names {point.value}, whose `backend` is "
            f"{getattr(backend, 'backend', None)!r}: they have to be the same"
        )
    return backend
