"""What is known of recipes and the models that they name: license, size, memory, speed."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Known:
    """A model: its license, whether that allows commercial use, and GB of its download and of memory."""

    names: tuple[str, ...]
    license: str
    commercial: str
    download: float
    memory: float


def known(model: str) -> Known | None:
    """What is known of the model of that name, or None."""
    return next((entry for entry in _models() if any(fnmatchcase(model, name) for name in entry.names)), None)


def speed(recipe: str) -> str | None:
    """How long a recipe takes for an image, where it was measured."""
    found: str | None = _table()["speed"].get(recipe)
    return found


@cache
def _models() -> tuple[Known, ...]:
    return tuple(Known(**(entry | {"names": tuple(entry["names"])})) for entry in _table()["model"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("augment.models").joinpath("known.toml").read_text(encoding="utf-8"))
