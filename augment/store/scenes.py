"""The scenes of a store, whatever recipe made them: an index to draw from."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from augment.artifacts import SCENE
from augment.errors import CorruptEntry
from augment.store.files import read_records, write_records

logger = logging.getLogger(__name__)

SCENES_FILE = "pools/scenes.index"  # in a store's folder

_TRIES = 4  # neighbors tried if a scene is not there any more
_MAGIC = b"AUGSCEN1"
_RECORD = np.dtype([("fingerprint", "V8"), ("key", "V16"), ("variant", "<u4")])
_NAME = re.compile(rf"{SCENE.name}/([0-9a-f]{{16}})/([0-9a-f]{{32}})/(\d{{1,9}})")


class SceneName(NamedTuple):
    """A scene by the fingerprint of the stage that made it, the key of its prompt, and its number among the scenes of
    that prompt."""

    fingerprint: str
    key: str
    variant: int


def scenes_among(names: Iterable[str]) -> list[SceneName]:
    """The scenes among the names of a store's entries."""
    found = filter(None, map(_NAME.fullmatch, names))
    return [SceneName(match[1], match[2], int(match[3])) for match in found]


@dataclass(frozen=True, eq=False)
class SceneIndex:
    """All scenes of a store, sorted. Read from a file it is memory-mapped; its pickle then holds the path only."""

    records: NDArray[Any]
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[SceneName]:
        return map(_scene, self.records)

    def draw(self, uniform: float) -> Iterator[SceneName]:
        """A scene, drawn by `uniform` in [0, 1); then a few more to fall back on."""
        count = len(self.records)
        for step in range(min(count, _TRIES)):
            yield _scene(self.records[(int(uniform * count) + step) % count])

    @classmethod
    def of(cls, scenes: Iterable[SceneName]) -> SceneIndex:
        """The index of these scenes."""
        rows = [(bytes.fromhex(fingerprint), bytes.fromhex(key), n) for fingerprint, key, n in sorted(set(scenes))]
        return cls(np.array(rows, _RECORD))

    @classmethod
    def load(cls, path: Path) -> SceneIndex:
        """The index in a file; an empty one if there is no file. Raises CorruptEntry if a bit of it is not as it was
        written.

        A process maps a file once, since each map holds a file descriptor.
        """
        try:
            status = path.stat()
        except OSError:  # there is none, or reading it says why it cannot be read
            return cls(read_records(path, _MAGIC, _RECORD))
        identity = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
        index = _mapped.get(identity)
        if index is None:
            index = _mapped[identity] = cls(read_records(path, _MAGIC, _RECORD), path)
        return index

    def save(self, path: Path) -> None:
        """Write the index in place of an older one, which its readers keep until they open it anew."""
        write_records(path, _MAGIC, self.records)

    def __reduce__(self) -> Any:
        return (SceneIndex, (self.records,)) if self.path is None else (_reopened, (self.path,))


_mapped: WeakValueDictionary[tuple[str, int, int, int], SceneIndex] = WeakValueDictionary()


def _reopened(path: Path) -> SceneIndex:
    """The index in a spawned worker; an empty one, and said, if it was damaged since the training began."""
    try:
        return SceneIndex.load(path)
    except CorruptEntry as error:
        logger.warning("%s; no scene is drawn: run `augment scenes` again to write it anew", error)
        return SceneIndex.of(())


def _scene(record: Any) -> SceneName:
    return SceneName(record["fingerprint"].tobytes().hex(), record["key"].tobytes().hex(), int(record["variant"]))
