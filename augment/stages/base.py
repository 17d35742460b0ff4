"""What every stage has in common, what a kind of stage is, and the item that stages work on."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from augment.artifacts import Artifact, Image

if TYPE_CHECKING:
    from augment.models.weights import Weights

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Item:
    """One image on its way through the chain: its pixels, its key, and what its dataset says about it.

    `image` is `(H, W, 3)` uint8 RGB, None where no stage at hand needs it. `source` is the image's path, if it has
    one, `group` its class, `mask` the dataset's own `(H, W)` mask (non-zero is object), `boxes` its labelled objects,
    `(n, 4)` float64 left, top, right, bottom in pixels, with n > 0. `reads` maps the name of a kind
    to a digest of what its stage reads besides the pixels (see `Stage.reads`); None: not computed yet.
    """

    image: Image | None
    key: str
    source: str | None = None
    group: str | None = None
    mask: NDArray[np.uint8] | None = None
    boxes: NDArray[np.float64] | None = None
    reads: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Fact:
    """Something that a stage is given about an item, other than what earlier stages made of it.

    `name` is the attribute of `Item` that holds it, if there is one. `decides` says that another value makes another
    artifact, although neither the pixels nor the settings have changed.
    """

    name: str
    decides: bool = False


IMAGE = Fact("image")
SOURCE = Fact("source")
GROUP = Fact("group", decides=True)
MASK = Fact("mask", decides=True)
BOXES = Fact("boxes", decides=True)
VARIANT = Fact("variant")
SEED = Fact("seed")  # 63 bits; the same for all variants of an image, unless the kind is drawn
RESULT = Fact("result")  # what a stage has just drawn, for those that judge it


@dataclass(frozen=True, eq=False)
class Kind(Generic[T]):
    """A step of the chain.

    Args:
        name: its table in a recipe.
        makes: the artifact, or None for a kind that judges what drawn kinds make.
        needs: the keyword arguments of its stages, each with the kind that makes it or the fact about the item. A
            stage is given those that its `__call__` names.
        per_variant: makes one artifact for each variant of an image, not one for the image.
        drawn: depends on a seed; a result that is rejected is made again with the next one.
        optional: a recipe may lack it.
    """

    name: str
    makes: Artifact[T] | None
    needs: Mapping[str, Kind[Any] | Fact]
    per_variant: bool = False
    drawn: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Stage(ABC):
    """Base class of all stages. A stage is a frozen dataclass; its fields are its settings, and so its fingerprint.

    It is cheap to build, compare and pickle. A model is loaded at first use into a `functools.cached_property` and
    dropped by `unload()`. A stage is called on a batch, by keyword, and returns one artifact per item, in order, or
    `ItemFailed` in place of an artifact.

    To write a backend of your own, subclass the base class of its kind (`augment.stages.remove.Remover`, …), set
    `backend` and implement `__call__`. It need only name the arguments that it uses: `def __call__(self, *, images,
    **_)`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    kind: ClassVar[Kind[Any]]  # set by the base class of a kind; substages have none
    backends: ClassVar[Mapping[str, str]] = {}  # of a base class: the built-in backends by name, as "module:Class"

    backend: ClassVar[str]  # its name in a recipe
    version: ClassVar[int] = 1  # raised when the same settings give another result, or a default changes
    execution_only: ClassVar[frozenset[str]] = frozenset()  # settings that say how to run, not what to make
    parallel: ClassVar[bool] = False  # plain functions on arrays: may be called from several threads at once
    # Settings that are stages themselves, or tuples of stages, with their base classes.
    substages: ClassVar[Mapping[str, type[Stage]]] = {}

    @abstractmethod
    def __call__(self, *args: Any, **given: Any) -> Sequence[Any]:
        """One result per item."""

    @property
    def batch(self) -> int:
        """How many items it works on best at once: its `batch_size` setting, if it has one."""
        size: int = getattr(self, "batch_size", 1)
        return size

    def settings(self) -> dict[str, Any]:
        """Every setting by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def reads(self, item: Item) -> str:
        """A digest of everything that this stage reads of the item besides its pixels; "" for nothing.

        An artifact is recomputed when it changes. Override it in a stage that reads a file of its own for each item.
        """
        files = self.files()
        others = self._reads_of(item)
        return digest({"item": others, **files}) if files else others

    def files(self) -> dict[str, str]:
        """The text of each file of the user's that decides on all results, by the setting that names it."""
        inner = {name: getattr(self, name).files() for name in self.substages}
        return {f"{name}.{setting}": text for name, files in inner.items() for setting, text in files.items()}

    def _reads_of(self, item: Item) -> str:
        facts = {name: fact for name, fact in given_by_kind(type(self)).items() if isinstance(fact, Fact)}
        values = {name: getattr(item, fact.name) for name, fact in facts.items() if fact.decides}
        return digest({name: value for name, value in values.items() if value is not None})

    def finish(self, result: Any, given: Mapping[str, Any]) -> Any:
        """Check and complete one result, before it is kept; `given` are the arguments it was made from.

        Raises ItemFailed, or returns Rejected to ask a drawn kind for another seed.
        """
        return result

    def check(self) -> None:
        """Raise UnavailableError if a library, weights or a server that this stage needs is missing; loads no model."""

    def weights(self) -> Weights | None:
        """The model that it needs, found or not; None if it needs none, or if a server has it."""
        return None

    def target(self) -> str:
        """The device that it will run on, or the server that it asks. Raises UnavailableError if there is no such
        device."""
        return "cpu"

    def inner_stages(self) -> dict[str, Stage]:
        """The stages inside this one by the name of their table in it: "detector", or "detector.0" if there are
        several."""
        found: dict[str, Stage] = {}
        for name in self.substages:
            value = getattr(self, name)
            found |= {f"{name}.{n}": one for n, one in enumerate(value)} if isinstance(value, tuple) else {name: value}
        return found

    def unload(self) -> None:
        """Drop whatever was loaded; the next call loads it again."""
        names = {field.name for field in fields(self)}
        for name in [name for name in self.__dict__ if name not in names]:
            del self.__dict__[name]
        for stage in self.inner_stages().values():
            stage.unload()

    def __getstate__(self) -> dict[str, Any]:
        return self.settings()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class Detailed(ABC):
    """A result that comes with an account of how it was made."""

    @property
    @abstractmethod
    def result(self) -> Any:
        """What the stage made."""

    @property
    @abstractmethod
    def notes(self) -> Mapping[str, Any]:
        """What its provenance should tell, as JSON."""

    @property
    @abstractmethod
    def pictures(self) -> Mapping[str, Image]:
        """Images on the way to it, by name, to be kept beside it."""


@cache
def given_by_kind(stage: type[Stage]) -> dict[str, Kind[Any] | Fact]:
    """Those of its kind's needs that a stage is given: the ones that its `__call__` names, or all if it names none."""
    parameters = inspect.signature(stage.__call__).parameters
    named = {name: need for name, need in stage.kind.needs.items() if name in parameters}
    return named or dict(stage.kind.needs)


def digest(values: Mapping[str, Any]) -> str:
    """16 hex digits for the values, which are text, bytes or arrays; "" if there are none."""
    if not values:
        return ""
    hasher = xxhash.xxh3_64()
    for name, value in values.items():
        array = isinstance(value, np.ndarray)
        hasher.update((f"{name}:{value.dtype}{value.shape}:" if array else f"{name}:").encode())
        text = isinstance(value, str)
        hasher.update(
            np.ascontiguousarray(value).data if array else value.encode(errors="surrogatepass") if text else value
        )
    return hasher.hexdigest()
