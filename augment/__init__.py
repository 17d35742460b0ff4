"""Background replacement as a dataset augmentation for PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from augment.errors import AugmentError as AugmentError
    from augment.prewarming import prewarm as prewarm
    from augment.prewarming.scenes import scenes as scenes
    from augment.recipe import Recipe as Recipe
    from augment.sampling.placement import Placement as Placement
    from augment.sampling.schedules import Cosine as Cosine
    from augment.sampling.schedules import Linear as Linear
    from augment.sampling.sources import Source as Source
    from augment.store.cache import Cache as Cache
    from augment.store.open import open_store as open_store

# Imported at first use: recipes and prewarming bring the stages and pydantic along, which a DataLoader worker never
# needs.
_PUBLIC = {
    "AugmentError": "augment.errors",
    "Cache": "augment.store.cache",
    "Cosine": "augment.sampling.schedules",
    "Linear": "augment.sampling.schedules",
    "Placement": "augment.sampling.placement",
    "Recipe": "augment.recipe",
    "Source": "augment.sampling.sources",
    "open_store": "augment.store.open",
    "prewarm": "augment.prewarming",
    "scenes": "augment.prewarming.scenes",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("augment-backgrounds")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, "__version__"})
