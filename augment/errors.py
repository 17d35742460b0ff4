"""What `augment` raises. Each message names the file or field, what is wrong with it, and the way out."""


class AugmentError(Exception):
    """Base of every error that augment raises on purpose."""


class InputError(AugmentError, ValueError):
    """An image, file, folder or argument that cannot be used as it is."""


class RecipeError(AugmentError, ValueError):
    """A recipe that cannot be read, or a setting in it that is not allowed."""


class StoreError(AugmentError, RuntimeError):
    """A store that cannot be opened, read or written."""


class MissError(AugmentError, LookupError):
    """A background was asked for with `on_miss="raise"`, and the store has none for this image."""


class WeightsError(AugmentError, RuntimeError):
    """A stage's library or weights are not here. Ends the work at once: every further item would fail alike."""


class ItemFailed(AugmentError, RuntimeError):
    """One item's stage failed for good. A stage returns it in the item's place, so that the rest of its batch
    counts."""


class CorruptEntry(AugmentError, ValueError):
    """Stored bytes that do not match their checksum or their format; read as a miss."""
