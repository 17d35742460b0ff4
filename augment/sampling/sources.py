"""Where the backgrounds of a sample come from: its own ones, or those of other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from augment.artifacts import BACKGROUND, PLATE, Artifact, Image
from augment.errors import InputError
from augment.sampling.checks import check_range
from augment.sampling.weights import as_weights, pick
from augment.store.pool import Relation

SourceName: TypeAlias = Literal[
    "own",
    "pool",
    "pool:same",
    "pool:other",
    "plates:own",
    "plates:pool",
    "plates:pool:same",
    "plates:pool:other",
]

# What a sample takes, and of which other images; None is the image itself.
Choice: TypeAlias = tuple[Artifact[Image], Relation | None]

_PLATES = "plates:"
_RELATIONS: dict[str, Relation | None] = {"own": None, "pool": "any", "pool:same": "same", "pool:other": "other"}


@dataclass(frozen=True)
class Source:
    """Where backgrounds come from.

    Args:
        weights: a name, or a mapping of names to weights, of which each sample draws one: "own" is a background
            generated for this very image, "pool" one generated for any image, "pool:same" and "pool:other" one
            generated for an image of the same or of another group (images without a group form a group of their own).
            "plates:" before any of them takes the inpainted plate instead of a generated background: "plates:pool" is
            what ForAug does (arXiv 2503.09399).
        max_coverage: share, 0 to 1, of an image that its object may fill for its background to serve other images.
            Beyond it, hardly anything of the plate was ever seen (0.8 is ForAug's).
        flip: probability that the background of another image is mirrored left to right.

    Raises InputError, naming what is wrong.
    """

    weights: SourceName | Mapping[SourceName, float]
    max_coverage: float = 0.8
    flip: float = 0.0

    def __post_init__(self) -> None:
        as_weights("source", self.weights, get_args(SourceName))
        check_range("source: max_coverage", self.max_coverage)
        check_range("source: flip", self.flip)

    def table(self) -> dict[str, float]:
        """The weights by name."""
        return {self.weights: 1.0} if isinstance(self.weights, str) else {str(k): v for k, v in self.weights.items()}

    def __str__(self) -> str:
        return str(self.weights) if self == Source(self.weights) else repr(self)

    @property
    def draws_from_others(self) -> bool:
        """Whether any of it needs the backgrounds of other images."""
        return any(weight and not name.endswith("own") for name, weight in self.table().items())

    def pick(self, uniform: float) -> Choice:
        """What the sample takes (BACKGROUND or PLATE) and of which images, by `uniform` in [0, 1)."""
        name = pick(self.table(), uniform)
        return PLATE if name.startswith(_PLATES) else BACKGROUND, _RELATIONS[name.removeprefix(_PLATES)]


def as_source(source: str | Mapping[str, Any] | Source) -> Source:
    """A Source from itself, a name, weights by name, or the dict of its fields that serialization makes.

    Raises InputError.
    """
    if isinstance(source, Source):
        return source
    settings = source if isinstance(source, Mapping) and "weights" in source else {"weights": source}
    try:
        return Source(**settings)
    except TypeError as error:
        raise InputError(f"source: {source!r} cannot be used: {error}") from error
