"""Files that users name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def check_file(path: str | Path) -> None:
    """Raise OSError if `path` leads to no regular file: opening a pipe may block forever, and a device has no end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
