"""Which images were looked up in vain: noted by training workers, read by `augment prewarm --missing`."""

from __future__ import annotations

import logging
import os
from collections.abc import Set
from pathlib import Path

logger = logging.getLogger(__name__)

_MOST = 100_000  # a pipeline that misses always, with a random crop before the transform, must not fill the disk


class Misses:
    """Keys, and paths where the sample carried one, a line each in one file that many processes append to.

    Written without a lock: a short line that is appended in one call stays whole. What a process finds in the file at
    its first miss it does not write again. A folder that cannot be written is left alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: set[str] | None = None

    def add(self, name: str) -> None:
        """Note a key or a path."""
        if self._known is None:
            self._known = self.read()
        if name in self._known or len(self._known) >= _MOST or "\n" in name:
            return
        self._known.add(name)
        try:
            self.path.parent.mkdir(exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(file, f"{name}\n".encode())
            finally:
                os.close(file)
        except OSError as error:
            logger.debug("%s: misses are not noted: %s", self.path, error)

    def read(self) -> set[str]:
        """All that were noted, once each."""
        try:
            return set(self.path.read_text(encoding="utf-8", errors="replace").split("\n")) - {""}
        except OSError:
            return set()

    def remove(self, names: Set[str]) -> None:
        """Forget those of `names`."""
        left = self.read() - names
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        if left:
            temporary.write_text("".join(f"{name}\n" for name in sorted(left)), encoding="utf-8")
            temporary.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)
