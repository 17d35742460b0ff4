"""Background replacement as a dataset augmentation for PyTorch."""

from typing import TYPE_CHECKING, Any

from augment.cache import Cache
from augment.errors import AugmentError
from augment.store import open_store

if TYPE_CHECKING:
    from augment.prewarming import prewarm
    from augment.recipe import Recipe

__all__ = ["AugmentError", "Cache", "Recipe", "open_store", "prewarm"]


def __getattr__(name: str) -> Any:
    # Recipes and prewarming bring the stages and pydantic along, which a DataLoader worker never needs.
    if name == "Recipe":
        from augment.recipe import Recipe

        return Recipe
    if name == "prewarm":
        from augment.prewarming import prewarm

        return prewarm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
