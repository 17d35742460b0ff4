"""What `augment` raises. Each message names the file or field, what is wrong with it, and the way out.

AugmentError
├── InputError          an image, file, folder or argument                    also a ValueError
├── RecipeError         a recipe or a setting in it                           also a ValueError
├── StoreError          a store that cannot be opened, read or written        also a RuntimeError
│   └── CacheFullError  an entry that does not fit within the size limit
├── MissError           an image that the store lacks                         also a LookupError
├── UnavailableError    a library, weights, device or server                  also a RuntimeError
├── ItemFailed          one item at one stage; the others go on               also a RuntimeError
└── CorruptEntry        stored bytes; read as a miss                          also a ValueError
"""

from augment.redact import redact


class AugmentError(Exception):
    """Base class of every error that augment raises on purpose. No message holds a secret; see `redact`."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact(arg) if isinstance(arg, str) else arg for arg in args))


class InputError(AugmentError, ValueError):
    """An image, file, folder or argument that cannot be used as it is."""


class RecipeError(AugmentError, ValueError):
    """A recipe that cannot be read, or a setting in it that is not allowed."""


class StoreError(AugmentError, RuntimeError):
    """A store that cannot be opened, read or written."""


class CacheFullError(StoreError):
    """An entry that does not fit within the cache's size limit while everything else in it is needed."""


class MissError(AugmentError, LookupError):
    """`on_miss="raise"`, and the store has no background for this image."""


class UnavailableError(AugmentError, RuntimeError):
    """A library, weights, a folder, a device or a server that a stage needs cannot be used.

    Ends the work at once: every further item would fail in the same way.
    """


class ItemFailed(AugmentError, RuntimeError):
    """One item's stage failed for good. A stage returns it in place of the item's result, so that the rest of its
    batch counts."""


class CorruptEntry(AugmentError, ValueError):
    """Stored bytes that do not match their checksum or their format; read as a miss."""
