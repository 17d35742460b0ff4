"""`augment verify`: check a cache, and repair it."""

from __future__ import annotations

import logging
from pathlib import Path

from augment.errors import StoreError
from augment.store.cache import Cache
from augment.store.open import open_store
from augment.store.verify import verify

_SHOWN = 50


def run(path: Path, repair: bool) -> tuple[str, bool]:
    """The findings as text, and whether anything was wrong."""
    warnings = _Warnings()
    logger = logging.getLogger("augment")
    logger.addHandler(warnings)
    try:
        store = open_store(path)
        if not isinstance(store, Cache):
            raise StoreError(f"{path} is not a cache: only caches can be verified")
        found = verify(store, repair)
    finally:
        logger.removeHandler(warnings)
    wrong = found.wrong + [text for text in warnings.texts if "settings" in text or "store.json" in text]
    done = "removed; prewarm again to replace it" if repair else "run with --repair to remove it"
    lines = wrong[:_SHOWN] + ([f"… and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else [])
    total = f"{found.entries} entries, {found.files} other files, {len(wrong)} wrong"
    lines.append(f"{total}: {done}" if wrong else total)
    return "\n".join(lines), bool(wrong)


class _Warnings(logging.Handler):
    """Keeps what opening a store says of damaged settings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
