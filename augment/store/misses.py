"""Images that training looked for and did not find: noted by its workers, read by `augment prewarm --missing`."""

from __future__ import annotations

import logging
import os
from collections.abc import Set
from pathlib import Path

from augment.store.files import open_regular, write_atomically

logger = logging.getLogger(__name__)

_MOST_NBYTES = 2**26
_MOST = 100_000  # a pipeline that always misses, with a random crop before the transform, must not fill the disk
# Neither through a link nor into a pipe, which would block (Windows has neither flag).
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Misses:
    """Keys, and paths if the sample carried one, one per line in a file that many processes append to.

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
            if self.path.parent.is_symlink():
                raise OSError(f"{self.path.parent} is a link")
            file = os.open(self.path, _APPEND, 0o666)
            try:
                os.write(file, os.fsencode(name) + b"\n")
            finally:
                os.close(file)
        except OSError as error:
            logger.debug("%s: misses are not noted: %s", self.path, error)

    def read(self) -> set[str]:
        """All that were noted, once each."""
        try:
            with open_regular(self.path) as file:
                return {os.fsdecode(line) for line in file.read(_MOST_NBYTES).split(b"\n")} - {""}
        except OSError:
            return set()

    def remove(self, names: Set[str]) -> None:
        """Forget those of `names`."""
        noted = self.read()
        left = noted - names
        if left == noted:
            return
        if left:
            write_atomically(self.path, b"".join(os.fsencode(name) + b"\n" for name in sorted(left)))
        else:
            self.path.unlink(missing_ok=True)
