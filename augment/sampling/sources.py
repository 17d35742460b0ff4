"""Where the backgrounds of a sample come from: its own ones, those of other images, or scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from augment.artifacts import BACKGROUND, PLATE, SCENE, Artifact, Image
from augment.errors import InputError
from augment.sampling.checks import check_range
from augment.sampling.weights import Weighted, as_weights
from augment.store.pool import Relation

SourceName: TypeAlias = Literal[
    "own",
    "pool",
    "pool:same",
    "pool:other",
    "scenes",
    "plates:own",
    "plates:pool",
    "plates:pool:same",
    "plates:pool:other",
]


class Choice(NamedTuple):
    """What a sample takes, by the name that `Source` has for it; of which other images, None being the image itself."""

    name: SourceName
    artifact: Artifact[Image]
    relation: Relation | None


_SCENES: Final = "scenes"
_CHOICES: dict[SourceName, Choice] = {
    choice.name: choice
    for choice in (
        Choice("own", BACKGROUND, None),
        Choice("pool", BACKGROUND, "any"),
        Choice("pool:same", BACKGROUND, "same"),
        Choice("pool:other", BACKGROUND, "other"),
        Choice(_SCENES, SCENE, "any"),
        Choice("plates:own", PLATE, None),
        Choice("plates:pool", PLATE, "any"),
        Choice("plates:pool:same", PLATE, "same"),
        Choice("plates:pool:other", PLATE, "other"),
    )
}


@dataclass(frozen=True)
class Source:
    """Where backgrounds come from.

    Args:
        weights: a name, or a mapping of names to weights, of which each sample draws one: "own" is a background
            generated for this very image, "pool" one generated for any image, or a scene, "pool:same" and "pool:other"
            one generated for an image of the same or of another group (images without a group form a group of their
            own). "scenes" is a scene, made by `augment.scenes` from a prompt alone, with any recipe. "pool" draws each
            scene as often as each image. "pool:same" and "pool:other" draw no scenes, since these belong to no group:
            `{"pool:other": 1, "scenes": 1}` draws both. "plates:" before any name but "scenes" takes the inpainted
            plate instead of a generated background: "plates:pool" is what ForAug does (arXiv 2503.09399).
        max_coverage: share, 0 to 1, of an image that its object may fill for its background to serve other images.
            Beyond it, hardly anything of the plate was ever seen (0.8 is ForAug's).
        flip: probability that a scene or the background of another image is mirrored left to right.

    Raises InputError, naming what is wrong.
    """

    weights: SourceName | Mapping[SourceName, float]
    max_coverage: float = 0.8
    flip: float = 0.0

    def __post_init__(self) -> None:
        as_weights("source", self.weights, _CHOICES)
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
        return any(weight and not name.endswith(("own", _SCENES)) for name, weight in self.table().items())

    @property
    def draws_scenes(self) -> bool:
        """Whether it draws scenes, if there are any."""
        return any(weight and name in ("pool", _SCENES) for name, weight in self.table().items())

    @property
    def needs_scenes(self) -> bool:
        """Whether a part of it is nothing but scenes."""
        return bool(self.table().get(_SCENES))

    def pick(self, uniform: float) -> Choice:
        """What the sample takes, by `uniform` in [0, 1)."""
        return _CHOICES[self._weighted.pick(uniform)]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # not what is derived from them

    @cached_property
    def _weighted(self) -> Weighted[SourceName]:
        return Weighted(cast("dict[SourceName, float]", self.table()))


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
